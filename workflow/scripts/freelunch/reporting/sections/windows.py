"""The part of the summary that says what the window is worth, in words and rounded numbers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from freelunch.analysis.window_effect import compared
from freelunch.reporting.formatting import NOTHING, marked, over_dense, percent, with_error
from freelunch.study.windows import MATRIX

# A difference of so many standard errors is called one.
CLEAR = 2.0
WINDOW_NOTES = (
    "Window: so many consecutive blocks, or what of one; masks are the same for all. Gain: loss "
    "without the adaptation minus that with it, nats a token. Gain missed: what the best of the "
    "same pruned model's adaptations gains more, as a share of its gain; ± is the standard error "
    "of the paired differences, over windows of text and, where there are several, over seeds.",
    "Of adaptations with the same window, inputs and targets only the first of the config is "
    "compared. The best is chosen by what was measured: what the others miss is a little too much.",
)


def window_line(row: Mapping[str, Any]) -> dict[str, str]:
    """Return one line of the table, from column to text."""
    exact = ", least squares" if row["exact"] else ""
    return {
        "model": row["model"],
        "criterion": row["criterion"],
        "pattern": row["pattern"],
        "adaptation": marked(row["adaptation"], row["selected_on"]),
        "window": f"{row['window']}{exact}",
        "inputs, targets": f"{row['inputs']}, {row['targets']}",
        "seeds": str(row["seeds"]),
        "perplexity": with_error(row["perplexity"], row["perplexity_standard_error"]),
        "over dense": over_dense(row),
        "gain": with_error(row["gain"], row["gain_standard_error"]),
        "gain missed": NOTHING
        if row["adaptation"] == row["best"]
        else percent(row["gain_missed"], row["gain_missed_standard_error"]),
        "peak memory": f"{row['adaptation_peak_bytes'] / 1e9:.2f} GB",
        "TFLOP": f"{row['adaptation_flops'] / 1e12:.1f}",
    }


def window_sentences(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what the windows of each pruned model say: those that hold a non-linear module, and
    single matrices.
    """
    for name, here in compared(rows):
        # A choice on the evaluation text is shown, and not counted.
        usual = [
            row
            for row in here
            if (row["inputs"], row["targets"]) == ("dense", "dense")
            and row["selected_on"] != "evaluation"
        ]
        larger = [row for row in usual if row["window"] != MATRIX]
        matrices = [row for row in usual if row["window"] == MATRIX]
        finite = [row for row in larger if math.isfinite(row["gain_missed"])]
        if len(finite) > 1:
            best = min(finite, key=lambda row: row["gain_missed"])
            worst = max(finite, key=lambda row: row["gain_missed"])
            missed = percent(worst["gain_missed"], worst["gain_missed_standard_error"])
            clear = _is_clear(worst)
            yield (
                f"{name}: of {len(finite)} windows from half a block on, {best['window']} gains "
                f"most and {worst['window']} least; it misses {missed} of the best's gain"
                + ("." if clear else ", which is not clear of the error.")
            )
        for row in matrices:
            missed = percent(row["gain_missed"], row["gain_missed_standard_error"])
            how = "by least squares, the best it can do" if row["exact"] else "trained"
            verdict = "misses" if _is_clear(row) else "does not clearly miss any of the gain:"
            if row["adaptation"] == row["best"]:
                verdict, missed = "gains", "most"
            yield f"{name}: the window of one matrix, {how}, {verdict} {missed}."


def _is_clear(row: Mapping[str, Any]) -> bool:
    return bool(row["gain_missed"] > CLEAR * row["gain_missed_standard_error"])
