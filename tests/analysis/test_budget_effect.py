"""What retraining takes to reach a reconstruction, on made-up records."""

import math
from typing import Any

import numpy as np
import pytest

from freelunch.analysis.budget_effect import (
    BUDGET_COLUMNS,
    budget_comparisons,
    budget_rows,
    on_shared_seeds,
    reached_at,
)
from freelunch.analysis.pairing import paired_difference
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from records_for_tests import make_records, make_study

TIMES = {"recon_3": 3, "full_1": 1, "full_4": 4, "distilled_2": 2}
ENTRIES: dict[str, dict[str, Any]] = {
    "recon_3": {"method": "reconstruction"},
    "recon_all": {"method": "reconstruction", "window": "all"},
    "full_1": {"method": "full"},
    "full_4": {"method": "full"},
    "norms_1": {"method": "norms"},
    "distilled_2": {"method": "full", "loss": "distillation"},
}
for name, times in TIMES.items():
    ENTRIES[name]["budget"] = {"times": times, "of": "recon_block"}
PERPLEXITIES = {
    **{"none": 60.0, "recon_block": 40.0, "recon_3": 38.0, "recon_all": 41.0},
    **{"full_1": 48.0, "full_4": 36.0, "norms_1": 55.0, "distilled_2": 39.0},
}
NAMES = ["none", "recon_block", *ENTRIES]
STUDY = make_study(ENTRIES, criteria=["wanda"], adaptations=NAMES, seeds=[0])
Made = dict[Cell, dict[str, Any]]


def made(**perplexities: float) -> Made:
    values = PERPLEXITIES | perplexities
    return make_records(
        STUDY,
        {str(cell): values[cell.adaptation] for cell in STUDY.cells if not cell.is_dense},
    )


def record_of(records: Made, adaptation: str, seed: int = 0) -> dict[str, Any]:
    (record,) = (
        record
        for cell, record in records.items()
        if (cell.adaptation, cell.seed) == (adaptation, seed)
    )
    return record


def losses_of(record: dict[str, Any]) -> list[float | None]:
    return record["metrics"]["perplexity"]["window_losses"]


def budget(records: Made, adaptation: str, study: Study = STUDY) -> dict[str, Any]:
    (row,) = (row for row in budget_rows(records, study) if row["adaptation"] == adaptation)
    return row


def test_rows_are_of_the_reconstruction_and_of_all_retraining() -> None:
    """By series, then by budget; a reconstruction by another window is none of them."""
    rows = budget_rows(made(), STUDY)
    assert all(row.keys() == set(BUDGET_COLUMNS) for row in rows)
    assert [(row["series"], row["adaptation"]) for row in rows] == [
        ("reconstruction, window 1", "recon_block"),
        ("reconstruction, window 1", "recon_3"),
        ("full", "full_1"),
        ("full", "full_4"),
        ("norms", "norms_1"),
        ("full, distilled", "distilled_2"),
    ]
    assert [row["tokens"] for row in rows] == [8192, 24576, 8192, 32768, 8192, 16384]
    assert {row["reference"] for row in rows} == {"recon_block"}


@pytest.mark.parametrize(
    ("amounts", "excess", "expected"),
    [
        ([1, 3, 10], [-0.1, -0.2, -0.3], 1),
        ([1, 3, 10], [0.0, 0.2, 0.3], 1),
        ([1, 4], [0.1, -0.1], 2),
        ([1, 3, 9], [0.2, 0.1, -0.1], 3 * math.sqrt(3)),
        ([1, 4, 16], [0.1, 0.1, 0.0], 16),
        ([1, 3, 10], [0.3, 0.2, 0.1], math.inf),
        ([2], [0.1], math.inf),
        ([2], [-0.1], 2),
        # The first time counts.
        ([1, 4, 16], [0.1, -0.1, 0.1], 2),
    ],
)
def test_where_a_budget_reaches(amounts: list[float], excess: list[float], expected: float) -> None:
    found = reached_at(amounts, [np.array(loss) for loss in excess])
    assert float(found) == pytest.approx(expected)


def test_operations_include_the_dense_pass_that_made_the_targets() -> None:
    records = made()
    cost = record_of(records, "recon_block")["cost"]["reconstruct_window"]
    cost["dense_flops"] = 2 * 10**12
    assert budget(records, "recon_block")["flops"] == 7 * 10**12


def test_what_seeds_chose_differently_is_not_said_to_be_all_of_theirs() -> None:
    study = make_study(ENTRIES, criteria=["wanda"], adaptations=NAMES, seeds=[0, 1])
    records = make_records(study, {})
    for seed, (rate, epochs) in enumerate(((0.1, 1), (0.2, 2))):
        candidates = {"one": {"learning_rate": rate, "epochs": epochs}}
        choice = {"selected_on": "calibration", "chosen": "one", "candidates": candidates}
        facts = record_of(records, "full_1", seed)["adaptation"]
        facts |= {"steps": 16 * epochs, "choice": choice}
    row = budget(records, "full_1", study)
    keys = ("learning_rate", "epochs", "steps", "selected_on")
    assert [row[key] for key in keys] == [None, None, None, "calibration"]
    other = budget(records, "full_4", study)
    assert other["epochs"] == 1 and other["steps"] is not None


def with_other_seeds(**seeds: list[int]) -> tuple[Study, Made]:
    """Return a study whose adaptations have different seeds, and its records."""
    study = make_study(ENTRIES, criteria=["wanda"], adaptations=["none"], seeds=[0, 1, 2])
    config = study.as_json()
    grids = config["study"]["grids"]
    for name, of_name in seeds.items():
        grids.append({**grids[0], "adaptations": [name], "seeds": of_name})
    study = Study.check(config, "made-up.yaml")
    values = {
        str(cell): PERPLEXITIES[cell.adaptation] + cell.seed
        for cell in study.cells
        if not cell.is_dense
    }
    return study, make_records(study, values)


def test_each_budget_is_compared_on_the_seeds_that_it_shares_with_the_reference() -> None:
    study, records = with_other_seeds(
        recon_block=[0, 1, 2, 3], full_1=[1], norms_1=[1, 2, 4], distilled_2=[3]
    )
    rows = budget_rows(records, study)
    # The seeds 3 and 4 have no unadapted model.
    seeds = [("recon_block", 3), ("full_1", 1), ("norms_1", 2)]
    assert [(row["adaptation"], row["seeds"]) for row in rows] == seeds
    losses = [losses_of(record_of(records, name, 1)) for name in ("full_1", "recon_block")]
    assert rows[1]["loss_minus_reference"] == pytest.approx(paired_difference(*losses)[0])
    assert rows[1]["perplexity_pruned"] == pytest.approx(PERPLEXITIES["none"] + 1)


def test_what_seeds_took() -> None:
    """Times and operations are means over the seeds, memory is the largest."""
    study, records = with_other_seeds(recon_block=[0, 1, 2], full_1=[0, 1, 2])
    for more in (0, 1, 2):
        cost = record_of(records, "full_1", more)["cost"]
        cost["retrain_model"] |= {"wall_s": 10 + more, "cpu_s": 20 + more}
        cost["retrain_model"] |= {"flops": 300 + more, "peak_bytes": 400 - more}
        cost["search"] = {"flops": 50 + more}
    row = budget(records, "full_1", study)
    assert (row["wall_s"], row["cpu_s"], row["flops"]) == (11, 21, 301)
    assert (row["peak_bytes"], row["search_flops"]) == (400, 51)
    error = row["loss_minus_reference_standard_error"]
    assert row["perplexity_error_beside_reference"] == pytest.approx(row["perplexity"] * error)


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        ([0, 1, 2], [0], (1, 3)),
        # Fewer seeds than three leave no budget out.
        ([0, 1], [0], (2, 1)),
        ([0, 1], [0, 1], (2, 2)),
        ([0, 1, 2], [0, 1, 2], (2, 3)),
        # The lowest seed counts, where only one is shared.
        ([0], [2], (1, 1)),
    ],
)
def test_a_large_budget_with_fewer_seeds_takes_none_from_the_others(
    small: list[int], large: list[int], expected: tuple[int, int]
) -> None:
    study, records = with_other_seeds(recon_block=[0, 1, 2], full_1=small, full_4=large)
    (comparison,) = budget_comparisons(records, study)
    compared = on_shared_seeds(comparison.reference, {"full": comparison.curves["full"]}, {})
    assert compared is not None
    reference, ways = compared
    assert (len(ways["full"]), len(reference.cells)) == expected
