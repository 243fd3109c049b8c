"""Pruning on a GPU chooses what it chooses on the CPU."""

from pathlib import Path

import pytest
import torch

from freelunch.model.checkpoint import StreamedModel
from freelunch.model.mask_store import load_pruned_block
from tiny_models import BLOCKS, Prepared, capture, prepare, prune, random_tokens, save_calibration

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.mark.parametrize("pattern", ["u50", "2of4"])
@pytest.mark.parametrize("statistics", ["dense", "sparse"])
@pytest.mark.parametrize("score", ["random", "magnitude", "wanda", "ria", "sparsegpt"])
def test_masks_of_weights(
    prepared: Prepared, tmp_path: Path, score: str, statistics: str, pattern: str
) -> None:
    compare(prepared, tmp_path, score, pattern, statistics=statistics)


def test_masks_refined_by_swaps(prepared: Prepared, tmp_path: Path) -> None:
    compare(prepared, tmp_path, "wanda", "u50", swaps=3)


@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
def test_masks_of_units(prepared: Prepared, tmp_path: Path, score: str) -> None:
    compare(prepared, tmp_path, score, "s50")


def compare(prepared: Prepared, base: Path, score: str, pattern: str, **settings: object) -> None:
    """Prune on both devices, each with its own dense pass; masks and weights have to agree."""
    found = {}
    for device in ("cpu", "cuda"):
        model = StreamedModel(prepared.model.folder, device)
        sample = save_calibration(model.artifact, base / f"sample-{device}", random_tokens(6))
        dense = capture(model, sample, base / f"dense-{device}")
        masks = prune(model, dense, base / f"masks-{device}", score, pattern, **settings)
        found[device] = [load_pruned_block(model, masks.folder, index) for index in range(BLOCKS)]
    for (block, masks), (other, other_masks) in zip(found["cpu"], found["cuda"], strict=True):
        for name, keep in masks.items():
            assert torch.equal(keep, other_masks[name].cpu()), name
        state = other.state_dict()
        for name, value in block.state_dict().items():
            torch.testing.assert_close(state[name].cpu(), value, rtol=1e-4, atol=1e-5)
