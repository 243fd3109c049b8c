"""Numbers for running text: each with its subject, its error and its rounded form."""

import math
from typing import Any

from freelunch.analysis.accuracy import MEAN
from freelunch.analysis.pairing import Row
from freelunch.reporting.adaptation_sections import times
from freelunch.reporting.formatting import rounded, with_error
from freelunch.reporting.metrics import METRICS
from freelunch.reporting.results import Results
from freelunch.study.cell import DENSE

# The quantities of a cell: those with a standard error and those without.
_IN_TEXT = [metric for metric in METRICS if metric.in_text]
_WITH_ERROR = (
    *("perplexity", "perplexity_over_dense"),
    *(metric.column for metric in _IN_TEXT if metric.read_error),
)
_BARE = (
    *(metric.column for metric in _IN_TEXT if not metric.read_error),
    *("sparsity", "adaptation_tokens", "adaptation_flops"),
    *("adaptation_wall_s", "adaptation_peak_bytes"),
)


def numbers_tree(results: Results) -> dict[str, dict[str, dict[str, Any]]]:
    """Return {subject: {quantity: {value, standard_error, text, seeds}}}.

    A subject is model/pruning/adaptation for a cell, model/pattern/adaptation for a gap between
    criteria (with the criterion that is left out), and model/pruning/series for the budget that
    reaches the reconstruction. Such a budget has `low` and `high`, the ends of its interval, in
    place of an error. A number that is not finite is null, because JSON cannot express it.
    """
    tree: dict[str, dict[str, dict[str, Any]]] = {}
    for mean in results.means:
        bare = {key: _number(mean, mean[key], None) for key in _BARE if mean[key] is not None}
        tree.setdefault(_name(mean), {}).update(_numbers(mean, *_WITH_ERROR) | bare)
    for row in results.tasks:
        name = "accuracy" if row["task"] == MEAN else f"accuracy_{row['task']}"
        tree.setdefault(_name(row), {})[name] = _numbers(row, "accuracy")["accuracy"]
    for row in results.windows:
        tree.setdefault(_name(row), {}).update(_numbers(row, "gain", "gain_missed"))
    for row in results.budgets:
        tree.setdefault(_name(row), {}).update(_numbers(row, "loss_minus_reference"))
    for row in results.gaps:
        name = f"{row['model']}/{row['pattern']}/{row['adaptation']}"
        name += f", without {row['left_out']}" if row["left_out"] is not None else ""
        tree[name] = _numbers(row, "worst_over_best", "gap_left")
    for row in results.reaches:
        value = row["reached_at_over_reference"]
        subject = tree.setdefault(_name({**row, "adaptation": row["series"]}), {})
        subject[f"reached_at_{row['unit']}_over_reference"] = {
            "value": _finite(value),
            "low": _finite(row["reached_at_low"]),
            "high": _finite(row["reached_at_high"]),
            "text": times(value, row),
        }
    return tree


def _name(row: Row) -> str:
    pruning = DENSE if row["criterion"] == DENSE else f"{row['criterion']}-{row['pattern']}"
    return f"{row['model']}/{pruning}/{row['adaptation']}"


def _numbers(row: Row, *quantities: str) -> dict[str, dict[str, Any]]:
    return {
        quantity: _number(row, row[quantity], row[f"{quantity}_standard_error"])
        for quantity in quantities
        if row[quantity] is not None
    }


def _number(row: Row, value: float, error: float | None) -> dict[str, Any]:
    return {
        "value": _finite(value),
        "standard_error": None if error is None else _finite(error),
        "text": rounded(value, value / 10) if error is None else with_error(value, error),
        "seeds": row["seeds"],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
