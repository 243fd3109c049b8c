"""The section of the summary that shows the effect of the window size."""

import math
from collections.abc import Iterator

from freelunch.analysis.pairing import Row, Rows
from freelunch.analysis.window_effect import compared_together, usual_windows
from freelunch.reporting.formatting import (
    NOTHING,
    adaptation_name,
    over_dense,
    shown,
    shown_percent,
)
from freelunch.reporting.summary import Section
from freelunch.study.windows import MATRIX

FAVOURED = (
    "What was chosen on the evaluation text is not the best that the others are compared with: it "
    "may gain more than that, and then misses less than nothing."
)
WORDS = ("model", "criterion", "pattern", "adaptation", "window", "inputs, targets")
NOTES = (
    "Window: the number of consecutive blocks that are adapted together, or the part of a block; "
    "the masks are the same for all windows. Gain: the loss without the adaptation minus the loss "
    "with it, in nats per token. Gain missed: how much less an adaptation gains than the best one "
    "of the same pruned model and amount of text, as a share of the best gain; ± is the standard "
    "error of the paired differences, over windows of text and, if there are several, over seeds. "
    "Each is compared with the best over the seeds that the two share, so perplexities may be "
    "means over different seeds.",
    "Windows are compared if they share all other settings but the learning rate. Among "
    "adaptations with the same window, inputs and targets, only the first in the config is "
    "compared. The best of all windows here is chosen by these same measurements, so what the "
    "others miss is overestimated. The audit compares only the windows that a claim names.",
)


def windows_section(windows: Rows) -> Section:
    """Return the section."""
    lines = [_line(row) for row in windows]
    favoured = [FAVOURED] if any(row["selected_on"] == "evaluation" for row in windows) else []
    notes = [*window_sentences(windows), *NOTES, *favoured]
    return Section("windows", "Effect of the window size", lines, notes, WORDS)


def window_sentences(windows: Rows) -> Iterator[str]:
    """Yield what the windows of each pruned model and amount of text show: first those that hold a
    non-linear module, then single matrices.
    """
    for model, amount, here in compared_together(windows):
        name = ", ".join(filter(None, [model, amount]))
        usual = usual_windows(here)
        larger = [
            row for row in usual if row["window"] != MATRIX and math.isfinite(row["gain_missed"])
        ]
        if len(larger) > 1:
            best, *_, worst = sorted(larger, key=lambda row: row["gain_missed"])
            yield (
                f"{name}: among {len(larger)} windows of half a block or more, {best['window']} "
                f"gains most and {worst['window']} least: it misses {_missed(worst)} of the best "
                "gain."
            )
        for row in usual:
            if row["window"] == MATRIX:
                yield f"{name}: the window of one matrix, {_of_a_matrix(row)}"


def _line(row: Row) -> dict[str, str]:
    """Return one line of the table, from column to text."""
    exact = ", least squares" if row["exact"] else ""
    return {
        "model": row["model"],
        "criterion": row["criterion"],
        "pattern": row["pattern"],
        "adaptation": adaptation_name(row),
        "window": f"{row['window']}{exact}",
        "inputs, targets": f"{row['inputs']}, {row['targets']}",
        "tokens": f"{row['tokens']:,}",
        "seeds": str(row["seeds"]),
        "perplexity": shown(row, "perplexity"),
        "ratio to dense": over_dense(row),
        "gain": shown(row, "gain"),
        "gain missed": NOTHING if row["adaptation"] == row["best"] else _missed(row),
        "peak memory": f"{row['adaptation_peak_bytes'] / 1e9:.2f} GB",
        "TFLOP": f"{row['adaptation_flops'] / 1e12:.1f}",
    }


def _of_a_matrix(row: Row) -> str:
    """Return what a window of one matrix gains."""
    how = "solved by least squares, which is its optimum," if row["exact"] else "trained,"
    if row["adaptation"] == row["best"]:
        return f"{how} gains most."
    if not math.isfinite(row["gain_missed"]):
        return f"{how} cannot be compared: its loss is not finite."
    return f"{how} misses {_missed(row)} of the best gain."


def _missed(row: Row) -> str:
    return shown_percent(row, "gain_missed")
