"""Models retrained on a GPU come to what they come to on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_models import Prepared, prepare, prepare_on, retrain, retrained_facts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


# A training that lowers its loss by less would compare rounding.
LEAST_FALL = 0.05


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
        # Several micro-batches, so that some are read and written while one is computed.
        {"method": "full", "streamed": True, "batch": 4, "micro_batch": 1},
        {"method": "masklora", "rank": 4, "streamed": True, "batch": 4, "micro_batch": 1},
        {"method": "lora", "rank": 4, "streamed": True, "batch": 4, "micro_batch": 1},
        {"method": "full", "loss": "distillation", "streamed": True, "micro_batch": 1},
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
            **{"optimiser": "sgd", "learning_rate": 0.5, "epochs": 8, "clip": None, **settings},
        )
        found[device] = retrained_facts(made)
    half = settings.get("precision") == "bfloat16"
    before = pytest.approx(found["cpu"]["loss_before"], rel=0.1 if half else 1e-3)
    assert found["cuda"]["loss_before"] == before
    falls = {device: 1 - it["loss_after"] / it["loss_before"] for device, it in found.items()}
    # Losses would agree if nothing were trained.
    assert falls["cpu"] > LEAST_FALL
    assert falls["cuda"] == pytest.approx(falls["cpu"], rel=0.2 if half else 0.01)
