"""What jobs write, as the plan says and as the system counts it."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from freelunch.costs.cost import Cost
from freelunch.costs.pass_costs import capture_dense, prune_model
from freelunch.costs.retraining_costs import retrain
from freelunch.costs.shapes import Shapes
from freelunch.costs.window_costs import reconstruct
from freelunch.study.adaptations import Adaptation
from freelunch.study.retraining import read_adaptation
from random_models import WANDA, llama, take_step, write_model, written

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SEQUENCES, LENGTH = 8, 64
CONFIG = llama(hidden_size=256, intermediate_size=768, num_hidden_layers=6)
SHAPES = Shapes.of(CONFIG.to_dict(), "float32")
SAMPLE = SEQUENCES, LENGTH


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is captured and pruned."""
    path = tmp_path_factory.mktemp("model")
    write_model(path, CONFIG, torch.float32, tokens=SEQUENCES * LENGTH, length=LENGTH)
    check(path, "capture", capture_dense(SHAPES, *SAMPLE, gram=False, keep="all"))
    check(path, "prune", prune_model(SHAPES, *SAMPLE, WANDA))
    return path


def check(
    folder: Path,
    step: str,
    cost: Cost,
    settings: Adaptation | None = None,
    streamed: bool = False,
) -> None:
    """Check that a step writes what its cost says, but for manifests and vectors."""
    before = written()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        take_step(folder, step, settings and settings.as_json(), streamed, Path(scratch))
    found = written() - before
    assert 0.98 * cost.written_bytes <= found <= 1.02 * cost.written_bytes + 300_000, (
        f"{step} wrote {found:,} bytes, and {cost.written_bytes:,} were planned"
    )


@pytest.mark.parametrize(
    "entry",
    [
        {"window": 4, "inputs": "sparse"},
        {"window": "attention_mlp", "inputs": "sparse", "targets": "local"},
        {"window": "matrix", "train_norms": False},
        {
            **{"window": "matrix", "train_norms": False, "inputs": "sparse"},
            **{"targets": "behind_sparse", "lost_residual": True},
        },
    ],
    ids=str,
)
def test_a_reconstruction(folder: Path, entry: dict[str, Any]) -> None:
    settings = read_adaptation({"method": "reconstruction", **entry})
    check(folder, "reconstruct", reconstruct(SHAPES, *SAMPLE, settings), settings)


@pytest.mark.parametrize(
    ("entry", "streamed"),
    [
        ({"method": "full", "batch": 4, "epochs": 2, "train_norms": False}, False),
        ({"method": "full", "batch": 3, "optimiser": "sgd"}, True),
        ({"method": "masklora", "batch": 8, "micro_batch": 4}, True),
    ],
    ids=str,
)
def test_a_retraining(folder: Path, entry: dict[str, Any], streamed: bool) -> None:
    settings = read_adaptation(entry)
    cost = retrain(SHAPES, *SAMPLE, settings, streamed=streamed)
    check(folder, "retrain", cost, settings, streamed)
