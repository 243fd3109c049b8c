"""Numbers for running text: each with its error and as a reader sees it, by what it is of."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from freelunch.analysis.accuracy import MEAN
from freelunch.reporting.formatting import rounded, with_error
from freelunch.reporting.sections.budgets import times
from freelunch.study.cell import DENSE

Rows = Sequence[Mapping[str, Any]]
Numbers = dict[str, dict[str, dict[str, Any]]]
# Of each table, the quantities that have a standard error, and those that have none.
_OF_CELL = (
    ("perplexity", "perplexity_over_dense", "held_out_perplexity"),
    (
        *("drift_mean", "sparsity", "adaptation_tokens", "adaptation_flops"),
        *("adaptation_wall_s", "adaptation_peak_bytes"),
    ),
)
_OF_WINDOW = ("gain", "gain_missed")
_OF_BUDGET = ("loss_minus_reference",)
_OF_GAP = ("worst_over_best", "gap_left")


def numbers_tree(
    means: Rows,
    tasks: Rows = (),
    gaps: Rows = (),
    windows: Rows = (),
    budgets: Rows = (),
    reaches: Rows = (),
) -> Numbers:
    """Return {what it is of: {quantity: {value, standard_error, text, seeds}}}.

    What it is of is model/pruning/adaptation, of the gap between criteria model/pattern/adaptation
    (and what is left out), and of the budget that reaches reconstruction model/pruning/series; such
    a budget has `low` and `high`, the ends of its interval, in place of an error. A number that is
    not finite is null, as JSON has no other.

    Args:
        means: As `freelunch.reporting.tables.means_over_seeds` returns them.
        tasks: As `freelunch.analysis.accuracy.task_rows` returns them.
        gaps: As `freelunch.analysis.criteria_gap.gap_rows` returns them.
        windows: As `freelunch.analysis.window_effect.window_rows` returns them.
        budgets: As `freelunch.analysis.budget_effect.budget_rows` returns them.
        reaches: As `freelunch.analysis.budget_effect.reach_rows` returns them.
    """
    found: Numbers = {}
    for mean in means:
        _put(found, _name(mean), mean, *_OF_CELL)
    for row in tasks:
        name = "accuracy" if row["task"] == MEAN else f"accuracy_{row['task']}"
        error = row["accuracy_standard_error"]
        found.setdefault(_name(row), {})[name] = _number(row["accuracy"], error, row["seeds"])
    for row in windows:
        _put(found, _name(row), row, _OF_WINDOW)
    for row in budgets:
        _put(found, _name(row), row, _OF_BUDGET)
    for row in gaps:
        name = f"{row['model']}/{row['pattern']}/{row['adaptation']}"
        if row["left_out"] is not None:
            name += f", without {row['left_out']}"
        _put(found, name, row, _OF_GAP)
    for row in reaches:
        found.setdefault(_name({**row, "adaptation": row["series"]}), {})[
            f"reached_at_{row['unit']}_over_reference"
        ] = _reached(row)
    return found


def _put(
    found: Numbers,
    name: str,
    row: Mapping[str, Any],
    with_errors: Sequence[str],
    bare: Sequence[str] = (),
) -> None:
    """Add those quantities of a row that it has."""
    of_name = found.setdefault(name, {})
    for quantity in with_errors:
        if row[quantity] is not None:
            error = row[f"{quantity}_standard_error"]
            of_name[quantity] = _number(row[quantity], error, row["seeds"])
    for quantity in bare:
        if row[quantity] is not None:
            of_name[quantity] = _number(row[quantity], None, row["seeds"])


def _name(row: Mapping[str, Any]) -> str:
    pruning = DENSE if row["criterion"] == DENSE else f"{row['criterion']}-{row['pattern']}"
    return f"{row['model']}/{pruning}/{row['adaptation']}"


def _number(value: float, error: float | None, seeds: int) -> dict[str, Any]:
    text = rounded(value, value / 10) if error is None else with_error(value, error)
    return {
        "value": _finite(value),
        "standard_error": None if error is None else _finite(error),
        "text": text,
        "seeds": seeds,
    }


def _reached(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a budget that reaches reconstruction; null where none that was run does."""
    value = row["reached_at_over_reference"]
    ends = {end: _finite(row[f"reached_at_{end}"]) for end in ("low", "high")}
    return {"value": _finite(value), **ends, "text": times(value, row)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
