"""Each measure on studies with several budgets of the reconstruction: which comparisons it asks."""

from collections.abc import Mapping, Sequence
from typing import Any

from freelunch.audit.evidence import Evidence
from freelunch.audit.measures import MEASURES
from freelunch.audit.measures.measure import Absent, Measurement
from measures_for_tests import BLOCK, ENTRIES, NOWHERE
from records_for_tests import make_records, make_study

THREE = {"budget": {"times": 3, "of": "recon_block"}}
LARGER = {
    **ENTRIES,
    "recon_block": BLOCK,
    "block_3": {**BLOCK, **THREE},
    "all_3": {**BLOCK, "window": "all", **THREE},
    "matrix_3": {**BLOCK, "window": "matrix", **THREE},
}


def asked_of(
    measure: str,
    settings: dict[str, Any],
    perplexities: Mapping[str, float],
    left_out: Sequence[str] = (),
    **grid: Any,
) -> list[Measurement | Absent]:
    """Return what a measure asks of a study with several budgets of the reconstruction.

    Args:
        measure: Its name.
        settings: Its settings.
        perplexities: By adaptation; those of magnitude's masks are twice as high.
        left_out: Cells that were not run.
        grid: Entries of the study's grid.
    """
    study = make_study(LARGER, **{"criteria": ["wanda"], "adaptations": [*perplexities], **grid})
    values = {
        str(cell): 20.0
        if cell.is_dense
        else perplexities[cell.adaptation] * (2 if cell.criterion == "magnitude" else 1)
        for cell in study.cells
    }
    records = {
        cell: record
        for cell, record in make_records(study, values).items()
        if str(cell) not in left_out
    }
    evidence = Evidence(study, records, NOWHERE)
    return list(MEASURES[measure].ask(evidence, {**settings, "metric": "perplexity"}))


def test_windows_are_compared_at_each_amount_of_text_that_all_were_adapted_on() -> None:
    values = {"none": 60.0, "recon_block": 40.0, "recon_all": 42.0, "block_3": 35.0, "all_3": 34.0}
    settings = {"beside": 1, "windows": ["all"]}
    asked = asked_of("window_difference", settings, values)
    abouts = [each.about for each in asked if isinstance(each, Measurement)]
    assert abouts == [f"whole model vs. one block, {n} tokens" for n in ("8,192", "24,576")]
    pairs = [{cell.adaptation for cell in it.cells} for it in asked if isinstance(it, Measurement)]
    assert pairs == [{"none", "recon_block", "recon_all"}, {"none", "block_3", "all_3"}]
    # A window that no amount of text has beside the others is not there.
    absent = asked_of("window_difference", settings | {"windows": ["all", 5]}, values)
    assert [it.reason for it in absent if isinstance(it, Absent)] == [
        *["windows that were not run: 5"] * 2
    ]
    # Two of three windows at one amount, and all of them at the other.
    more = values | {"recon_matrix": 50.0}
    matrix = {"exact": False, "windows": [1, "all"]}
    *there, missing = asked_of("matrix_penalty", matrix, more)
    assert len(there) == 2 and isinstance(missing, Absent)
    assert missing.reason == "windows that were not run: matrix"
    # One window at an amount is compared with nothing there.
    alone = {name: level for name, level in more.items() if name != "all_3"}
    assert len(asked_of("matrix_penalty", matrix, alone)) == 2
    both = asked_of("matrix_penalty", matrix, more | {"matrix_3": 45.0})
    assert len(both) == 4 and all(isinstance(each, Measurement) for each in both)


def test_criteria_are_compared_at_each_budget_that_several_were_run_with() -> None:
    values = {"none": 60.0, "recon_block": 40.0, "block_3": 35.0}
    groups = {"groups": [["magnitude"], ["wanda"]]}
    criteria = ["magnitude", "wanda"]
    for measure, settings, of_budget in (
        ("gap_left", groups, 1),
        ("gap_growth", groups, 1),
        ("recovery", {"criteria": criteria}, 2),
    ):
        asked = asked_of(measure, settings, values, criteria=criteria)
        assert len(asked) == 2 * of_budget and all(isinstance(it, Measurement) for it in asked)
        assert [each.subject.rpartition(", ")[2] for each in asked] == [
            *["recon_block"] * of_budget,
            *["block_3"] * of_budget,
        ]
        # One criterion at a budget is compared with nothing there.
        gone = "tiny/magnitude-u50/block_3/seed0"
        fewer = asked_of(measure, settings, values, [gone], criteria=criteria)
        assert [each.subject for each in fewer] == [each.subject for each in asked[:of_budget]]
    # If no budget has several, what the reference lacks is said.
    gone = [f"tiny/magnitude-u50/{name}/seed0" for name in ("recon_block", "block_3")]
    asked = asked_of("recovery", {"criteria": criteria}, values, gone, criteria=criteria)
    assert asked == [Absent("tiny, u50, recon_block", "there are no cells of magnitude")]


def test_leaving_out_a_criterion_at_one_budget_leaves_the_claim_open_there() -> None:
    """Or else, whoever dislikes the number of a budget would leave out one of its cells."""
    values = {"none": 60.0, "recon_block": 40.0, "block_3": 35.0}
    criteria = ["magnitude", "wanda", "ria"]
    settings = {"groups": [["magnitude"], ["wanda", "ria"]]}
    gone = ["tiny/ria-u50/block_3/seed0"]
    study: dict[str, Any] = {"more_criteria": {"ria": {"score": "ria"}}, "criteria": criteria}
    there, missing = asked_of("gap_left", settings, values, gone, **study)
    assert isinstance(there, Measurement)
    assert missing == Absent("tiny, u50, block_3", "there are no cells of ria")


def test_a_criterion_that_no_claim_names_takes_no_seed_from_those_that_it_names() -> None:
    more = {"random": {"score": "random"}}
    names = ["none", "recon_block"]
    study = make_study(
        None, more, criteria=["magnitude", "wanda", "random"], adaptations=names, seeds=[0, 1, 2]
    )
    records = make_records(study, {})
    for cell in [it for it in records if it.criterion == "random" and it.seed > 0]:
        del records[cell]
    settings = {"groups": [["magnitude"], ["wanda"]], "metric": "perplexity"}
    (asked,) = MEASURES["gap_left"].ask(Evidence(study, records, NOWHERE), settings)
    assert isinstance(asked, Measurement)
    assert {cell.seed for cell in asked.cells} == {0, 1, 2}


def test_criteria_without_a_common_seed_leave_a_budget_open() -> None:
    values = {"none": 60.0, "recon_block": 40.0, "block_3": 35.0}
    gone = [f"tiny/magnitude-u50/block_3/seed{seed}" for seed in (0, 1)]
    gone += [f"tiny/wanda-u50/block_3/seed{seed}" for seed in (2,)]
    settings = {"groups": [["magnitude"], ["wanda"]]}
    criteria = ["magnitude", "wanda"]
    there, absent = asked_of("gap_left", settings, values, gone, criteria=criteria, seeds=[0, 1, 2])
    assert isinstance(there, Measurement)
    assert absent == Absent("tiny, u50, block_3", "no seed has all of magnitude, wanda")


def test_windows_without_a_common_seed_leave_an_amount_open() -> None:
    values = {"none": 60.0, "recon_block": 40.0, "recon_all": 42.0, "block_3": 35.0, "all_3": 34.0}
    gone = ["tiny/wanda-u50/all_3/seed0"]
    gone += [f"tiny/wanda-u50/block_3/seed{seed}" for seed in (1, 2)]
    settings = {"beside": 1, "windows": ["all"]}
    there, absent = asked_of("window_difference", settings, values, gone, seeds=[0, 1, 2])
    assert isinstance(there, Measurement) and isinstance(absent, Absent)
    assert absent.reason == "no seed has all of none, all_3, block_3"


def test_what_is_solved_exactly_has_the_calibration_sample_alone() -> None:
    values = {"none": 60.0, "recon_block": 40.0, "recon_all": 42.0, "block_3": 35.0, "all_3": 34.0}
    settings = {"exact": True, "windows": [1, "all"]}
    asked = asked_of("matrix_penalty", settings, values | {"recon_exact": 50.0})
    assert len(asked) == 2 and all(isinstance(each, Measurement) for each in asked)
    (absent,) = asked_of("matrix_penalty", settings, values)
    assert isinstance(absent, Absent) and "matrix (solved exactly)" in absent.reason


def test_one_criterion_is_asked_at_each_budget_if_a_claim_names_no_other() -> None:
    values = {"none": 60.0, "recon_block": 40.0, "block_3": 35.0}
    asked = asked_of("recovery", {"criteria": ["wanda"]}, values)
    assert [each.subject for each in asked] == [
        f"tiny, wanda, u50, {name}" for name in ("recon_block", "block_3")
    ]
