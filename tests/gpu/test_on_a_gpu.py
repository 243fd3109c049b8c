"""What is pruned, adapted and measured on a GPU comes to what it comes to on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models as tiny
from freelunch.core.artifact import Artifact
from freelunch.evaluation.likelihood import LikelihoodRequest
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.mask_store import load_pruned_block
from freelunch.study.windows import adapted_windows
from measuring import drift_of, identity_of, likelihoods_of, perplexity_of
from tiny_models import BLOCKS, Prepared

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
DEVICES = ("cpu", "cuda")
# A training that lowers its loss by less would compare rounding.
LEAST_FALL = 0.05


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return tiny.prepare(tmp_path_factory.mktemp("prepared"))


WEIGHTS: list[tuple[str, str, dict[str, Any]]] = [
    (score, pattern, {"statistics": statistics})
    for score in ("random", "magnitude", "wanda", "ria", "sparsegpt")
    for statistics in ("dense", "sparse")
    for pattern in ("u50", "2of4")
]
UNITS: list[tuple[str, str, dict[str, Any]]] = [("wanda_sp", "s50", {}), ("flap", "s50", {})]


@pytest.mark.parametrize(
    ("score", "pattern", "settings"), [*WEIGHTS, *UNITS, ("wanda", "u50", {"swaps": 3})], ids=str
)
def test_masks(
    prepared: Prepared, tmp_path: Path, score: str, pattern: str, settings: dict[str, Any]
) -> None:
    """Each device with its own dense pass; masks and weights have to agree."""
    found = []
    for device in DEVICES:
        model = StreamedModel(prepared.model.folder, device)
        sample = tiny.save_calibration(
            model.artifact, tmp_path / f"sample-{device}", tiny.random_tokens(6)
        )
        dense = tiny.capture(model, sample, tmp_path / f"dense-{device}")
        masks = tiny.prune(model, dense, tmp_path / f"masks-{device}", score, pattern, **settings)
        found.append([load_pruned_block(model, masks, index) for index in range(BLOCKS)])
    for (block, masks), (other, other_masks) in zip(*found, strict=True):
        for name, keep in masks.items():
            assert torch.equal(keep, other_masks[name].cpu()), name
        state = other.state_dict()
        for name, value in block.state_dict().items():
            torch.testing.assert_close(state[name].cpu(), value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"window": 1},
        {"window": "all"},
        {"window": "attention_mlp"},
        {"window": "matrix", "train_norms": False},
        {"window": 1, "inputs": "sparse", "targets": "local"},
        {"window": "matrix", "train_norms": False, "inputs": "sparse"},
        {"method": "least_squares"},
        {"window": 1, "precision": "bfloat16"},
    ],
    ids=str,
)
def test_windows(prepared: Prepared, tmp_path: Path, settings: dict[str, Any]) -> None:
    def made(device: str) -> Artifact:
        # Plain descent: AdamW's first steps are signs of gradients, which rounding may turn.
        plain = {} if "method" in settings else {"optimiser": "sgd"}
        on_device = tiny.prepare_on(device, prepared, tmp_path)
        return tiny.reconstruct(on_device, tmp_path / f"made-{device}", **plain, **settings)

    cpu, cuda = (adapted_windows([made(device)]) for device in DEVICES)
    assert cpu.keys() == cuda.keys()
    half = settings.get("precision") == "bfloat16"
    for name, facts in cpu.items():
        for loss in ("loss_before", "loss_after"):
            expected = pytest.approx(facts[loss], rel=0.1 if half else 1e-3)
            assert cuda[name][loss] == expected, (name, loss)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "full"},
        {"method": "norms", "gradient_checkpointing": True},
        {"method": "lora", "rank": 4},
        {"method": "masklora", "rank": 4, "micro_batch": 1},
        {"method": "scalelora", "rank": 4},
        {"method": "spp", "rank": 4},
        {"method": "full", "loss": "distillation"},
        {"method": "full", "precision": "bfloat16"},
        # Several micro-batches, so that some are read and written while one is computed.
        {"method": "full", "streamed": True, "batch": 4, "micro_batch": 1},
        {"method": "masklora", "rank": 4, "streamed": True, "batch": 4, "micro_batch": 1},
        {"method": "lora", "rank": 4, "streamed": True, "batch": 4, "micro_batch": 1},
        {"method": "full", "loss": "distillation", "streamed": True, "micro_batch": 1},
    ],
    ids=str,
)
def test_retraining(prepared: Prepared, tmp_path: Path, settings: dict[str, Any]) -> None:
    descent = {"optimiser": "sgd", "learning_rate": 0.5, "epochs": 8, "clip": None}
    found = []
    for device in DEVICES:
        there = tiny.prepare_on(device, prepared, tmp_path)
        made = tiny.retrain(there, tmp_path / f"made-{device}", **{**descent, **settings})
        found.append(tiny.retrained_facts(made))
    half = settings.get("precision") == "bfloat16"
    cpu, cuda = (facts["loss_before"] for facts in found)
    assert cuda == pytest.approx(cpu, rel=0.1 if half else 1e-3)
    cpu, cuda = (1 - facts["loss_after"] / facts["loss_before"] for facts in found)
    # Losses would agree if nothing were trained.
    assert cpu > LEAST_FALL and cuda == pytest.approx(cpu, rel=0.2 if half else 0.01)


def test_measurements(tmp_path: Path) -> None:
    one, other = (tiny.tiny_checkpoint(tmp_path / name).folder for name in ("one", "other"))
    requests = [LikelihoodRequest([1, 2, 3, 4], [token, 7]) for token in range(5, 9)]
    found = []
    for device in DEVICES:
        model = StreamedModel(one, device)
        losses = [
            perplexity_of(model, tiny.random_tokens(4), tmp_path, stride=stride)["window_losses"]
            for stride in (None, 3)
        ]
        likelihoods = likelihoods_of(model, requests, tmp_path).values
        drift = drift_of(StreamedModel(other, device), model, tiny.random_tokens(4), tmp_path)
        # Equal models: what is left is that both devices say so.
        for kind in ("accumulated", "local"):
            assert all(each["block"]["max"] < 1e-5 for each in drift["drift"][kind])
        numbers = [*losses[0], *losses[1], drift["loss"], *(value for value, _ in likelihoods)]
        found.append((numbers, [greedy for _, greedy in likelihoods], identity_of(model)))
    (cpu, *exact), (cuda, *other_exact) = found
    assert cuda == pytest.approx(cpu, rel=1e-4) and exact == other_exact
