"""Windows that are too large for a model's memory, as `window: auto` tells, and the claims."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from freelunch.audit.evidence import Evidence
from freelunch.audit.measures.measure import Absent
from freelunch.audit.verdicts import HOLDS, IN_PART
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
    "exact": {"method": "least_squares"},
}
WHOLE = ["matrix", "halves", "block", "two", "all"]
LARGE = ["matrix", "halves", "block", "auto"]
DIFFERENCE: dict[str, Any] = {"beside": 1, "windows": ["attention_mlp", 2, "all"]}
# The adaptations of each model, or of each model and criterion.
Models = Mapping[str, Sequence[str]]
OUT = "windows that do not fit into memory: "
LACKING = "windows that were not run: "


def evidence_of(models: Models, perplexity_of_a_matrix: float = 10.0) -> Evidence:
    """Return made-up evidence, where `auto` took a single block. Perplexities are 20 for pruned
    cells, and 10 for others that are adapted.
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
    levels = {"none": 20.0, "matrix": perplexity_of_a_matrix}
    values: dict[str, float | None] = {
        str(cell): 5.0 if cell.is_dense else levels.get(cell.adaptation, 10.0)
        for cell in study.cells
    }
    records = make_records(study, values)
    for cell, record in records.items():
        if cell.adaptation == "auto":
            record["adaptation"]["window"] = 1
    return Evidence(study, records, NOWHERE)


def large_one(measure: str, settings: Mapping[str, Any], models: Models) -> dict[str, bool]:
    """Return what a measure asks of the larger model with Wanda's masks: what it is about, or the
    reason why it is absent, and whether it is left out.
    """
    asked = asked_by(measure, settings, evidence_of(models))
    of_model = [each for each in asked if each.subject.startswith("tiny-2, wanda, ")]
    return {
        each.reason if isinstance(each, Absent) else each.about: isinstance(each, Absent)
        and each.left_out
        for each in of_model
    }


def test_a_window_that_does_not_fit_is_compared_on_the_models_that_it_fits() -> None:
    both: Models = {"tiny": WHOLE, "tiny-2": LARGE}
    found = large_one("window_difference", DIFFERENCE, both)
    assert found == {f"{OUT}2, all": True, "half blocks vs. one block": False}
    for measure in ("halves_missed", "halves_memory"):
        found = large_one(measure, {"windows": ["matrix", 1, "all"]}, both)
        assert len(found) == 2 and found[f"{OUT}all"]


@pytest.mark.parametrize(
    "models",
    [
        # Nobody said what fits.
        {"tiny": WHOLE, "tiny-2": ["matrix", "halves", "block", "two"]},
        # On other masks, it was run.
        {"tiny": WHOLE, "tiny-2": LARGE, "tiny-2 magnitude": WHOLE},
        # No other model has it, or only with another amount of text, which cannot answer for more.
        {"tiny-2": LARGE},
        {"tiny": LARGE, "tiny-2": LARGE},
        {
            "tiny": ["fewer_halves", "fewer_block", "fewer_two", "fewer_all"],
            "tiny-2": ["halves", "block", "auto"],
        },
    ],
)
def test_what_fits_or_may_fit_has_to_be_there(models: Models) -> None:
    found = large_one("window_difference", DIFFERENCE, models)
    missing = [reason for reason in found if reason.startswith(LACKING)]
    assert missing and not any(found[reason] for reason in missing)


@pytest.mark.parametrize(
    ("others", "left_out"),
    [
        ({"tiny": [*WHOLE, "exact"]}, True),
        # On other masks, it was solved, or nowhere.
        ({"tiny": [*WHOLE, "exact"], "tiny-2 magnitude": [*LARGE, "exact"]}, False),
        ({"tiny": WHOLE}, False),
    ],
)
def test_an_exact_solution_is_asked_of_the_models_that_have_it(
    others: Models, left_out: bool
) -> None:
    found = large_one(
        "matrix_penalty", {"exact": True, "windows": [1]}, {**others, "tiny-2": LARGE}
    )
    assert found == {f"{LACKING}matrix (closed form)": left_out}


def test_a_verdict_says_what_is_left_out() -> None:
    settings = {"exact": False, "windows": ["attention_mlp", 1, 2, "all"]}
    claim = make_claim("matrix_penalty", metric="perplexity", settings=settings)
    evidence = evidence_of({"tiny": WHOLE, "tiny-2": LARGE}, perplexity_of_a_matrix=14.0)
    ((part,),) = (each["parts"] for each in verdicts_on(evidence, [claim], regimes={}))
    assert part["verdict"].startswith(HOLDS) and not part["verdict"].startswith(IN_PART)
    assert part["reason"].endswith(f" Left out, {OUT}2, all: tiny-2, wanda, u50.")
