"""The gap between criteria: by hand, and what has to hold whatever was measured."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import pytest

from freelunch.analysis.criteria_gap import GAP_COLUMNS, PAIR_COLUMNS, gap_rows, pair_rows
from freelunch.reporting.results import csv_text
from freelunch.study.cell import Cell

Losses = Mapping[str, Sequence[float | None]]
NAN = pytest.approx(math.nan, nan_ok=True)


def records_of(losses: Losses, models: Sequence[str] = ("tiny",)) -> dict[Cell, dict[str, Any]]:
    """Return what gaps read of records: `losses` names cells of each model without the model."""
    windows = len(next(iter(losses.values())))
    everything = {"dense/none/seed0": [1.0] * windows, **losses}
    return {
        Cell.parse(f"{model}/{name}"): {"metrics": {"perplexity": measured(values)}}
        for model in models
        for name, values in everything.items()
    }


def measured(losses: Sequence[float | None]) -> dict[str, Any]:
    return {
        "perplexity": None if None in losses else math.exp(fmean(losses)),
        "window_losses": list(losses),
        "token_ids_sha256": "0" * 64,
        "length": 8,
        "stride": 8,
    }


def all_criteria(records: Mapping[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the gaps of all criteria, none left out."""
    return [row for row in gap_rows(records) if row["left_out"] is None]


def row_of(rows: list[dict[str, Any]], adaptation: str) -> dict[str, Any]:
    (row,) = [row for row in rows if row["adaptation"] == adaptation]
    return row


def adapted(losses: Losses) -> dict[str, Any]:
    """Return the row of the gap with the adaptation."""
    return row_of(all_criteria(records_of(losses)), "recon")


TWO: dict[str, list[float]] = {
    "a-u50/none/seed0": [1.0, 3.0],
    "b-u50/none/seed0": [2.0, 6.0],
    "a-u50/recon/seed0": [2.0, 2.0],
    "b-u50/recon/seed0": [1.0, 1.0],
}


def test_gap_is_the_paired_difference_of_worst_and_best() -> None:
    row = row_of(all_criteria(records_of(TWO)), "none")
    facts = {"model": "tiny", "pattern": "u50", "criteria": 2, "seeds": 1, "best": "a"}
    facts |= {"worst": "b", "gap_left": None, "gap_left_standard_error": None}
    assert facts.items() <= row.items()
    assert row["perplexity_best"] == pytest.approx(math.exp(2))
    assert row["perplexity_worst"] == pytest.approx(math.exp(4))
    # Differences of the windows: 1 and 3.
    assert row["loss_gap"] == pytest.approx(2.0)
    assert row["loss_gap_standard_error"] == pytest.approx(1.0)
    assert row["loss_gap_standard_deviation_over_seeds"] is None


def test_gap_left_by_hand() -> None:
    row = adapted(TWO)
    assert (row["best"], row["worst"]) == ("b", "a")
    # 1 of 2 is left; windows move it by (1 - 1 / 2) / 2 and (1 - 3 / 2) / 2.
    assert row["gap_left"] == pytest.approx(0.5)
    assert row["gap_left_standard_error"] == pytest.approx(0.25)
    assert row["gap_left_standard_deviation_over_seeds"] is None


@pytest.mark.parametrize(
    ("of_a", "of_b", "gaps"),
    # The gaps of the two seeds without the adaptation; with it, they are 1 and 1. In the second, a
    # seed whose gap is the other way round has its part in the spread.
    [([1.0, 3.0], [5.0, 7.0], (2, 4)), ([3.0, 3.0], [2.5, 2.5], (2, -0.5))],
)
def test_gap_left_has_a_spread_over_seeds(
    of_a: list[float], of_b: list[float], gaps: tuple[float, float]
) -> None:
    second = {
        "a-u50/none/seed1": of_a,
        "b-u50/none/seed1": of_b,
        "a-u50/recon/seed1": [2.0, 2.0],
        "b-u50/recon/seed1": [1.0, 1.0],
    }
    row = adapted({**TWO, **second})
    left = 1 / fmean(gaps)
    assert row["gap_left"] == pytest.approx(left)
    spread = row["gap_left_standard_deviation_over_seeds"]
    assert spread == pytest.approx(stdev((1 - left * gap) / fmean(gaps) for gap in gaps))
    error = math.hypot(row["gap_left_standard_error"], spread / math.sqrt(2))
    assert (row["gap_left_seeds"], row["gap_left_error"]) == (2, pytest.approx(error))


def test_pairs_by_hand() -> None:
    rows = pair_rows(records_of({**TWO, "c-u50/none/seed0": [1.0, 1.0]}))
    *none, recon = rows
    pairs = [(row["criterion"], row["other"]) for row in none]
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c")]
    # The first minus the second: -1 and -3, 0 and 2, 1 and 5.
    assert [row["loss_difference"] for row in none] == pytest.approx([-2.0, 1.0, 3.0])
    errors = [row["loss_difference_standard_error"] for row in none]
    assert errors == pytest.approx([1.0, 1.0, 2.0])
    assert (recon["adaptation"], recon["loss_difference"]) == ("recon", pytest.approx(1.0))


def test_seeds_share_windows_and_have_a_spread() -> None:
    losses = {f"a-u50/none/seed{seed}": [1.0, 1.0] for seed in (0, 1)}
    losses |= {"b-u50/none/seed0": [2.0, 4.0], "b-u50/none/seed1": [4.0, 6.0]}
    records = records_of(losses)
    gap, pair = all_criteria(records)[0], pair_rows(records)[0]
    assert gap["seeds"] == pair["seeds"] == 2
    # Means over seeds of the windows: 3 and 5 above 1; of the seeds: 2 and 4.
    assert gap["loss_gap"] == -pair["loss_difference"] == pytest.approx(3.0)
    assert gap["loss_gap_standard_error"] == pytest.approx(1.0)
    for row, name in ((gap, "loss_gap"), (pair, "loss_difference")):
        assert row[f"{name}_standard_deviation_over_seeds"] == pytest.approx(math.sqrt(2))
    assert gap["perplexity_worst"] == pytest.approx((math.exp(3) + math.exp(5)) / 2)


def test_only_seeds_that_all_criteria_have_count() -> None:
    losses = {f"{name}-u50/none/seed{seed}": [1.0, 2.0] for name in "ab" for seed in (0, 1)}
    # Without its second seed `a` would no longer be as good as `b`.
    losses |= {"a-u50/none/seed1": [0.0, 0.0], "c-u50/none/seed0": [0.5, 0.5]}
    records = records_of(losses)
    (gap,) = all_criteria(records)
    assert (gap["criteria"], gap["seeds"], gap["best"]) == (3, 1, "c")
    assert gap["perplexity_worst"] == pytest.approx(math.exp(1.5))
    seeds = {(row["criterion"], row["other"]): row["seeds"] for row in pair_rows(records)}
    assert seeds == {("a", "b"): 2, ("a", "c"): 1, ("b", "c"): 1}


def test_a_second_row_leaves_out_the_worst_without_the_adaptation() -> None:
    # With it `c` is the best.
    third = {"c-u50/none/seed0": [9.0, 9.0], "c-u50/recon/seed0": [0.5, 0.5]}
    rows = gap_rows(records_of({**TWO, **third}))
    assert [(row["adaptation"], row["criteria"], row["left_out"]) for row in rows] == [
        ("none", 3, None),
        ("none", 2, "c"),
        ("recon", 3, None),
        ("recon", 2, "c"),
    ]
    # What is left is what there would be without `c`.
    for rest, alone in zip(rows[1::2], gap_rows(records_of(TWO)), strict=True):
        assert {**rest, "left_out": None} == alone


def test_gap_left_is_of_criteria_and_seeds_that_are_there_without_and_with() -> None:
    row = adapted({**TWO, "c-u50/recon/seed0": [9.0, 9.0]})
    assert (row["criteria"], row["worst"]) == (3, "c")
    assert (row["loss_gap"], row["gap_left"]) == pytest.approx((8.0, 0.5))
    more = {f"{name}-u50/recon/seed1": [loss] * 2 for name, loss in (("a", 1.0), ("b", 9.0))}
    row = adapted({**TWO, **more})
    assert (row["seeds"], row["gap_left"]) == (2, pytest.approx(0.5))
    for unadapted in ([], ["a-u50/none/seed0"]):
        names = (*unadapted, "a-u50/recon/seed0", "b-u50/recon/seed0")
        row = adapted({name: TWO[name] for name in names})
        assert row["loss_gap"] == pytest.approx(1.0)
        assert row["gap_left"] is row["gap_left_standard_error"] is None


def test_models_and_patterns_are_kept_apart_and_patterns_together() -> None:
    """Whatever the order of the grids."""
    structured = {name.replace("a-u50", "flap-s20"): TWO[name] for name in TWO if name[0] == "a"}
    structured |= {"b-s20/none/seed0": [5.0, 7.0], "b-s20/recon/seed0": [1.0, 1.0]}
    both = {**TWO, **structured}
    for ordered in (both, {name: both[name] for name in sorted(both, key=lambda of: "rec" in of)}):
        rows = all_criteria(records_of(ordered, models=("tiny", "tiny-2")))
        assert [(row["model"], row["pattern"], row["adaptation"]) for row in rows] == [
            (model, pattern, adaptation)
            for model in ("tiny", "tiny-2")
            for pattern in ("u50", "s20")
            for adaptation in ("none", "recon")
        ]
        assert {row["best"] for row in rows if row["pattern"] == "s20"} == {"flap", "b"}
        assert {row["criteria"] for row in rows} == {2}
        assert [row["gap_left"] for row in rows] == [None, 0.5, None, 0.25] * 2


@pytest.mark.parametrize("adaptation", ["none", "recon"])
def test_a_loss_that_is_not_finite_stays_visible(adaptation: str) -> None:
    records = records_of({**TWO, f"b-u50/{adaptation}/seed0": [None, 1.0]})
    rows = all_criteria(records)
    row = row_of(rows, adaptation)
    assert (row["best"], row["worst"]) == ("a", "b")
    for column in ("perplexity_worst", "loss_gap", "loss_gap_standard_error"):
        assert row[column] == NAN, column
    assert row["perplexity_best"] > 0
    left = row_of(rows, "recon")
    assert left["gap_left"] == NAN and left["gap_left_standard_error"] == NAN
    pair = row_of(pair_rows(records), adaptation)
    assert pair["loss_difference"] == NAN
    assert "nan" in csv_text(GAP_COLUMNS, rows) and "nan" in csv_text(PAIR_COLUMNS, [pair])


def test_of_no_gap_nothing_can_be_left() -> None:
    rows = all_criteria(records_of({**TWO, "b-u50/none/seed0": TWO["a-u50/none/seed0"]}))
    assert row_of(rows, "none")["loss_gap"] == 0
    assert row_of(rows, "recon")["gap_left"] == NAN
