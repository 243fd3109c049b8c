"""Which studies of heads and channels, and of shares that are less than one, are refused."""

from pathlib import Path
from typing import Any

import pytest

from configs import changed, config, problems
from freelunch.core.artifact import MANIFEST
from freelunch.costs.checks import checked_plan
from freelunch.study import families
from freelunch.study.study import Study
from refusals import refused
from slow_units import SEQUENCES, prune_units
from tiny_models import Prepared, prepare, prune

SHAPES = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}
GRID = config()["study"]["grids"][0]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("llama"), sequences=SEQUENCES)


def study_of(criterion: dict[str, Any], pattern: str, **shapes: Any) -> dict[str, Any]:
    """Return a study that prunes by a criterion, beside a grid of single weights."""
    other = {**GRID, "criteria": ["other"], "patterns": [pattern], "adaptations": ["none"]}
    changes = {
        "criteria.other": criterion,
        "study.grids": [{**GRID, "adaptations": ["none"]}, other],
        "models.one.architecture": {**SHAPES, **shapes},
    }
    return changed(changes)


def plan(criterion: dict[str, Any], pattern: str, **shapes: Any) -> None:
    """Plan the study, of whose model only its `architecture` tells."""
    checked_plan(Study.check(study_of(criterion, pattern, **shapes), "config.yaml"))


@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
def test_the_scope_of_a_model_needs_dense_statistics(score: str) -> None:
    entry = {"score": score, "scope": "model", "statistics": "sparse"}
    (line,) = problems(study_of(entry, "s20"))
    assert line.startswith("criteria.other: scope") and line.endswith("statistics: dense")
    for allowed in ({"scope": "block"}, {"statistics": "dense"}):
        Study.check(study_of({**entry, **allowed}, "s20"), "config.yaml")


def test_units_and_weights_do_not_share_a_grid() -> None:
    for score in ("wanda_sp", "flap"):
        (line,) = problems(study_of({"score": score}, "u50"))
        assert line.startswith("study.grids.1: 'other' prunes whole units: it takes sNN, not u50")
    (line,) = problems(study_of({"score": "wanda"}, "s20"))
    assert line.startswith("study.grids.1: 'other' prunes single weights: it takes uNN or NofM")


@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
def test_a_family_that_is_not_in_the_table(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: str
) -> None:
    monkeypatch.delitem(families.FAMILIES, "llama")
    with refused(where="llama", todo="families.py"):
        prune_units(llama, tmp_path / "units", score, bias_compensation=False)
    assert not (tmp_path / "units" / MANIFEST).exists()
    weights = prune(llama.model, llama.dense, tmp_path / "weights", "wanda", "u50")
    assert weights.files == llama.masks.files


UNITS, HEADS = {"score": "wanda_sp"}, {"score": "wanda_sp", "attention_unit": "head"}
FLAP, WANDA = {"score": "flap"}, {"score": "wanda"}


@pytest.mark.parametrize(
    ("criterion", "pattern", "shapes", "problem"),
    [
        # Biases that a family does not have.
        (FLAP, "s20", {"model_type": "mistral"}, "bias_compensation: false"),
        (UNITS, "s50", {"model_type": "unknown"}, "unknown: the parts of this family's blocks"),
        # The attention would stay whole: of four heads one would be a quarter.
        (
            UNITS,
            "s20",
            {},
            "s20 of 2 key heads of a block rounds down to none; expected at",
        ),
        (UNITS, "s30", {}, "expected at least s50, or attention_unit: head, or scope: model"),
        (HEADS, "s20", {}, "s20 of 4 heads of a block rounds down to none; expected at least s25"),
        ({**HEADS, "statistics": "sparse"}, "s20", {}, "down to none; expected at least s25"),
        (UNITS, "s50", {"num_key_value_heads": 1}, "attention_unit: head, or scope: model"),
        # Less than one weight of a row.
        (WANDA, "u03", {}, "u03 of 16 weights of a row rounds down to none; expected at least u07"),
        # A pattern that does not divide.
        (
            WANDA,
            "2of4",
            {"model_type": "llama", "hidden_size": 18, "head_dim": 4},
            "a linear layer has 18 inputs; expected a multiple of 4",
        ),
        (WANDA, "1of32", {"intermediate_size": 32}, "a linear layer has 16 inputs"),
    ],
)
def test_the_plan_refuses(
    criterion: dict[str, Any], pattern: str, shapes: dict[str, Any], problem: str
) -> None:
    with refused() as caught:
        plan(criterion, pattern, **shapes)
    assert f"one/other-{pattern}: " in str(caught.value) and problem in str(caught.value)


@pytest.mark.parametrize(
    ("criterion", "pattern", "shapes"),
    [
        ({**FLAP, "bias_compensation": False}, "s20", {"model_type": "mistral"}),
        (FLAP, "s20", {"model_type": "llama"}),
        (UNITS, "s50", {"model_type": "mistral"}),
        (WANDA, "u50", {"model_type": "unknown"}),
        # `model_type` may be left out of an `architecture`; the model itself will say.
        (UNITS, "s50", {}),
        (HEADS, "s25", {}),
        ({**UNITS, "scope": "model"}, "s20", {}),
        (WANDA, "u07", {}),
        ({**WANDA, "scope": "matrix"}, "u03", {}),
        (WANDA, "2of4", {"model_type": "llama"}),
    ],
)
def test_the_plan_takes(criterion: dict[str, Any], pattern: str, shapes: dict[str, Any]) -> None:
    plan(criterion, pattern, **shapes)
