"""The gap between criteria: by hand, and what has to hold whatever was measured."""

import math
import random
from collections.abc import Mapping, Sequence
from itertools import permutations
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest

from freelunch.analysis.criteria_gap import GAP_COLUMNS, PAIR_COLUMNS, gap_rows, pair_rows
from freelunch.core.errors import UserError
from freelunch.reporting.cells import means_over_seeds
from freelunch.reporting.results import Results
from freelunch.reporting.sections import summary_sections
from freelunch.reporting.sections.gaps import gaps_section
from freelunch.reporting.summary import summary_text
from freelunch.reporting.table import csv_text
from freelunch.study.cell import Cell
from records_for_tests import PERPLEXITIES, make_records, make_study

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
    perplexity = error = None
    if None not in losses:
        perplexity = math.exp(fmean(losses))
        error = perplexity * stdev(losses) / math.sqrt(len(losses))
    return {
        "perplexity": perplexity,
        "perplexity_standard_error": error,
        "window_losses": list(losses),
        "token_ids_sha256": "0" * 64,
        "length": 8,
        "stride": 8,
    }


def whole_gaps(records: Mapping[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the gaps of all criteria, none left out."""
    return [row for row in gap_rows(records) if row["left_out"] is None]


def row_of(rows: list[dict[str, Any]], **wanted: str) -> dict[str, Any]:
    (row,) = [row for row in rows if wanted.items() <= row.items()]
    return row


def random_losses(seed: int, windows: int = 8) -> dict[str, list[float]]:
    generator = random.Random(seed)
    return {
        f"{criterion}-u50/{adaptation}/seed{number}": [
            generator.gauss(3, 0.5) for _ in range(windows)
        ]
        for criterion in ("a", "b", "c")
        for adaptation in ("none", "recon")
        for number in (0, 1)
    }


# --- By hand

TWO = {
    "a-u50/none/seed0": [1.0, 3.0],
    "b-u50/none/seed0": [2.0, 6.0],
    "a-u50/recon/seed0": [2.0, 2.0],
    "b-u50/recon/seed0": [1.0, 1.0],
}


def test_gap_is_the_paired_difference_of_worst_and_best() -> None:
    row = row_of(whole_gaps(records_of(TWO)), adaptation="none")
    assert {key: row[key] for key in ("model", "pattern", "criteria", "seeds")} == {
        "model": "tiny",
        "pattern": "u50",
        "criteria": 2,
        "seeds": 1,
    }
    assert (row["best"], row["worst"]) == ("a", "b")
    assert row["perplexity_best"] == pytest.approx(math.exp(2))
    assert row["perplexity_worst"] == pytest.approx(math.exp(4))
    # Differences of the windows: 1 and 3.
    assert row["loss_gap"] == pytest.approx(2.0)
    assert row["loss_gap_standard_error"] == pytest.approx(1.0)
    assert row["loss_gap_standard_deviation_over_seeds"] is None
    assert row["gap_left"] is None
    assert row["gap_left_standard_error"] is None


def test_gap_left_by_hand() -> None:
    row = row_of(whole_gaps(records_of(TWO)), adaptation="recon")
    assert (row["best"], row["worst"]) == ("b", "a")
    # 1 of 2 is left; windows move it by (1 - 1 / 2) / 2 and (1 - 3 / 2) / 2.
    assert row["gap_left"] == pytest.approx(0.5)
    assert row["gap_left_standard_error"] == pytest.approx(0.25)


def test_gap_left_has_a_spread_over_seeds() -> None:
    second = {
        "a-u50/none/seed1": [1.0, 3.0],
        "b-u50/none/seed1": [5.0, 7.0],
        "a-u50/recon/seed1": [2.0, 2.0],
        "b-u50/recon/seed1": [1.0, 1.0],
    }
    row = row_of(whole_gaps(records_of({**TWO, **second})), adaptation="recon")
    # Gaps without the adaptation: 2 and 4; with it 1 and 1. A third is left; seeds move that by
    # (1 - 2 / 3) / 3 and (1 - 4 / 3) / 3.
    assert row["gap_left"] == pytest.approx(1 / 3)
    deviation = row["gap_left_standard_deviation_over_seeds"]
    assert deviation == pytest.approx(stdev([1 / 9, -1 / 9]))
    assert row["gap_left_seeds"] == 2
    error = row["gap_left_standard_error"]
    assert row["gap_left_error"] == pytest.approx(math.hypot(error, deviation / math.sqrt(2)))
    # Seeds that are not in both count neither in the spread nor in its error.
    alone = {
        name.replace("seed1", "seed2"): loss for name, loss in second.items() if "recon" in name
    }
    more = row_of(whole_gaps(records_of({**TWO, **second, **alone})), adaptation="recon")
    assert more["seeds"] == 3
    assert [more[name] for name in ("gap_left_seeds", "gap_left_error")] == [
        row[name] for name in ("gap_left_seeds", "gap_left_error")
    ]
    of_one = row_of(whole_gaps(records_of(TWO)), adaptation="recon")
    assert of_one["gap_left_standard_deviation_over_seeds"] is None


def test_a_seed_whose_gap_is_the_other_way_round_has_its_part_in_the_spread() -> None:
    reversed_gap = {
        "a-u50/none/seed1": [3.0, 3.0],
        "b-u50/none/seed1": [2.5, 2.5],
        "a-u50/recon/seed1": [2.0, 2.0],
        "b-u50/recon/seed1": [1.0, 1.0],
    }
    row = row_of(whole_gaps(records_of({**TWO, **reversed_gap})), adaptation="recon")
    # Gaps without: 2 and -0.5, 0.75 in the mean; with: 1 and 1.
    assert row["gap_left"] == pytest.approx(4 / 3)
    moves = [(1 - 4 / 3 * gap) / 0.75 for gap in (2, -0.5)]
    assert row["gap_left_standard_deviation_over_seeds"] == pytest.approx(stdev(moves))
    assert math.isfinite(row["gap_left_error"])


def test_pairs_by_hand() -> None:
    rows = pair_rows(records_of({**TWO, "c-u50/none/seed0": [1.0, 1.0]}))
    none = [row for row in rows if row["adaptation"] == "none"]
    assert [(row["criterion"], row["other"]) for row in none] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    # The first minus the second: -1 and -3, 0 and 2, 1 and 5.
    assert [row["loss_difference"] for row in none] == pytest.approx([-2.0, 1.0, 3.0])
    errors = [row["loss_difference_standard_error"] for row in none]
    assert errors == pytest.approx([1.0, 1.0, 2.0])
    (recon,) = [row for row in rows if row["adaptation"] == "recon"]
    assert recon["loss_difference"] == pytest.approx(1.0)


def test_seeds_share_windows_and_have_a_spread() -> None:
    records = records_of(
        {
            "a-u50/none/seed0": [1.0, 1.0],
            "a-u50/none/seed1": [1.0, 1.0],
            "b-u50/none/seed0": [2.0, 4.0],
            "b-u50/none/seed1": [4.0, 6.0],
        }
    )
    gap, pair = whole_gaps(records)[0], pair_rows(records)[0]
    assert gap["seeds"] == pair["seeds"] == 2
    # Means over seeds of the windows: 3 and 5 above 1; of the seeds: 2 and 4.
    assert gap["loss_gap"] == pytest.approx(3.0)
    assert gap["loss_gap_standard_error"] == pytest.approx(1.0)
    assert gap["loss_gap_standard_deviation_over_seeds"] == pytest.approx(math.sqrt(2))
    assert gap["perplexity_worst"] == pytest.approx((math.exp(3) + math.exp(5)) / 2)
    assert pair["loss_difference"] == pytest.approx(-3.0)
    assert pair["loss_difference_standard_deviation_over_seeds"] == pytest.approx(math.sqrt(2))


# --- What is compared with what


def test_one_criterion_has_no_gap() -> None:
    records = records_of({"a-u50/none/seed0": [1.0, 2.0], "b-u60/none/seed0": [1.0, 2.0]})
    assert whole_gaps(records) == []
    assert pair_rows(records) == []


def test_criteria_without_a_common_seed_have_no_gap() -> None:
    records = records_of({"a-u50/none/seed0": [1.0, 2.0], "b-u50/none/seed1": [1.0, 2.0]})
    assert whole_gaps(records) == []
    assert pair_rows(records) == []


def test_only_seeds_that_all_criteria_have_count() -> None:
    losses = {f"{name}-u50/none/seed{seed}": [1.0, 2.0] for name in "ab" for seed in (0, 1)}
    # Without its second seed `a` would no longer be as good as `b`.
    losses |= {"a-u50/none/seed1": [0.0, 0.0], "c-u50/none/seed0": [0.5, 0.5]}
    records = records_of(losses)
    (gap,) = whole_gaps(records)
    assert (gap["criteria"], gap["seeds"]) == (3, 1)
    assert gap["best"] == "c"
    assert gap["perplexity_worst"] == pytest.approx(math.exp(1.5))
    seeds = {(row["criterion"], row["other"]): row["seeds"] for row in pair_rows(records)}
    assert seeds == {("a", "b"): 2, ("a", "c"): 1, ("b", "c"): 1}


def test_a_second_row_leaves_out_the_worst_without_the_adaptation() -> None:
    # With it `c` is the best.
    third = {"c-u50/none/seed0": [9.0, 9.0], "c-u50/recon/seed0": [0.5, 0.5]}
    records = records_of({**TWO, **third})
    rows = gap_rows(records)
    assert [(row["adaptation"], row["criteria"], row["left_out"]) for row in rows] == [
        ("none", 3, None),
        ("none", 2, "c"),
        ("recon", 3, None),
        ("recon", 2, "c"),
    ]
    # What is left is what there would be without `c`.
    for rest, alone in zip(rows[1::2], gap_rows(records_of(TWO)), strict=True):
        assert {**rest, "left_out": None} == alone
    study = make_study()
    means = means_over_seeds(make_records(study, PERPLEXITIES))
    text = summary_text([gaps_section(study, means, rows)])
    assert "2, without c" in text
    assert "with recon the gap between criteria other than c is " in text
    assert "worst without the adaptation" in text
    assert "leaves out" not in summary_text([gaps_section(study, means, rows[::2])])


def test_gap_left_is_of_criteria_that_are_there_without_and_with() -> None:
    records = records_of({**TWO, "c-u50/recon/seed0": [9.0, 9.0]})
    row = row_of(whole_gaps(records), adaptation="recon")
    assert (row["criteria"], row["worst"]) == (3, "c")
    assert row["loss_gap"] == pytest.approx(8.0)
    assert row["gap_left"] == pytest.approx(0.5)


def test_gap_left_is_of_seeds_that_are_there_without_and_with() -> None:
    more = {f"{name}-u50/recon/seed1": [loss] * 2 for name, loss in (("a", 1.0), ("b", 9.0))}
    row = row_of(whole_gaps(records_of({**TWO, **more})), adaptation="recon")
    assert row["seeds"] == 2
    assert row["gap_left"] == pytest.approx(0.5)


def test_without_the_same_criteria_unadapted_there_is_no_gap_left() -> None:
    for kept in ([], ["a-u50/none/seed0"]):
        losses = {name: TWO[name] for name in (*kept, "a-u50/recon/seed0", "b-u50/recon/seed0")}
        (row,) = whole_gaps(records_of(losses))
        assert row["loss_gap"] == pytest.approx(1.0)
        assert row["gap_left"] is None
        assert row["gap_left_standard_error"] is None


def test_models_and_patterns_are_kept_apart() -> None:
    structured = {name.replace("a-u50", "flap-s20"): TWO[name] for name in TWO if name[0] == "a"}
    structured |= {"b-s20/none/seed0": [5.0, 7.0], "b-s20/recon/seed0": [1.0, 1.0]}
    rows = whole_gaps(records_of({**TWO, **structured}, models=("tiny", "tiny-2")))
    assert [(row["model"], row["pattern"], row["adaptation"]) for row in rows] == [
        (model, pattern, adaptation)
        for model in ("tiny", "tiny-2")
        for pattern in ("u50", "s20")
        for adaptation in ("none", "recon")
    ]
    assert {row["best"] for row in rows if row["pattern"] == "s20"} == {"flap", "b"}
    assert {row["criteria"] for row in rows} == {2}
    assert [row["gap_left"] for row in rows] == [None, 0.5, None, 0.25] * 2


def test_patterns_stay_together_whatever_the_order_of_the_grids() -> None:
    both = {
        name.replace("u50", pattern): loss
        for name, loss in TWO.items()
        for pattern in ("u50", "u60")
    }
    ordered = sorted(both, key=lambda name: "recon" in name)
    rows = whole_gaps(records_of({name: both[name] for name in ordered}))
    assert [row["pattern"] for row in rows] == ["u50", "u50", "u60", "u60"]


def test_other_tokens_are_refused() -> None:
    records = records_of(TWO)
    records[Cell.parse("tiny/b-u50/none/seed0")]["metrics"]["perplexity"]["length"] = 16
    for rows in (gap_rows, pair_rows):
        with pytest.raises(UserError, match="other tokens"):
            rows(records)


# --- Whatever was measured


@pytest.mark.parametrize("seed", range(5))
def test_gap_is_the_largest_difference_of_a_pair(seed: int) -> None:
    records = records_of(random_losses(seed))
    pairs = pair_rows(records)
    for gap in whole_gaps(records):
        assert gap["loss_gap"] >= 0
        differences = [
            abs(pair["loss_difference"])
            for pair in pairs
            if pair["adaptation"] == gap["adaptation"]
        ]
        assert len(differences) == 3
        assert gap["loss_gap"] == pytest.approx(max(differences))


def test_order_of_the_cells_changes_nothing() -> None:
    losses = random_losses(0)
    expected = whole_gaps(records_of(losses))
    for order in permutations(("a", "b", "c")):
        names = sorted(losses, key=lambda name: order.index(name[0]))
        assert whole_gaps(records_of({name: losses[name] for name in names})) == expected


def test_hardness_of_a_window_that_all_share_changes_nothing() -> None:
    losses = random_losses(1)
    harder = {
        name: [loss + window for window, loss in enumerate(of_cell)]
        for name, of_cell in losses.items()
    }
    for one, other in zip(
        whole_gaps(records_of(losses)), whole_gaps(records_of(harder)), strict=True
    ):
        for column in ("loss_gap", "loss_gap_standard_error", "gap_left_standard_error"):
            assert one[column] == (other[column] and pytest.approx(other[column])), column


def test_a_share_that_is_the_same_on_every_window_has_no_error() -> None:
    generator = random.Random(0)
    a, gaps = ([generator.uniform(1, 3) for _ in range(16)] for _ in range(2))
    records = records_of(
        {
            "a-u50/none/seed0": a,
            "b-u50/none/seed0": [loss + gap for loss, gap in zip(a, gaps, strict=True)],
            "a-u50/recon/seed0": a,
            "b-u50/recon/seed0": [loss + 0.3 * gap for loss, gap in zip(a, gaps, strict=True)],
        }
    )
    row = row_of(whole_gaps(records), adaptation="recon")
    assert row["gap_left"] == pytest.approx(0.3)
    assert row["gap_left_standard_error"] == pytest.approx(0, abs=1e-12)
    assert row["loss_gap_standard_error"] > 0.01


def test_error_of_the_gap_left_agrees_with_the_bootstrap() -> None:
    study = make_study(seeds=[0, 1])
    seeds = {name.replace("seed0", "seed1"): 1.1 * value for name, value in PERPLEXITIES.items()}
    records = make_records(study, {**seeds, **PERPLEXITIES})
    row = row_of(whole_gaps(records), adaptation="recon_block")

    def windows(criterion: str, adaptation: str) -> Any:
        return np.mean(
            [
                records[cell]["metrics"]["perplexity"]["window_losses"]
                for cell in records
                if (cell.criterion, cell.adaptation) == (criterion, adaptation)
            ],
            axis=0,
        )

    before, after = (
        windows("magnitude", adaptation) - windows("wanda", adaptation)
        for adaptation in ("none", "recon_block")
    )
    drawn = np.random.default_rng(0).integers(len(before), size=(4000, len(before)))
    shares = after[drawn].mean(axis=1) / before[drawn].mean(axis=1)
    assert row["gap_left"] == pytest.approx(after.mean() / before.mean())
    # The bootstrap's variance has n for n - 1; its own error at 4000 draws is about 1 %.
    assert row["gap_left_standard_error"] == pytest.approx(shares.std(), rel=0.06)


# --- Not finite


@pytest.mark.parametrize("adaptation", ["none", "recon"])
def test_a_loss_that_is_not_finite_stays_visible(adaptation: str) -> None:
    records = records_of({**TWO, f"b-u50/{adaptation}/seed0": [None, 1.0]})
    rows = whole_gaps(records)
    row = row_of(rows, adaptation=adaptation)
    assert (row["best"], row["worst"]) == ("a", "b")
    for column in ("perplexity_worst", "loss_gap", "loss_gap_standard_error"):
        assert row[column] == NAN, column
    assert row["perplexity_best"] > 0
    left = row_of(rows, adaptation="recon")
    assert left["gap_left"] == NAN
    assert left["gap_left_standard_error"] == NAN
    pair = row_of(pair_rows(records), adaptation=adaptation)
    assert pair["loss_difference"] == NAN
    assert "nan" in csv_text(GAP_COLUMNS, rows)
    assert "nan" in csv_text(PAIR_COLUMNS, [pair])


def test_one_seed_that_is_not_finite_is_no_seed_left_out() -> None:
    losses: dict[str, Sequence[float | None]] = {**random_losses(0, windows=2)}
    losses["b-u50/none/seed1"] = [1.0, None]
    row = row_of(whole_gaps(records_of(losses)), adaptation="none")
    assert (row["worst"], row["seeds"]) == ("b", 2)
    for column in ("loss_gap", "loss_gap_standard_deviation_over_seeds", "perplexity_worst"):
        assert row[column] == NAN, column


def test_of_no_gap_nothing_can_be_left() -> None:
    losses = {**TWO, "b-u50/none/seed0": TWO["a-u50/none/seed0"]}
    rows = whole_gaps(records_of(losses))
    assert row_of(rows, adaptation="none")["loss_gap"] == 0
    assert row_of(rows, adaptation="recon")["gap_left"] == NAN


# --- In words


def said_of(gaps: list[dict[str, Any]]) -> str:
    study = make_study()
    means = means_over_seeds(make_records(study, PERPLEXITIES))
    return summary_text([gaps_section(study, means, gaps)])


def test_summary_has_a_line_for_each_gap() -> None:
    lines = said_of(whole_gaps(make_records(make_study(), PERPLEXITIES))).splitlines()
    header, _, none, adapted = (
        [field.strip() for field in line.strip("| ").split("|")] for line in lines[:4]
    )
    assert header == [
        *("model", "pattern", "adaptation", "criteria"),
        *("best (perplexity)", "worst (perplexity)", "worst / best", "remaining gap"),
    ]
    assert {none.pop(3), adapted.pop(3)} == {"all 2"}
    assert none[:5] == ["tiny", "u50", "none", "wanda (46.0)", "magnitude (307)"]
    assert none[5].startswith("6.67")  # 307 / 46
    assert none[6] == "-"
    assert adapted[:5] == ["tiny", "u50", "recon_block", "wanda (39.0)", "magnitude (144.0)"]
    assert adapted[6].startswith("68.")  # log(144 / 39) / log(307 / 46)
    assert adapted[6].endswith(" %")
    assert len({len(line) for line in lines[:4]}) == 1, "the table is not aligned"


def test_summary_says_where_criteria_are_not_equally_sparse() -> None:
    study = make_study()
    records = make_records(study, PERPLEXITIES)
    means, gaps = means_over_seeds(records), whole_gaps(records)
    assert "unequal" not in summary_text([gaps_section(study, means, gaps)])
    for mean in means:
        if mean["criterion"] == "wanda":
            mean["sparsity"] = 0.125
    said = "tiny, u50: the criteria produced unequal sparsities, from 12.5 to 50.0 %"
    assert said in summary_text([gaps_section(study, means, gaps)])


def test_summary_says_nothing_of_gaps_where_there_is_none() -> None:
    study = make_study(criteria=["wanda"])
    records = make_records(study, PERPLEXITIES)
    text = summary_text(summary_sections(Results(study, records, study.paths.records)))
    assert "Gap" not in text


@pytest.mark.parametrize(
    ("left", "error", "words"),
    [
        (0.41, 0.02, "is 0.410 ± 0.020 times what it was without."),
        (1.5, 0.2, "is 1.50 ± 0.20 times what it was without."),
        (math.nan, math.nan, "cannot be compared: a loss is not finite, or there was no gap"),
        (None, None, "has nothing to be compared with"),
    ],
)
def test_summary_says_how_large_the_gap_is(
    left: float | None, error: float | None, words: str
) -> None:
    rows = whole_gaps(make_records(make_study(), PERPLEXITIES))
    rows[1] |= {"gap_left": left, "gap_left_standard_error": error, "gap_left_error": error}
    said = said_of(rows)
    assert f"- tiny, u50: with recon_block the gap between criteria {words}" in said
    assert said.count("with recon_block") == 1


def test_summary_takes_seeds_into_what_it_says_of_the_gap() -> None:
    rows = whole_gaps(make_records(make_study(), PERPLEXITIES))
    rows[1] |= {"gap_left": 0.9, "gap_left_standard_error": 0.03, "gap_left_error": 0.03}
    assert "is 0.900 ± 0.030 times" in said_of(rows)
    rows[1] |= {"seeds": 4, "gap_left_seeds": 4, "gap_left_standard_deviation_over_seeds": 0.08}
    rows[1] |= {"gap_left_error": 0.05}
    said = said_of(rows)
    assert "is 0.900 ± 0.050 times" in said
    assert "over windows and, if there are several, over seeds" in said
    fields = [field.strip() for field in said.splitlines()[3].strip("| ").split("|")]
    assert fields[-3:] == ["90.0 ± 3.0 %", "4", "8.0 %"]
    rows[1] |= {"gap_left_standard_deviation_over_seeds": math.nan, "gap_left_error": math.nan}
    said = said_of(rows)
    assert "cannot be compared" in said
    assert said.splitlines()[3].strip("| ").endswith("not finite")


def test_summary_names_what_is_not_finite() -> None:
    none = "tiny/magnitude-u50/none/seed0"
    rows = whole_gaps(make_records(make_study(), {**PERPLEXITIES, none: None}))
    first, second = said_of(rows).splitlines()[2:4]
    assert "wanda (46.0)" in first
    assert "magnitude (not finite)" in first
    assert first.count("not finite") == 2
    assert second.count("not finite") == 1  # what is left
