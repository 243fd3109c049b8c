"""Models retrained on a GPU come to what they come to on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from freelunch.model.checkpoint import block_shard
from tiny_models import Prepared, prepare, prepare_on, retrain

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("prepared"))


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
    ],
    ids=str,
)
def test_losses(prepared: Prepared, tmp_path: Path, settings: dict[str, Any]) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        # Plain descent: AdamW's first steps are signs of gradients, which rounding may turn.
        made = retrain(
            prepare_on(device, prepared, tmp_path),
            tmp_path / f"made-{device}",
            optimiser="sgd",
            **settings,
        )
        found[device] = made.files[block_shard(0)]["windows"]["model"]
    half = settings.get("precision") == "bfloat16"
    for loss in ("loss_before", "loss_after"):
        expected = pytest.approx(found["cpu"][loss], rel=0.1 if half else 1e-3)
        assert found["cuda"][loss] == expected, loss
