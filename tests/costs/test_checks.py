"""What a plan refuses: cells that do not fit their model, and lengths beyond it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs import refusal, smoke, with_adaptations
from freelunch.core.errors import UserError
from freelunch.costs.checks import checked_plan
from repository import ROOT

MODEL = ROOT / "tests/fixtures/tiny-llama"
ADAPTATION = "adaptations.recon_block"


def problems(changes: dict[str, Any]) -> list[str]:
    """Return what is wrong with the smoke study after some changes, a line each."""
    with pytest.raises(UserError) as caught:
        checked_plan(smoke(changes))
    assert caught.value.where == "smoke.yaml"
    return caught.value.problem.splitlines()[1:]


def model_with(folder: Path, **keys: Any) -> str:
    """Return a copy of the tiny model whose config has these keys; None deletes one."""
    copy = shutil.copytree(MODEL, folder / "model")
    config = json.loads((copy / "config.json").read_text()) | keys
    config = {key: value for key, value in config.items() if value is not None}
    (copy / "config.json").write_text(json.dumps(config))
    return str(copy)


# --- Cells


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        # Of two key heads of 8, a matrix has 16 rows.
        (
            {"method": "masklora", "rank": 17},
            ".rank: found 17; expected at most 16",
        ),
        ({"method": "masklora", "train_head": True}, ".train_head: the head of this model is tied"),
        ({"method": "full", "train_head": True}, None),
        ({"method": "biases"}, ": it trains biases alone"),
        ({"method": "reconstruction", "trains": "biases"}, ": it trains biases alone"),
        ({"method": "biases_norms"}, None),
        ({"method": "full", "train_norms": False}, None),
        (
            {"method": "reconstruction", "window": 5},
            ": window: the window is larger",
        ),
        (
            {"method": "reconstruction", "window": "auto", "memory_gb": 0.1},
            ": memory_gb: no window fits into the memory budget",
        ),
        ({"method": "full", "memory_gb": 0.1}, ": memory_gb: this retraining does not fit"),
        ({"method": "reconstruction", "model_dropout": True}, ": llama: the blocks of this model"),
    ],
)
def test_an_adaptation_that_a_model_cannot_have(entry: dict[str, Any], problem: str | None) -> None:
    if problem is None:
        checked_plan(smoke({ADAPTATION: entry}))
        return
    assert f"  tiny/wanda-u50: {ADAPTATION}{problem}" in "\n".join(problems({ADAPTATION: entry}))


def test_a_pattern_that_does_not_divide_a_matrix() -> None:
    found = problems({"study.grids.0.patterns": ["7of9"]})
    assert "  tiny/wanda-7of9: a linear layer has" in found[-1] and "multiple of 9" in found[-1]


def test_gradients_vanish_in_float16(tmp_path: Path) -> None:
    path = {"models.tiny.path": model_with(tmp_path, dtype="float16")}
    lines = problems(path)
    assert len(lines) == 2
    for pruning, line in zip(("magnitude-u50", "wanda-u50"), lines, strict=True):
        assert f"  tiny/{pruning}: models.tiny.dtype: the checkpoint's own is float16" in line
        assert "expected bfloat16 or float32" in line
    for changes in (
        {"models.tiny.dtype": "bfloat16"},
        {"study.grids.0.adaptations": ["none"]},
        {ADAPTATION: {"method": "least_squares"}},
    ):
        checked_plan(smoke(path | changes))


# --- Lengths and numbers


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"study.calibration.length": 257},
            "study.calibration.length: found 257; expected at most 256, since the model tiny",
        ),
        (
            {"study.evaluation.perplexity.length": 257},
            "study.evaluation.perplexity.length: found 257; expected at most 256",
        ),
        ({}, None),
        ({"study.calibration.length": 256, "study.evaluation.perplexity.length": 256}, None),
        ({"study.calibration.length": 257, "models.tiny.max_length": 8}, None),
    ],
)
def test_a_length_beyond_a_model(changes: dict[str, Any], problem: str | None) -> None:
    if problem is None:
        checked_plan(smoke(changes))
        return
    assert any(line.startswith(f"  {problem}") for line in problems(changes))


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"learning_rate": 10.5}, "learning_rate: found 10.5; expected at most 10"),
        ({"learning_rate": [0.1, 1e9]}, "learning_rate.1: found 1000000000.0; expected at most 10"),
        ({"epochs": 10**6}, "epochs: found 1000000; expected at most 10000"),
    ],
)
def test_a_rate_or_a_number_of_epochs_beyond_any(entry: dict[str, Any], found: str) -> None:
    assert found in refusal(with_adaptations(odd={"method": "full", **entry}))


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"learning_rate": ["auto", 0.1]}, 'learning_rate.0: found "auto"; expected a number'),
        ({"learning_rate": "best"}, 'learning_rate: found "best"; expected'),
        ({"learning_rate": "auto", "epochs": [1, 2]}, "epochs: found a list"),
        ({"learning_rate": "auto", "samples": 4}, "learning_rate: a part of 4 sequences"),
        ({"method": "least_squares", "learning_rate": "auto"}, "learning_rate: unknown key"),
    ],
)
def test_a_rate_that_cannot_be_found(entry: dict[str, Any], found: str) -> None:
    assert found in refusal(with_adaptations(odd={"method": "full", **entry}))
