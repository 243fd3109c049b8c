"""Windows adapted on a GPU come to what they come to on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_models import Prepared, prepare, prepare_on, reconstruct

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
def test_losses(prepared: Prepared, tmp_path: Path, settings: dict[str, Any]) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        # Plain descent: AdamW's first steps are signs of gradients, which rounding may turn.
        plain = {} if "method" in settings else {"optimiser": "sgd"}
        on_device = prepare_on(device, prepared, tmp_path)
        made = reconstruct(on_device, tmp_path / f"made-{device}", **plain, **settings)
        windows = [entry["windows"] for _, entry in sorted(made.files.items())]
        found[device] = {name: facts for each in windows for name, facts in each.items()}
    assert found["cpu"].keys() == found["cuda"].keys()
    half = settings.get("precision") == "bfloat16"
    for name, facts in found["cpu"].items():
        for loss in ("loss_before", "loss_after"):
            expected = pytest.approx(facts[loss], rel=0.1 if half else 1e-3)
            assert found["cuda"][name][loss] == expected, (name, loss)
