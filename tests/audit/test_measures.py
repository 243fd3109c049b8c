"""Each measure on made-up records that must give each verdict, near misses included."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from freelunch.audit.evidence import Evidence
from freelunch.audit.measures.measure import Absent, Measurement
from freelunch.audit.verdicts import (
    FAILS,
    HOLDS,
    IN_PART,
    UNDECIDED,
    UNTESTED,
    kind,
)
from freelunch.study.config import Part
from freelunch.study.study import Study
from measures_for_tests import (
    BASE,
    NOWHERE,
    asked_of,
    audited,
    make_evidence,
)
from records_for_tests import make_records

ALL = {"parameters": 0, "families": 1}
WANDA = {**ALL, "criteria": ["wanda"]}
GROUPS = {"groups": [["magnitude"], ["wanda"]]}
SIZES = {**GROUPS, "across_families": False}
WHOLE = {"beside": 1, "windows": ["all"]}
TWO = {"windows": [1, "all"]}
PAIR = {"criteria": ["wanda", "magnitude"], "dense_at_most": 21}
Values = Mapping[str, float]


def gap(values: Values, adaptation: str, model: str = "") -> float:
    """Return how much larger the loss with magnitude's masks is than with Wanda's."""
    one, other = (
        f"{model}/{name}-u50/{adaptation}/seed0" if model else f"{name} {adaptation}"
        for name in ("magnitude", "wanda")
    )
    return math.log(values[one] / values[other])


def missed(values: Values, name: str, other: str) -> float:
    """Return how much less an adaptation gains than another, as a share of the other's gain."""
    none, one, beside = (math.log(values[f"wanda {it}"]) for it in ("none", name, other))
    return (one - beside) / (none - beside)


# Each measure's number by hand, from perplexities.
BY_HAND: dict[str, Callable[[Values], float]] = {
    "recovery": lambda values: math.log(60 / values["wanda recon_block"]) / math.log(60 / 20),
    "window_difference": lambda values: missed(values, "recon_all", "recon_block"),
    "halves_missed": lambda values: max(
        missed(values, "recon_halves", other) for other in ("recon_block", "recon_all")
    ),
    "gap_left": lambda values: gap(values, "recon_block") / gap(values, "none"),
    "gap_growth": lambda values: abs(gap(values, "recon_block")) - abs(gap(values, "none")),
    "gap_left_by_size": lambda values: (
        abs(gap(values, "recon_block", "tiny-2") / gap(values, "none", "tiny-2"))
        - abs(gap(values, "recon_block", "tiny") / gap(values, "none", "tiny"))
    ),
    "perplexity_difference": lambda values: 40 - values["magnitude recon_block"],
}


def of_sizes(small: float, large: float, before: float = 120.0) -> dict[str, float]:
    """Return perplexities of two models by what magnitude's masks have with the reconstruction, and
    by what they have without it in the larger one.
    """
    levels = {"wanda-u50/none": 60.0, "wanda-u50/recon_block": 40.0}
    both = {"tiny": {"none": 120.0, "recon_block": small}}
    both["tiny-2"] = {"none": before, "recon_block": large}
    return {
        f"{model}/{cell}/seed0": value
        for model, its in both.items()
        for cell, value in {
            **levels,
            **{f"magnitude-u50/{name}": level for name, level in its.items()},
        }.items()
    }


def magnitude(before: float, after: float) -> dict[str, float]:
    return {"magnitude none": before, "magnitude recon_block": after}


def wanda(**levels: float | None) -> dict[str, float | None]:
    return {f"wanda {name}": level for name, level in levels.items()}


HALF = 40 * math.sqrt(2)
ABOVE, BELOW, NEAR = {"above": 0}, {"below": 0}, {"within": 0.1}
TRAINED, SOLVED = {"exact": False, **TWO}, {"exact": True, **TWO}
BARELY, ONE = {"below": 0.05}, {"within": 1}


@pytest.mark.parametrize(
    ("measure", "settings", "holds", "values", "expected"),
    [
        ("recovery", WANDA, ABOVE, {}, HOLDS),
        ("recovery", WANDA, ABOVE, wanda(recon_block=61.5), FAILS),
        ("recovery", WANDA, ABOVE, wanda(recon_block=60.1), UNDECIDED),
        ("recovery", WANDA, {"above": 0.6}, {}, FAILS),
        ("recovery", WANDA, {"above": 0.6}, wanda(recon_block=30), HOLDS),
        # A loss that is not finite decides nothing.
        ("recovery", WANDA, ABOVE, wanda(recon_block=None), UNDECIDED),
        ("window_difference", WHOLE, NEAR, wanda(recon_all=40.1), HOLDS),
        ("window_difference", WHOLE, NEAR, wanda(recon_all=39.9), HOLDS),
        ("window_difference", WHOLE, NEAR, wanda(recon_all=45), FAILS),
        # A window that gains more than one block is no equal of it.
        ("window_difference", WHOLE, NEAR, wanda(recon_all=36), FAILS),
        ("window_difference", WHOLE, NEAR, wanda(recon_all=41.7), UNDECIDED),
        ("window_difference", WHOLE, NEAR, wanda(recon_all=38.4), UNDECIDED),
        # It has to be worse than each of the others.
        ("matrix_penalty", TRAINED, ABOVE, wanda(recon_all=45, recon_matrix=50), HOLDS),
        ("matrix_penalty", TRAINED, ABOVE, wanda(recon_all=45, recon_matrix=45.1), IN_PART),
        ("matrix_penalty", TRAINED, ABOVE, wanda(recon_all=45, recon_matrix=42), IN_PART),
        ("matrix_penalty", TRAINED, ABOVE, wanda(recon_all=45, recon_matrix=39), FAILS),
        ("matrix_penalty", SOLVED, ABOVE, wanda(recon_all=45, recon_matrix=50), UNTESTED),
        ("matrix_penalty", SOLVED, ABOVE, wanda(recon_all=45, recon_exact=50), HOLDS),
        ("halves_missed", TWO, BARELY, wanda(recon_all=41, recon_halves=38), HOLDS),
        ("halves_missed", TWO, BARELY, wanda(recon_all=41, recon_halves=46), FAILS),
        ("gap_left", GROUPS, ONE, magnitude(120, 50), HOLDS),
        ("gap_left", GROUPS, ONE, magnitude(120, 150), FAILS),
        ("gap_left", GROUPS, ONE, magnitude(120, 80.2), UNDECIDED),
        # In the other order, with a smaller and with a larger gap.
        ("gap_left", GROUPS, ONE, magnitude(120, 32), HOLDS),
        ("gap_left", GROUPS, ONE, magnitude(70, 25), FAILS),
        ("gap_growth", GROUPS, BELOW, magnitude(90, 50), HOLDS),
        ("gap_growth", GROUPS, BELOW, magnitude(90, 80), FAILS),
        # In the other order, with a smaller and with a larger gap.
        ("gap_growth", GROUPS, BELOW, magnitude(90, 32), HOLDS),
        ("gap_growth", GROUPS, BELOW, magnitude(90, 22), FAILS),
        # Where there was no gap, a share of it would be no number.
        ("gap_growth", GROUPS, BELOW, magnitude(60.1, 50), FAILS),
        ("gap_growth", GROUPS, BELOW, magnitude(60.1, 40.1), UNDECIDED),
        ("gap_left_by_size", SIZES, BELOW, of_sizes(HALF, 45), HOLDS),
        ("gap_left_by_size", SIZES, BELOW, of_sizes(HALF, 118), FAILS),
        # The gap turns around, and is larger than what is left in the small model.
        ("gap_left_by_size", SIZES, BELOW, of_sizes(HALF, 20), FAILS),
        # Magnitude pruning is the worse one in the small model, the better in the large.
        ("gap_left_by_size", SIZES, BELOW, of_sizes(42, 42, before=40), FAILS),
        ("perplexity_difference", PAIR, NEAR, magnitude(70, 40.02), UNDECIDED),
        ("perplexity_difference", PAIR, NEAR, magnitude(70, 45), FAILS),
        ("perplexity_difference", PAIR, {"within": 9}, magnitude(70, 45), HOLDS),
    ],
)
def test_a_measure_gives_each_verdict(
    measure: str,
    settings: Mapping[str, Any],
    holds: Mapping[str, float],
    values: Mapping[str, Any],
    expected: str,
) -> None:
    values = values if "tiny/wanda-u50/none/seed0" in values else BASE | values
    part = audited(measure, holds, values, settings)
    assert kind(part["verdict"]) == expected, part
    if measure in BY_HAND and None not in values.values():
        (finding,) = part["findings"]
        assert finding["value"] == pytest.approx(BY_HAND[measure](values), abs=1e-3)
        assert finding["low"] < finding["value"] < finding["high"]
        assert all(
            f"/records/{it.replace('/', '__')}.json" in finding["command"]
            for it in finding["cells"]
        )


GONE = "windows that were not run"
ALIKE = f"{GONE} with the settings of the others: all"


@pytest.mark.parametrize(
    ("measure", "settings", "values", "reason"),
    [
        # Another loss, or several passes over a part of the text, might be the cause.
        ("window_difference", WHOLE, wanda(recon_all_cosine=59, recon_halves=45), ALIKE),
        ("window_difference", WHOLE, wanda(recon_all_again=59, recon_halves=45), ALIKE),
        # It saw the answers; the others did not.
        (
            "window_difference",
            {"beside": 1, "windows": ["attention_mlp", "all"]},
            wanda(recon_all=40.1, halves_on_test=20),
            f"{GONE}: attention_mlp",
        ),
        (
            "matrix_penalty",
            SOLVED,
            wanda(recon_all=45, recon_matrix=50),
            f"{GONE}: matrix (closed form)",
        ),
        # A matrix that was solved exactly tells nothing of the memory that training takes.
        (
            "halves_memory",
            {"windows": ["matrix", 1]},
            wanda(recon_exact=45, recon_all=41),
            f"{GONE}: attention_mlp, matrix",
        ),
        (
            "gap_left",
            {"groups": [["magnitude"], ["wanda"], ["ria"]]},
            magnitude(120, 50),
            "no cells of ria",
        ),
        ("gap_left_by_size", SIZES, magnitude(120, 50), "models of several sizes"),
        (
            "perplexity_difference",
            {**PAIR, "dense_at_most": 8},
            magnitude(70, 45),
            "the dense perplexity is 20.0, not at most 8",
        ),
        (
            "recovery",
            {**WANDA, "parameters": 1001},
            {},
            "the largest model of this study has 1,000",
        ),
        ("recovery", {"metric": "accuracy", **WANDA}, {}, "some of these cells have no accuracy"),
    ],
)
def test_what_is_not_there_is_named(
    measure: str, settings: dict[str, Any], values: dict[str, Any], reason: str
) -> None:
    asked = {key: value for key, value in settings.items() if key != "metric"}
    metric = settings.get("metric", "perplexity")
    part = audited(measure, {"above": 0}, BASE | values, asked, metric)
    assert part["verdict"] == UNTESTED and reason in part["reason"], part


def test_windows_that_were_all_chosen_on_the_evaluation_text_are_compared() -> None:
    """As in the paper; the reason says so."""
    values = {"wanda none": 60.0, "wanda recon_on_test": 40, "wanda halves_on_test": 45}
    settings = {"beside": 1, "windows": ["attention_mlp"]}
    part = audited("window_difference", {"within": 0.1}, values, settings)
    (finding,) = part["findings"]
    assert kind(finding["verdict"]) == FAILS
    assert finding["reason"].endswith(
        "; settings of halves_on_test, recon_on_test were chosen on the evaluation text"
    )


def test_a_window_with_fewer_seeds_takes_none_from_the_others() -> None:
    """It is not among those that are compared, so it is not missed."""
    values = {"none": 60.0, "recon_block": 40.0, "recon_halves": 41.0, "recon_all": 50.0}
    gone = [f"tiny/wanda-u50/recon_halves/seed{seed}" for seed in (1, 2)]
    evidence = make_evidence(values, gone, seeds=[0, 1, 2])
    for measure, settings, seeds in (
        ("window_difference", WHOLE, {0, 1, 2}),
        ("halves_missed", TWO, {0}),
    ):
        (asked,) = asked_of(measure, settings, evidence)
        assert isinstance(asked, Measurement)
        assert {cell.seed for cell in asked.cells} == seeds


def test_halves_memory() -> None:
    """Jobs' own work is compared: their libraries take most of the 1 GB that each has in all."""
    values = BASE | {"wanda recon_all": 41, "wanda recon_halves": 42}

    def memory(
        below: float, peaks: dict[str, list[int]], *windows: int | str, seeds: int = 3
    ) -> Any:
        more: dict[str, Any] = {"peaks": peaks, "seeds": list(range(seeds))}
        return audited("halves_memory", {"below": below}, values, {"windows": [*windows]}, **more)

    peaks = {"recon_halves": [200_000_000] * 3, "recon_block": [100_000_000] * 3}
    for below, expected in ((2.1, HOLDS), (1.2, FAILS)):
        part = memory(below, peaks, 1)
        assert part["verdict"] == expected
        (finding,) = part["findings"]
        assert finding["value"] == pytest.approx(2)
        assert finding["seeds"] == 3 and "3 seeds" in part["scope"]
        assert "--forcerun reconstruct_window" in finding["command"]
    # Of two windows, the smaller one may be so by chance, which the interval has to contain.
    spread = [97_000_000, 100_000_000, 103_000_000]
    noisy = peaks | {"recon_block": spread, "recon_all": spread}
    one, two = (memory(2.1, noisy, *windows)["findings"][0] for windows in ([1], [1, "all"]))
    assert two["value"] == one["value"] and two["high"] == one["high"]
    assert two["low"] < one["low"]
    part = memory(2.1, peaks | {"recon_halves": [190_000_000, 200_000_000, 210_000_000]}, 1)
    (finding,) = part["findings"]
    # The standard error is 0.0577 times; Student's t of two degrees of freedom is 4.30.
    assert (finding["low"], finding["high"]) == pytest.approx(
        (2 - 0.0577 * 4.30, 2 + 0.0577 * 4.30), abs=0.02
    )
    assert part["verdict"] == UNDECIDED
    assert "measured with 1 of 3 seeds" in memory(2.1, peaks, 1, seeds=1)["reason"]
    # Systems other than Linux do not tell what a process held before its work.
    assert "some records lack the peak memory" in memory(2.1, {}, 1)["reason"]


@pytest.mark.parametrize(
    ("across", "expected"),
    [
        (False, {("opt-1.3b", "opt-6.7b"), ("llama-2-7b", "llama-2-70b")}),
        (
            True,
            {("opt-1.3b", "opt-6.7b"), ("opt-1.3b", "llama-2-7b"), ("llama-2-7b", "llama-2-70b")},
        ),
    ],
)
def test_a_model_is_compared_with_the_next_that_is_clearly_smaller(
    across: bool, expected: set[tuple[str, ...]]
) -> None:
    billions = {"opt-1.3b": 1.3, "opt-6.7b": 5.0, "llama-2-7b": 6.8, "llama-2-70b": 70.0}
    study = Study.load(Path("studies/paper.yaml")).of_part(Part(models=list(billions)))
    records = make_records(study, {})
    for cell, record in records.items():
        record["identity"]["parameters"] = int(1e9 * billions[cell.model])
    groups = [["magnitude"], ["wanda", "ria", "sparsegpt"]]
    settings = {"groups": groups, "across_families": across}
    asked = asked_of("gap_left_by_size", settings, Evidence(study, records, NOWHERE))
    compared = [each.cells for each in asked if isinstance(each, Measurement)]
    assert {tuple(dict.fromkeys(cell.model for cell in cells)) for cells in compared} == expected


def test_recovery_in_large_models_and_in_several_families() -> None:
    part = audited("recovery", {"above": 0}, BASE, {**WANDA, "parameters": 1000})
    assert kind(part["verdict"]) == HOLDS
    missing = {**WANDA, "parameters": 1000, "criteria": ["ria"]}
    part = audited("recovery", {"above": 0}, BASE, missing, adaptations=["none"])
    assert "no reconstruction of them is there" in part["reason"]
    part = audited("recovery", {"above": 0}, BASE, {**WANDA, "families": 2})
    assert part["verdict"] == UNTESTED and "models of one family" in part["reason"]
    names = ["opt-125m", "llama-2-7b"]
    study = Study.load(Path("studies/paper.yaml")).of_part(Part(models=names))
    evidence = Evidence(study, make_records(study, {}), NOWHERE)
    asked = asked_of("recovery", {**WANDA, "families": 2}, evidence)
    assert {each.cells[0].model for each in asked if isinstance(each, Measurement)} == {*names}


def test_the_price_of_memory() -> None:
    """Half a block loses a tenth of what the whole model gains and saves three quarters."""
    base = {"none": 60.0, "recon_all": 40.0, "recon_halves": 60 * (40 / 60) ** 0.9}
    peaks = {"recon_all": [400, 410, 390], "recon_halves": [100, 100, 100]}
    settings = {"beside": "all", "windows": ["attention_mlp"]}

    def price(peaks: dict[str, list[int]], **more: Any) -> dict[str, Any]:
        values = {f"wanda {name}": level for name, level in base.items()}
        more = {"peaks": peaks, "seeds": [0, 1, 2], **more}
        return audited("memory_price", {"below": 0.2}, values, settings, **more)

    part = price(peaks)
    (finding,) = part["findings"]
    assert finding["value"] == pytest.approx(0.1 / 0.75) and finding["seeds"] == 3
    # The noise of memory is in the interval.
    assert finding["low"] < finding["value"] < finding["high"] and part["verdict"] == HOLDS
    saved_none = price({**peaks, "recon_halves": [405, 395, 400]})
    assert saved_none["verdict"] == UNDECIDED
    assert "may save no memory" in saved_none["findings"][0]["reason"]
    assert "measured with 1 of 3 seeds" in price(peaks, seeds=[0])["reason"]
    assert "lack the peak memory" in price({})["reason"]


@pytest.mark.parametrize(
    ("measure", "adapted", "expected", "value"),
    [
        ("recovery", 70, HOLDS, 0.5),
        ("gain", 70, HOLDS, 0.2),
        ("gain", 52, UNDECIDED, 0.02),
    ],
)
def test_accuracy_is_a_loss_of_wrong_answers(
    tmp_path: Path, measure: str, adapted: int, expected: str, value: float
) -> None:
    answers = {
        name: "1" * right + "0" * (100 - right)
        for name, right in {"dense": 90, "none": 50, "recon_block": adapted}.items()
    }
    settings = WANDA if measure == "recovery" else {}
    part = audited(
        *(measure, {"above": 0}, BASE, settings, "accuracy"), folder=tmp_path, answers=answers
    )
    (finding,) = part["findings"]
    assert kind(part["verdict"]) == expected
    assert finding["value"] == pytest.approx(value)
    assert " --forcerun evaluate_cell -- " in finding["command"]
    assert (" points (95 %" in finding["text"]) == (measure == "gain")


def test_the_reason_names_what_is_not_finite() -> None:
    values = BASE | {"magnitude none": 120, "magnitude recon_block": None}
    (finding,) = audited("gap_left", {"within": 1}, values, GROUPS)["findings"]
    diverged = "tiny/magnitude-u50/recon_block/seed0"
    assert finding["reason"] == f"a loss of {diverged} is not finite"
    assert (finding["text"], finding["value"]) == ("not finite", None)


# --- Several budgets of the reconstruction

BUDGETS = {"none": 60.0, "recon_block": 40.0, "block_3": 35.0}
AMOUNTS = BUDGETS | {"recon_all": 42.0, "all_3": 34.0}
BOTH = ["magnitude", "wanda"]


def test_windows_are_compared_at_each_amount_of_text_that_all_were_adapted_on() -> None:
    asked = asked_of("window_difference", WHOLE, make_evidence(AMOUNTS))
    found = {it.about: {*it.cells} for it in asked if isinstance(it, Measurement)}
    assert {about: {cell.adaptation for cell in cells} for about, cells in found.items()} == {
        "whole model vs. one block, 8,192 tokens": {"none", "recon_block", "recon_all"},
        "whole model vs. one block, 24,576 tokens": {"none", "block_3", "all_3"},
    }
    # Two of three windows at one amount, and all of them at the other.
    more, settings = AMOUNTS | {"recon_matrix": 50.0}, {"exact": False, **TWO}
    *there, missing = asked_of("matrix_penalty", settings, make_evidence(more))
    assert len(there) == 2 and isinstance(missing, Absent)
    assert missing.reason == "windows that were not run: matrix"
    # One window at an amount is compared with nothing there.
    alone = {name: level for name, level in more.items() if name != "all_3"}
    assert len(asked_of("matrix_penalty", settings, make_evidence(alone))) == 2


@pytest.mark.parametrize(
    ("measure", "settings", "of_budget"),
    [
        ("gap_left", GROUPS, 1),
        ("gap_growth", GROUPS, 1),
        ("criteria_behind", GROUPS, 1),
        ("recovery", {**ALL, "criteria": BOTH}, 2),
    ],
)
def test_criteria_are_compared_at_each_budget_that_several_were_run_with(
    measure: str, settings: dict[str, Any], of_budget: int
) -> None:
    asked = asked_of(measure, settings, make_evidence(BUDGETS, criteria=BOTH))
    assert all(isinstance(each, Measurement) for each in asked)
    subjects = [each.subject for each in asked]
    assert [each.rpartition(", ")[2] for each in subjects] == [
        *["recon_block"] * of_budget,
        *["block_3"] * of_budget,
    ]
    # One criterion at a budget is compared with nothing there.
    gone = ["tiny/magnitude-u50/block_3/seed0"]
    fewer = asked_of(measure, settings, make_evidence(BUDGETS, gone, criteria=BOTH))
    assert [each.subject for each in fewer] == subjects[:of_budget]


def test_without_several_criteria_at_any_budget_what_the_reference_lacks_is_said() -> None:
    gone = [f"tiny/magnitude-u50/{name}/seed0" for name in ("recon_block", "block_3")]
    evidence = make_evidence(BUDGETS, gone, criteria=BOTH)
    absent = Absent("tiny, u50, recon_block", "there are no cells of magnitude")
    assert asked_of("recovery", {**ALL, "criteria": BOTH}, evidence) == [absent]
    # If a claim names no other criterion, one is asked at each budget.
    asked = asked_of("recovery", WANDA, make_evidence(BUDGETS))
    assert [each.subject for each in asked] == [
        f"tiny, wanda, u50, {name}" for name in ("recon_block", "block_3")
    ]


def test_a_criterion_that_no_claim_names_takes_no_seed_from_those_that_it_names() -> None:
    gone = [
        f"tiny/random-u50/{name}/seed{seed}" for name in ("none", "recon_block") for seed in (1, 2)
    ]
    values = {"none": 60.0, "recon_block": 40.0}
    evidence = make_evidence(values, gone, criteria=[*BOTH, "random"], seeds=[0, 1, 2])
    (asked,) = asked_of("gap_left", GROUPS, evidence)
    assert isinstance(asked, Measurement)
    assert {cell.seed for cell in asked.cells} == {0, 1, 2}


def test_what_one_of_several_models_lacks_at_a_budget_is_not_forgotten() -> None:
    models = ["tiny", "tiny-2"]
    gone = ["tiny-2/magnitude-u50/block_3/seed0"]
    grid: dict[str, Any] = {"criteria": [*BOTH, "random"], "models": models}
    there = asked_of("gap_left_by_size", SIZES, make_evidence(BUDGETS, **grid))
    assert len(there) == 2 and all(isinstance(each, Measurement) for each in there)
    missing = make_evidence(BUDGETS, gone, **grid)
    absent, _ = asked_of("gap_left_by_size", SIZES, missing)
    assert isinstance(absent, Absent) and "there are no cells of magnitude" in absent.reason


def test_what_is_solved_exactly_has_the_calibration_sample_alone() -> None:
    settings = {"exact": True, **TWO}
    asked = asked_of("matrix_penalty", settings, make_evidence(AMOUNTS | {"recon_exact": 50.0}))
    assert len(asked) == 2 and all(isinstance(each, Measurement) for each in asked)
    (absent,) = asked_of("matrix_penalty", settings, make_evidence(AMOUNTS))
    assert isinstance(absent, Absent) and "matrix (closed form)" in absent.reason
