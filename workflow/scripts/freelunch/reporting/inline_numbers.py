"""Numbers for running text: each with its subject, its error and its rounded form."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from freelunch.analysis.accuracy import MEAN
from freelunch.reporting.formatting import rounded, with_error
from freelunch.reporting.metrics import METRICS
from freelunch.reporting.results import Results
from freelunch.reporting.sections.budgets import times
from freelunch.study.cell import DENSE

Numbers = dict[str, dict[str, dict[str, Any]]]
# The quantities of each table: those with a standard error and, for a cell, those without.
_OF_CELL = (
    (
        *("perplexity", "perplexity_over_dense"),
        *(metric.column for metric in METRICS if metric.in_text and metric.read_error),
    ),
    (
        *(metric.column for metric in METRICS if metric.in_text and not metric.read_error),
        *("sparsity", "adaptation_tokens", "adaptation_flops"),
        *("adaptation_wall_s", "adaptation_peak_bytes"),
    ),
)
_OF_WINDOW = ("gain", "gain_missed")
_OF_BUDGET = ("loss_minus_reference",)
_OF_GAP = ("worst_over_best", "gap_left")


def numbers_tree(results: Results) -> Numbers:
    """Return {subject: {quantity: {value, standard_error, text, seeds}}}.

    A subject is model/pruning/adaptation for a cell, model/pattern/adaptation for a gap between
    criteria (with the criterion that is left out), and model/pruning/series for the budget that
    reaches the reconstruction. Such a budget has `low` and `high`, the ends of its interval, in
    place of an error. A number that is not finite is null, because JSON cannot express it.
    """
    found: Numbers = {}
    for mean in results.means:
        _put(found, _name(mean), mean, *_OF_CELL)
    for row in results.tasks:
        name = "accuracy" if row["task"] == MEAN else f"accuracy_{row['task']}"
        error = row["accuracy_standard_error"]
        found.setdefault(_name(row), {})[name] = _number(row["accuracy"], error, row["seeds"])
    for row in results.windows:
        _put(found, _name(row), row, _OF_WINDOW)
    for row in results.budgets:
        _put(found, _name(row), row, _OF_BUDGET)
    for row in results.gaps:
        name = f"{row['model']}/{row['pattern']}/{row['adaptation']}"
        if row["left_out"] is not None:
            name += f", without {row['left_out']}"
        _put(found, name, row, _OF_GAP)
    for row in results.reaches:
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
    """Add the quantities that a row has."""
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
    """Return the budget that reaches the reconstruction; null where none that was run does."""
    value = row["reached_at_over_reference"]
    ends = {end: _finite(row[f"reached_at_{end}"]) for end in ("low", "high")}
    return {"value": _finite(value), **ends, "text": times(value, row)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
