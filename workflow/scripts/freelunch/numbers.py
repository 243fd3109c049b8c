"""Numbers for running text: each with its error and as a reader sees it, by what it is of."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from freelunch.accuracy import MEAN
from freelunch.cell import DENSE
from freelunch.rounding import with_error

Numbers = dict[str, dict[str, dict[str, Any]]]
_OF_CELL = ("perplexity", "perplexity_over_dense", "held_out_perplexity")


def numbers_tree(means: Sequence[Mapping[str, Any]], tasks: Sequence[Mapping[str, Any]]) -> Numbers:
    """Return {model/pruning/adaptation: {quantity: {value, standard_error, text, seeds}}}.

    A number that is not finite is null, as JSON has no other.

    Args:
        means: As `freelunch.tables.means_over_seeds` returns them.
        tasks: As `freelunch.accuracy.task_rows` returns them.
    """
    found: Numbers = {}
    for mean in means:
        of_cell = found.setdefault(_name(mean), {})
        for quantity in _OF_CELL:
            if mean[quantity] is not None:
                error = mean[f"{quantity}_standard_error"]
                of_cell[quantity] = _number(mean[quantity], error, mean["seeds"])
    for row in tasks:
        if row["task"] == MEAN:
            accuracy = row["accuracy"], row["accuracy_standard_error"]
            found[_name(row)]["accuracy"] = _number(*accuracy, row["seeds"])
    return found


def _name(row: Mapping[str, Any]) -> str:
    pruning = DENSE if row["criterion"] == DENSE else f"{row['criterion']}-{row['pattern']}"
    return f"{row['model']}/{pruning}/{row['adaptation']}"


def _number(value: float, error: float, seeds: int) -> dict[str, Any]:
    return {
        "value": value if math.isfinite(value) else None,
        "standard_error": error if math.isfinite(error) else None,
        "text": with_error(value, error),
        "seeds": seeds,
    }
