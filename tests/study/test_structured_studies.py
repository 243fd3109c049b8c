"""Which studies of heads and channels are refused, and where."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from freelunch.core.artifact import MANIFEST
from freelunch.core.errors import UserError
from freelunch.costs.checks import checked_plan
from freelunch.costs.plan import Plan
from freelunch.study import families
from freelunch.study.study import Study
from slow_units import SEQUENCES, prune_units
from tiny_models import Prepared, prepare, prune


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("llama"), sequences=SEQUENCES)


def config(
    criteria: dict[str, dict[str, Any]],
    patterns: Sequence[str],
    architecture: dict[str, Any] | None = None,
) -> dict[str, Any]:
    wheel = {"source": "wheel", "package": "p", "version": "1", "sha256": "0" * 64, "member": "m"}
    model = {**wheel, "architecture": architecture} if architecture else wheel
    return {
        "models": {"tiny": model},
        "texts": {"text": {**wheel, "format": "lines"}},
        "criteria": criteria,
        "adaptations": {},
        "study": {
            "name": "tests",
            "calibration": {"text": "text", "samples": 4, "length": 8},
            "evaluation": {"perplexity": {"text": "text", "length": 8}},
            "grids": [
                {
                    "models": ["tiny"],
                    "criteria": ["magnitude"],
                    "patterns": ["u50"],
                    "adaptations": ["none"],
                },
                {
                    "models": ["tiny"],
                    "criteria": [name for name in criteria if name != "magnitude"],
                    "patterns": list(patterns),
                    "adaptations": ["none"],
                },
            ],
        },
    }


MAGNITUDE = {"magnitude": {"score": "magnitude"}}
SHAPES = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}


@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
def test_the_scope_of_a_model_needs_dense_statistics(score: str) -> None:
    def check(scope: str, statistics: str) -> Study:
        entry = {"score": score, "scope": scope, "statistics": statistics}
        return Study.check(config({**MAGNITUDE, "units": entry}, ["s20"]), "config.yaml")

    with pytest.raises(UserError, match="1 problem") as error:
        check("model", "sparse")
    assert "criteria.units" in str(error.value)
    assert "expected statistics: dense" in str(error.value)
    check("model", "dense")
    check("block", "sparse")


def test_the_default_scope_of_flap_needs_dense_statistics() -> None:
    entry = {"score": "flap", "statistics": "sparse"}
    with pytest.raises(UserError, match="expected statistics: dense"):
        Study.check(config({**MAGNITUDE, "units": entry}, ["s20"]), "config.yaml")


@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
def test_units_and_weights_do_not_share_a_grid(score: str) -> None:
    criteria = {**MAGNITUDE, "units": {"score": score}, "weights": {"score": "wanda"}}
    with pytest.raises(UserError, match="2 problems") as error:
        Study.check(config(criteria, ["u50", "s20"]), "config.yaml")
    message = str(error.value)
    assert "study.grids.1: 'units' prunes whole units: it takes sNN, not u50" in message
    assert "study.grids.1: 'weights' prunes single weights: it takes uNN or NofM, not s20" in (
        message
    )
    assert "grids.0" not in message
    criteria.pop("weights")
    assert len(Study.check(config(criteria, ["s20"]), "config.yaml").cells) == 3


@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
def test_a_family_that_is_not_in_the_table(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: str
) -> None:
    before = llama.masks
    monkeypatch.delitem(families.FAMILIES, "llama")
    with pytest.raises(UserError, match="parts of this family's blocks are not known") as error:
        prune_units(llama, tmp_path / "units", score, bias_compensation=False)
    assert "families.py" in str(error.value)
    assert str(error.value).startswith("llama: ")
    assert not (tmp_path / "units" / MANIFEST).exists()
    weights = prune(llama.model, llama.dense, tmp_path / "weights", "wanda", "u50")
    assert weights.files == before.files


def plan(
    criterion: dict[str, Any],
    pattern: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    **shapes: Any,
) -> Plan:
    """Plan a study of a model that only its `architecture` tells of."""
    monkeypatch.chdir(folder)
    criteria = {**MAGNITUDE, "other": criterion}
    return checked_plan(
        Study.check(config(criteria, [pattern], {**SHAPES, **shapes}), "config.yaml")
    )


def test_the_plan_refuses_biases_that_a_family_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flap = {"score": "flap"}
    with pytest.raises(UserError, match="1 problem in the grids") as error:
        plan(flap, "s20", tmp_path, monkeypatch, model_type="mistral")
    message = str(error.value)
    assert "tiny/other-s20" in message
    assert "mistral" in message
    assert "bias_compensation: false" in message
    assert not list(tmp_path.iterdir())
    plan({**flap, "bias_compensation": False}, "s20", tmp_path, monkeypatch, model_type="mistral")
    plan(flap, "s20", tmp_path, monkeypatch, model_type="llama")
    plan({"score": "wanda_sp"}, "s50", tmp_path, monkeypatch, model_type="mistral")


def test_the_plan_refuses_units_of_an_unknown_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="parts of this family's blocks are not known") as error:
        plan({"score": "wanda_sp"}, "s50", tmp_path, monkeypatch, model_type="unknown")
    assert "tiny/other-s50: unknown" in str(error.value)
    plan({"score": "wanda"}, "u50", tmp_path, monkeypatch, model_type="unknown")


def test_the_plan_waits_for_a_family_that_is_not_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`model_type` may be left out of an `architecture`; the model itself will say."""
    plan({"score": "wanda_sp"}, "s50", tmp_path, monkeypatch)


def test_the_plan_refuses_a_share_that_is_less_than_one_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the attention would stay whole, and nobody would be told."""
    entry = {"score": "wanda_sp", "attention_unit": "head"}
    with pytest.raises(UserError, match="1 problem in the grids") as error:
        plan({"score": "wanda_sp"}, "s20", tmp_path, monkeypatch)
    message = str(error.value)
    said = "tiny/other-s20: s20 of 2 key heads of a block rounds down to none; "
    # Of four heads one would be a quarter.
    assert said + "expected at least s50, or scope: model" in message
    with pytest.raises(UserError) as error:
        plan({"score": "wanda_sp"}, "s30", tmp_path, monkeypatch)
    assert "expected at least s50, or attention_unit: head, or scope: model" in str(error.value)
    with pytest.raises(UserError) as error:
        plan(entry, "s20", tmp_path, monkeypatch)
    said = "s20 of 4 heads of a block rounds down to none; expected at least s25, or scope: model"
    assert str(error.value).endswith(said)
    with pytest.raises(UserError) as error:
        plan({**entry, "statistics": "sparse"}, "s20", tmp_path, monkeypatch)
    assert str(error.value).endswith(
        "s20 of 4 heads of a block rounds down to none; expected at least s25"
    )
    with pytest.raises(UserError) as error:
        plan({"score": "wanda_sp"}, "s50", tmp_path, monkeypatch, num_key_value_heads=1)
    said = "s50 of 1 key heads of a block rounds down to none; "
    assert str(error.value).endswith(said + "expected attention_unit: head, or scope: model")
    plan({"score": "wanda_sp"}, "s50", tmp_path, monkeypatch)
    plan(entry, "s25", tmp_path, monkeypatch)
    plan({"score": "wanda_sp", "scope": "model"}, "s20", tmp_path, monkeypatch)


def test_the_plan_refuses_a_share_that_is_less_than_one_weight_of_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="2 problems in the grids") as error:
        plan({"score": "wanda"}, "u03", tmp_path, monkeypatch)
    message = str(error.value)
    said = "u03 of 16 weights of a row rounds down to none; expected at least u07, or scope: matrix"
    assert f"tiny/other-u03: {said}" in message
    with pytest.raises(UserError, match="1 problem in the grids"):
        plan({"score": "wanda"}, "1of32", tmp_path, monkeypatch, intermediate_size=32)
    plan({"score": "wanda"}, "u07", tmp_path, monkeypatch)
    plan({"score": "wanda", "scope": "matrix"}, "u03", tmp_path, monkeypatch)


def test_the_plan_refuses_a_pattern_that_does_not_divide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = {"model_type": "llama", "hidden_size": 18, "head_dim": 4}
    with pytest.raises(UserError, match="1 problem in the grids") as error:
        plan({"score": "wanda"}, "2of4", tmp_path, monkeypatch, **shapes)
    message = str(error.value)
    assert "tiny/other-2of4: a linear layer has 18 inputs; expected a multiple of 4" in message
    plan({"score": "wanda"}, "u50", tmp_path, monkeypatch, **shapes)
    plan({"score": "wanda"}, "2of4", tmp_path, monkeypatch, model_type="llama")
