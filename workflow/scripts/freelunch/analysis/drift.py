"""The drift of activations from the dense model's, by depth and window."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from freelunch.analysis.pairing import Records, Row, seed_groups
from freelunch.analysis.window_effect import usual_windows
from freelunch.study.cell import NONE

DRIFT_COLUMNS = (
    *("model", "criterion", "pattern", "adaptation", "seeds", "compared"),
    *("block", "kind", "output", "mean", "median", "max"),
)
# The outputs: the block's own, and those of all its matrices together.
BLOCK, MATRICES = "block", "matrices"
STATISTICS = ("mean", "median", "max")


def drift_rows(records: Records, windows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return a row, with DRIFT_COLUMNS, for each block of each pruned cell, for each kind of drift,
    and for the block's output and its matrices; seeds are averaged.

    For the matrices, mean and median are averaged over them and max is the largest. A number that
    is not finite is NaN.

    Args:
        records: The records of the study.
        windows: What `analysis.window_effect.window_rows` returns. `compared` is 1 for its usual
            windows (`usual_windows`), for all adaptations if no pruned model has several of these,
            and for models that are not adapted.
    """
    keys = "model", "criterion", "pattern", "adaptation"
    by_window = {tuple(row[key] for key in keys) for row in usual_windows(windows)}
    if max(Counter(one[:-1] for one in by_window).values(), default=0) < 2:
        by_window = set()
    measured = {cell: record for cell, record in records.items() if "drift" in record["metrics"]}
    rows: list[Row] = []
    for cells in seed_groups(measured):
        one = cells[0]
        names = {key: getattr(one, key) for key in keys}
        known = tuple(names.values()) in by_window or not by_window
        compared = one.adaptation == NONE or known
        found = [measured[cell]["metrics"]["drift"]["drift"] for cell in cells]
        for kind in found[0]:
            for block in range(len(found[0][kind])):
                of_seeds = [drift[kind][block] for drift in found]
                for output in (BLOCK, MATRICES):
                    seeds = [_facts(outputs, output) for outputs in of_seeds]
                    rows.append(
                        {
                            **names,
                            "seeds": len(cells),
                            "compared": int(compared),
                            "block": block,
                            "kind": kind,
                            "output": output,
                            **{key: fmean(facts[key] for facts in seeds) for key in STATISTICS},
                        }
                    )
    return rows


def _facts(outputs: Mapping[str, Mapping[str, float | None]], output: str) -> dict[str, float]:
    """Return the statistics of a block's own output, or of all its matrices."""
    shown = [BLOCK] if output == BLOCK else [name for name in outputs if name != BLOCK]
    values = {
        key: [float("nan") if (value := outputs[name][key]) is None else value for name in shown]
        for key in STATISTICS
    }
    # `max` of numbers with a NaN among them depends on their order.
    return {
        key: max(of) if key == "max" and not any(map(math.isnan, of)) else fmean(of)
        for key, of in values.items()
    }
