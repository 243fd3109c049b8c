"""The drift of activations from the dense model's, by depth and window."""

import math
from collections import Counter
from collections.abc import Mapping
from statistics import fmean

from freelunch.analysis.pairing import Records, Row, Rows, number, seed_groups
from freelunch.analysis.window_effect import usual_windows
from freelunch.study.cell import NONE

DRIFT_COLUMNS = (
    *("model", "criterion", "pattern", "adaptation", "seeds", "compared"),
    *("block", "kind", "output", "mean", "median", "max"),
)
# The outputs: the block's own, and those of all its matrices together.
BLOCK, MATRICES = "block", "matrices"
STATISTICS = ("mean", "median", "max")


def drift_rows(records: Records, windows: Rows) -> list[Row]:
    """Return a row, with DRIFT_COLUMNS, for each block of each pruned cell, for each kind of drift,
    and for the block's output and its matrices; seeds are averaged. For the matrices, mean and
    median are averaged over them and max is the largest. A number that is not finite is NaN.

    `windows` are the rows of `window_effect.window_rows`. `compared` is 1 for its usual windows
    (`usual_windows`), for all adaptations if no pruned model has several of these, and for models
    that are not adapted.
    """
    keys = DRIFT_COLUMNS[:4]
    by_window = {tuple(row[key] for key in keys) for row in usual_windows(windows)}
    if max(Counter(one[:-1] for one in by_window).values(), default=0) < 2:
        by_window = set()
    measured = {cell: record for cell, record in records.items() if "drift" in record["metrics"]}
    rows: list[Row] = []
    for cells in seed_groups(measured):
        names = {key: getattr(cells[0], key) for key in keys}
        compared = names["adaptation"] == NONE or not by_window
        compared |= tuple(names.values()) in by_window
        of_seeds = [measured[cell]["metrics"]["drift"]["drift"] for cell in cells]
        for kind in of_seeds[0]:
            for block in range(len(of_seeds[0][kind])):
                for output in (BLOCK, MATRICES):
                    facts = [_facts(drift[kind][block], output) for drift in of_seeds]
                    row = {**names, "seeds": len(cells), "compared": int(compared)}
                    row |= {"block": block, "kind": kind, "output": output}
                    row |= {key: fmean(each[key] for each in facts) for key in STATISTICS}
                    rows.append(row)
    return rows


def _facts(outputs: Mapping[str, Mapping[str, float | None]], output: str) -> dict[str, float]:
    shown = [BLOCK] if output == BLOCK else [name for name in outputs if name != BLOCK]
    facts = {}
    for key in STATISTICS:
        values = [number(outputs[name][key]) for name in shown]
        # `max` of numbers with a NaN among them depends on their order.
        is_largest = key == "max" and not any(map(math.isnan, values))
        facts[key] = max(values) if is_largest else fmean(values)
    return facts
