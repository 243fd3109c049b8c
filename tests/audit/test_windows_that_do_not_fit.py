"""Windows that are too large for a model's memory, as `window: auto` tells, and the claims."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from freelunch.audit.evidence import Evidence
from freelunch.audit.measures.measure import Absent
from freelunch.audit.verdicts import HOLDS, IN_PART, UNTESTED
from freelunch.study.study import Study
from measures_for_tests import BLOCK, NOWHERE, WINDOWS, make_claim, verdicts_on
from measures_for_tests import asked_of as asked_by
from records_for_tests import make_records, make_study

AUTO = {**BLOCK, "window": "auto", "memory_gb": 72}
FEWER = {"samples": 16}
ENTRIES: dict[str, dict[str, Any]] = {
    "block": BLOCK,
    **{name: {**BLOCK, "window": window} for name, window in WINDOWS.items()},
    "fewer_block": {**BLOCK, **FEWER},
    **{f"fewer_{name}": {**BLOCK, **FEWER, "window": each} for name, each in WINDOWS.items()},
    "auto": AUTO,
    "small_auto": {**AUTO, "memory_gb": 1},
    "wide_auto": {**AUTO, "batch": 4},
    "exact": {"method": "least_squares"},
    "fewer_auto": {**AUTO, **FEWER},
}
WHOLE = ["matrix", "halves", "block", "two", "all"]
LARGE = ["matrix", "halves", "block", "auto"]
DIFFERENCE: dict[str, Any] = {"beside": 1, "windows": ["attention_mlp", 2, "all"]}
BESIDE_ONE = [f"{each} vs. one block" for each in ("half blocks", "2 blocks", "whole model")]

# The adaptations of each model, or of each model and criterion.
Models = Mapping[str, Sequence[str]]


def evidence_of(
    models: Models,
    autos: Mapping[str, int | str],
    unfinished: Sequence[str] = (),
    perplexities: Mapping[str, float] | None = None,
) -> Evidence:
    """Return made-up evidence.

    Args:
        models: The adaptations of each model, or of each model and criterion.
        autos: The window that each `auto` took.
        unfinished: Cells without a record, which the study is restricted to do without, as `make
            interim` restricts it.
        perplexities: Perplexities of cells; 10 for others that are adapted, and 20 for pruned ones.
    """
    config = make_study(ENTRIES, criteria=["wanda"]).as_json()
    (grid,) = config["study"]["grids"]
    config["study"]["grids"] = [
        {
            **grid,
            "models": [place.partition(" ")[0]],
            "criteria": [place.partition(" ")[2] or "wanda"],
            "adaptations": ["none", *names],
        }
        for place, names in models.items()
    ]
    study = Study.check(config, "made-up.yaml")
    values: dict[str, float | None] = {
        str(cell): 5.0 if cell.is_dense else 20.0 if cell.adaptation == "none" else 10.0
        for cell in study.cells
    }
    records = make_records(study, values | dict(perplexities or {}))
    for cell, record in records.items():
        if cell.adaptation in autos:
            record["adaptation"]["window"] = autos[cell.adaptation]
    kept = {cell: record for cell, record in records.items() if str(cell) not in unfinished}
    finished = frozenset(kept) if unfinished else None
    return Evidence(replace(study, finished=finished), kept, NOWHERE)


def asked_of(
    measure: str, settings: Mapping[str, Any], evidence: Evidence
) -> dict[str, dict[str, bool]]:
    """Return what a measure asks of each model and criterion: what it is about, or the reason why
    it is absent, and whether it is left out.
    """
    found: dict[str, dict[str, bool]] = {}
    for each in asked_by(measure, settings, evidence):
        model, criterion, *_ = each.subject.split(", ")
        here = found.setdefault(model if criterion == "wanda" else f"{model} {criterion}", {})
        if isinstance(each, Absent):
            here[each.reason] = each.left_out
        else:
            here[each.about] = False
    return found


def audited(part: Mapping[str, Any], evidence: Evidence) -> dict[str, Any]:
    """Return the only part of a claim about windows."""
    claim = make_claim(**part)
    ((found,),) = (each["parts"] for each in verdicts_on(evidence, [claim], regimes={}))
    return dict(found)


OUT = "windows that do not fit into memory: "
LACKING = "windows that were not run: "


def test_a_window_that_does_not_fit_is_compared_on_the_models_that_it_fits() -> None:
    evidence = evidence_of({"tiny": WHOLE, "tiny-2": LARGE}, {"auto": 1})
    found = asked_of("window_difference", DIFFERENCE, evidence)
    assert found["tiny"] == dict.fromkeys(BESIDE_ONE, False)
    assert found["tiny-2"] == {f"{OUT}2, all": True, BESIDE_ONE[0]: False}
    # Alone, the large model has these windows to answer for.
    alone = asked_of("window_difference", DIFFERENCE, evidence_of({"tiny-2": LARGE}, {"auto": 1}))
    assert alone == {"tiny-2": {f"{LACKING}2, all": False}}


@pytest.mark.parametrize(
    ("models", "autos"),
    [
        # Nobody said what fits.
        ({"tiny": WHOLE, "tiny-2": ["matrix", "halves", "block", "two"]}, {}),
        # It fits.
        ({"tiny": WHOLE, "tiny-2": ["halves", "two", "wide_auto"]}, {"wide_auto": 1}),
        # On other masks, it was run; or another `auto` took it, whatever their order.
        ({"tiny": WHOLE, "tiny-2": LARGE, "tiny-2 magnitude": WHOLE}, {"auto": 1}),
        ({"tiny": WHOLE, "tiny-2": [*LARGE, "small_auto"]}, {"auto": 3, "small_auto": 1}),
        (
            {"tiny": WHOLE, "tiny-2": ["halves", "block", "small_auto"], "tiny-2 magnitude": LARGE},
            {"auto": 3, "small_auto": 1},
        ),
        # Other settings may take more memory.
        ({"tiny": WHOLE, "tiny-2": ["halves", "block", "wide_auto"]}, {"wide_auto": 1}),
        # No other model has it, or only with another amount of text, which cannot answer for more.
        ({"tiny": LARGE, "tiny-2": LARGE}, {"auto": 1}),
        (
            {"tiny-2": [*WHOLE, "fewer_block", "fewer_halves", "fewer_auto"]},
            {"fewer_auto": "matrix"},
        ),
        (
            {
                "tiny": ["fewer_halves", "fewer_block", "fewer_two", "fewer_all"],
                "tiny-2": ["halves", "block", "auto"],
            },
            {"auto": 1},
        ),
    ],
)
def test_what_fits_or_may_fit_has_to_be_there(
    models: Models, autos: Mapping[str, int | str]
) -> None:
    found = asked_of("window_difference", DIFFERENCE, evidence_of(models, autos))
    missing = [reason for reason in found["tiny-2"] if reason.startswith(LACKING[:-2])]
    assert missing and not any(found["tiny-2"][reason] for reason in missing)


def test_a_window_that_is_still_to_come_is_not_left_out() -> None:
    cells = [f"tiny-2/wanda-u50/{name}/seed0" for name in ("two", "all")]
    evidence = evidence_of({"tiny": WHOLE, "tiny-2": [*WHOLE, "auto"]}, {"auto": 1}, cells)
    found = asked_of("window_difference", DIFFERENCE, evidence)
    assert found["tiny-2"] == {f"{LACKING}2, all": False}


@pytest.mark.parametrize("measure", ["halves_missed", "halves_memory"])
def test_halves_are_compared_with_the_windows_that_fit(measure: str) -> None:
    settings = {"windows": ["matrix", 1, "all"]}
    evidence = evidence_of({"tiny": WHOLE, "tiny-2": LARGE}, {"auto": 1})
    found = asked_of(measure, settings, evidence)
    assert len(found["tiny-2"]) == 2 and found["tiny-2"].pop(f"{OUT}all") is True
    assert {*found["tiny-2"]} == {*found["tiny"]}


def test_an_exact_solution_is_asked_of_the_models_that_have_it() -> None:
    settings = {"exact": True, "windows": [1]}
    both = evidence_of({"tiny": [*WHOLE, "exact"], "tiny-2": LARGE}, {"auto": 1})
    reason = f"{LACKING}matrix (solved exactly)"
    assert asked_of("matrix_penalty", settings, both)["tiny-2"] == {reason: True}
    # If the study asks for it, on these masks or on others, it is missing until it is there.
    adapted = {"tiny": [*WHOLE, "exact"], "tiny-2": [*LARGE, "exact"]}
    coming = evidence_of(adapted, {"auto": 1}, ["tiny-2/wanda-u50/exact/seed0"])
    assert asked_of("matrix_penalty", settings, coming)["tiny-2"] == {reason: False}
    adapted = {"tiny": [*WHOLE, "exact"], "tiny-2": LARGE, "tiny-2 magnitude": [*LARGE, "exact"]}
    others = evidence_of(adapted, {"auto": 1})
    assert asked_of("matrix_penalty", settings, others)["tiny-2"] == {reason: False}
    none = evidence_of({"tiny": WHOLE, "tiny-2": LARGE}, {"auto": 1})
    assert asked_of("matrix_penalty", settings, none)["tiny-2"] == {reason: False}


# --- Verdicts

PENALTY = {
    "measure": "matrix_penalty",
    "metric": "perplexity",
    "settings": {"exact": False, "windows": ["attention_mlp", 1, 2, "all"]},
    "holds": {"above": 0},
}


def test_a_verdict_says_what_is_left_out() -> None:
    worse = {f"{model}/wanda-u50/matrix/seed0": 14.0 for model in ("tiny", "tiny-2")}
    models = {"tiny": WHOLE, "tiny-2": LARGE}
    part = audited(PENALTY, evidence_of(models, {"auto": 1}, perplexities=worse))
    assert part["verdict"].startswith(HOLDS) and not part["verdict"].startswith(IN_PART)
    assert part["reason"].endswith(f" Left out, {OUT}2, all: tiny-2, wanda, u50.")
    # If nothing else is there, it is missing.
    all_alone = {**PENALTY, "settings": {"exact": False, "windows": ["all"]}}
    ended = evidence_of(models, {"auto": 1}, ["tiny/wanda-u50/matrix/seed0"])
    part = audited(all_alone, ended)
    assert part["verdict"] == UNTESTED and "matrix" in part["reason"]
