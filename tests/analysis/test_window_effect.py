"""The effect of the window size: gains, what is missed of the best, and how both are shown."""

import math
import statistics
from typing import Any

import pytest

from freelunch.analysis.window_effect import WINDOW_COLUMNS, window_rows
from freelunch.reporting.adaptation_sections import window_sentences
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from records_for_tests import make_record, make_study

RECON: dict[str, Any] = {"method": "reconstruction", "train_norms": False}
OTHERS = {
    "matrix": {**RECON, "window": "matrix"},
    "exact": {"method": "least_squares"},
    "halves": {**RECON, "window": "attention_mlp"},
    "two": {**RECON, "window": 2},
    "whole": {**RECON, "window": "all"},
    "local": {**RECON, "inputs": "sparse", "targets": "local"},
    "paper": {**RECON, "window": 2, "learning_rate": [0.1, 0.2], "select_on": "evaluation"},
}
MORE = {"recon_block": RECON, **OTHERS}
# Losses of four windows of text.
UNADAPTED = [4.0, 5.0, 6.0, 7.0]
LOSSES = {
    "none": UNADAPTED,
    "matrix": [3.7, 4.8, 5.7, 6.8],
    "exact": [3.6, 4.8, 5.6, 6.8],
    "halves": [3.1, 4.2, 5.0, 6.1],
    "recon_block": [3.0, 4.0, 5.0, 6.0],
    "two": [3.0, 4.1, 5.0, 6.1],
    "whole": [3.3, 4.3, 5.4, 6.4],
    "local": [3.2, 4.1, 5.2, 6.1],
    "paper": [2.9, 4.0, 4.9, 6.0],
}


def study_of(*adaptations: str, **grid: Any) -> Study:
    names = ["none", *adaptations]
    return make_study(MORE, criteria=["wanda"], adaptations=names, **grid)


def records_of(
    study: Study, losses: dict[str, list[float | None]] | None = None
) -> dict[Cell, Any]:
    """Return records; a seed above 0 adds a hundredth to every gain."""
    found = {}
    for cell in study.cells:
        values = {**LOSSES, **(losses or {})}[cell.adaptation]
        if cell.is_dense:
            values = [2.0, 3.0, 4.0, 5.0]
        elif cell.adaptation != "none":
            values = [value and value - 0.01 * cell.seed for value in values]
        found[cell] = make_record(study, cell, values)
    return found


def rows_of(*adaptations: str, **grid: Any) -> dict[str, dict[str, Any]]:
    study = study_of(*adaptations, **grid)
    return {row["adaptation"]: row for row in window_rows(records_of(study), study)}


ALL = ("recon_block", *OTHERS)


def test_rows_go_from_small_to_large() -> None:
    rows = rows_of(*ALL)
    assert list(rows) == [
        *("matrix", "exact", "halves", "recon_block", "paper", "two", "whole"),
        "local",
    ]
    windows = {name: row["window"] for name, row in rows.items()}
    assert windows["exact"] == "matrix" and windows["two"] == 2 and windows["whole"] == "all"
    assert {name for name, row in rows.items() if row["exact"]} == {"exact"}
    assert (rows["local"]["inputs"], rows["local"]["targets"]) == ("sparse", "local")
    assert set(rows["two"]) == set(WINDOW_COLUMNS)


def test_gains_and_what_is_missed() -> None:
    rows = rows_of("recon_block", "matrix", "whole")
    assert all(row["best"] == "recon_block" for row in rows.values())
    assert rows["recon_block"]["gain"] == pytest.approx(1.0)
    assert rows["recon_block"]["improvement_lost"] == pytest.approx(0.0)
    gains = [0.3, 0.2, 0.3, 0.2]
    assert rows["matrix"]["gain"] == pytest.approx(0.25)
    assert rows["matrix"]["gain_standard_error"] == pytest.approx(statistics.stdev(gains) / 2)
    assert rows["matrix"]["improvement_lost"] == pytest.approx(0.75)
    # The best gains 1 on each window, so that what is missed moves as the other's gain does.
    error = statistics.stdev(gains) / 2
    assert rows["matrix"]["improvement_lost_standard_error"] == pytest.approx(error)
    assert rows["whole"]["perplexity_pruned"] == pytest.approx(math.exp(5.5))
    assert rows["whole"]["perplexity_dense"] == pytest.approx(math.exp(3.5))


@pytest.mark.parametrize("more", [0.0, 0.5])
def test_where_nothing_is_gained_nothing_is_missed(more: float) -> None:
    study = study_of("recon_block", "matrix")
    none_better = {key: [loss + more for loss in UNADAPTED] for key in ("recon_block", "matrix")}
    rows = window_rows(records_of(study, none_better), study)
    assert [row["gain"] for row in rows] == pytest.approx([-more, -more])
    assert all(math.isnan(row["improvement_lost"]) for row in rows)
    assert all(math.isnan(row["improvement_lost_standard_error"]) for row in rows)


def test_the_error_of_what_is_missed_has_that_of_seeds() -> None:
    """Gains of a block are 1, 1.01 and 1.02; of a matrix, 0.25, 0.26 and 0.27."""
    rows = rows_of("recon_block", "matrix", seeds=[0, 1, 2])
    kept = 0.26 / 1.01
    of_windows = [(kept * 1.01 - gain) / 1.01 for gain in (0.31, 0.21, 0.31, 0.21)]
    of_seeds = [(kept * (1 + more) - (0.25 + more)) / 1.01 for more in (0.0, 0.01, 0.02)]
    error = math.hypot(statistics.stdev(of_windows) / 2, statistics.stdev(of_seeds) / math.sqrt(3))
    assert rows["matrix"]["improvement_lost"] == pytest.approx(1 - kept)
    assert rows["matrix"]["improvement_lost_standard_error"] == pytest.approx(error)


def test_a_choice_on_the_evaluation_text_is_not_the_best_that_others_miss() -> None:
    rows = rows_of(*ALL)
    assert {row["best"] for row in rows.values()} == {"recon_block"}
    assert rows["paper"]["gain"] > rows["recon_block"]["gain"]
    assert rows["paper"]["improvement_lost"] == pytest.approx(-0.05)
    study = study_of("paper", "matrix")
    spoilt = {"matrix": [3.0, None, 5.0, 6.0]}
    assert {row["best"] for row in window_rows(records_of(study, spoilt), study)} == {"paper"}


def test_seeds_are_those_shared_with_the_best() -> None:
    study = study_of("recon_block", "matrix", seeds=[0, 1])
    records = records_of(study)
    rows = {row["adaptation"]: row for row in window_rows(records, study)}
    assert rows["matrix"]["seeds"] == 2
    assert rows["matrix"]["gain"] == pytest.approx(0.255)
    spread = rows["matrix"]["gain_standard_deviation_over_seeds"]
    assert spread == pytest.approx(statistics.stdev([0.25, 0.26]))
    gone = Cell.parse("tiny/wanda-u50/matrix/seed1")
    fewer = {cell: record for cell, record in records.items() if cell != gone}
    found = {row["adaptation"]: row for row in window_rows(fewer, study)}
    assert {name: row["seeds"] for name, row in found.items()} == {"recon_block": 2, "matrix": 1}
    assert found["matrix"]["gain"] == pytest.approx(0.25)
    gone = Cell.parse("tiny/wanda-u50/recon_block/seed1")
    fewer = {cell: record for cell, record in records.items() if cell != gone}
    assert {row["best"] for row in window_rows(fewer, study)} == {"recon_block"}
    assert {row["seeds"] for row in window_rows(fewer, study)} == {1}


TRIPLE = {"budget": {"times": 3, "of": "recon_block"}}
LARGER = {
    **MORE,
    "block_3": {**RECON, **TRIPLE},
    "matrix_3": {**RECON, **TRIPLE, "window": "matrix"},
    "whole_5": {**RECON, "budget": {"tokens": 5 * 8192}, "window": "all"},
}
LARGER_LOSSES: dict[str, list[float | None]] = {
    "block_3": [2.5, 3.5, 4.5, 5.5],
    "matrix_3": [3.5, 4.5, 5.5, 6.5],
    "whole_5": [2.0, 3.0, 4.0, 5.0],
}


def test_windows_are_compared_with_those_that_see_the_same_amount_of_text() -> None:
    """More text gains more, whatever the window."""
    names = ["none", "recon_block", "whole", "block_3", "matrix_3", "whole_5"]
    study = make_study(LARGER, criteria=["wanda"], adaptations=names)
    rows = window_rows(records_of(study, LARGER_LOSSES), study)
    assert [(row["tokens"], row["adaptation"], row["best"]) for row in rows] == [
        (8192, "recon_block", "recon_block"),
        (8192, "whole", "recon_block"),
        (3 * 8192, "matrix_3", "block_3"),
        (3 * 8192, "block_3", "block_3"),
    ]
    said = list(window_sentences(rows))
    assert [sentence.partition(":")[0] for sentence in said] == [
        "tiny, wanda, u50, 8,192 tokens",
        "tiny, wanda, u50, 24,576 tokens",
    ]


def test_a_study_compares_windows_only_if_they_see_the_same_amount_of_text() -> None:
    for names, expected in (
        (["recon_block", "matrix_3"], False),
        (["recon_block", "block_3"], False),
        (["recon_block", "block_3", "matrix_3"], True),
    ):
        study = make_study(LARGER, criteria=["wanda"], adaptations=["none", *names])
        assert study.comparisons.of_windows is expected
        losses = {name: LARGER_LOSSES.get(name, UNADAPTED) for name in names}
        assert bool(window_rows(records_of(study, losses), study)) is expected


def test_one_window_is_compared_with_nothing() -> None:
    assert rows_of("recon_block") == {}
    study = study_of("recon_block", "matrix")
    without = {c: r for c, r in records_of(study).items() if c.adaptation != "none" or c.is_dense}
    assert window_rows(without, study) == []


def test_a_loss_that_is_not_finite_is_never_the_best() -> None:
    study = study_of("recon_block", "matrix", "two")
    spoilt = {"recon_block": [3.0, None, 5.0, 6.0]}
    rows = {row["adaptation"]: row for row in window_rows(records_of(study, spoilt), study)}
    assert rows["matrix"]["best"] == "two"
    assert math.isnan(rows["recon_block"]["improvement_lost"])
