"""What is measured on a GPU is what is measured on the CPU."""

from pathlib import Path

import pytest
import torch

from freelunch.evaluation.likelihood import LikelihoodRequest
from freelunch.model.checkpoint import StreamedModel
from measuring import drift_of, identity_of, likelihoods_of, perplexity_of
from tiny_models import random_tokens, tiny_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
DEVICES = ("cpu", "cuda")


@pytest.mark.parametrize("stride", [None, 3])
def test_perplexity(tmp_path: Path, stride: int | None) -> None:
    folder = tiny_checkpoint(tmp_path / "model").folder
    cpu, cuda = (
        perplexity_of(StreamedModel(folder, device), random_tokens(4), tmp_path, stride=stride)
        for device in DEVICES
    )
    assert cuda["window_losses"] == pytest.approx(cpu["window_losses"], rel=1e-4)


def test_identity(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model").folder
    cpu, cuda = (identity_of(StreamedModel(folder, device)) for device in DEVICES)
    assert cuda == cpu


def test_drift(tmp_path: Path) -> None:
    one, other = (tiny_checkpoint(tmp_path / name).folder for name in ("one", "other"))
    found = []
    for device in DEVICES:
        models = (StreamedModel(folder, device) for folder in (one, other))
        found.append(drift_of(*models, random_tokens(4), tmp_path))
    cpu, cuda = found
    assert cuda["loss"] == pytest.approx(cpu["loss"], rel=1e-4)
    # Equal models: what is left is that both devices say so.
    for kind in ("accumulated", "local"):
        for block in cuda["drift"][kind]:
            assert block["block"]["max"] == pytest.approx(0, abs=1e-5)
    assert all(speed > 0 for speed in cuda["tokens_per_second"].values())


def test_likelihoods_of(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model").folder
    requests = [LikelihoodRequest([1, 2, 3, 4], [token, 7]) for token in range(5, 9)]
    cpu, cuda = (
        likelihoods_of(StreamedModel(folder, device), requests, tmp_path) for device in DEVICES
    )
    for (mine, greedy), (theirs, also) in zip(cpu.values, cuda.values, strict=True):
        assert theirs == pytest.approx(mine, rel=1e-4)
        assert greedy == also
