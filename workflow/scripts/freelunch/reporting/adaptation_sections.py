"""The sections of the summary about adaptations: windows beside each other, and retraining beside
reconstruction, budget by budget.
"""

import math
from collections.abc import Iterator

from freelunch.analysis.doubts import PERPLEXITY
from freelunch.analysis.pairing import Row, Rows
from freelunch.analysis.window_effect import LOST, compared_together, usual_windows
from freelunch.reporting.formatting import (
    NOT_FINITE,
    NOTHING,
    Section,
    adaptation_name,
    over_dense,
    shown,
    shown_percent,
    significant,
)
from freelunch.study.cell import pruned_model
from freelunch.study.windows import MATRIX

PRUNED = ("model", "criterion", "pattern")
MINUS = "\N{MINUS SIGN}"
FAVOURED = (
    "What was chosen on the evaluation text is not the best that others are compared with, and may "
    "lose less than nothing."
)
WINDOW_NOTES = (
    "Window: the number of consecutive blocks that are adapted together, or the part of a block; "
    "the masks are the same for all. Improvement: by how much the adaptation lowers the loss, in "
    "nats per token. Improvement lost: how much less that is than of the best one of the same "
    "pruned model and amount of text, as a share of it; ± is the standard error of the paired "
    "differences, over windows of text and over seeds. Each is compared with the best over the "
    "seeds that the two share, so perplexities may be means over different seeds.",
    "Windows are compared if they share all other settings but the learning rate, and only the "
    "first in the config for each window, inputs and targets. The best is chosen by these same "
    "measurements, so what the others lose is overestimated.",
)
BUDGET_NOTES = (
    "Tokens: tokens seen, counting repeats; distinct: the distinct tokens of the text among them. "
    "Steps: steps of the optimiser for each trained parameter. TFLOP: those of the "
    "adaptation, including the dense pass that made its targets, and of the search for its "
    f"learning rate if there was one. Loss {MINUS} reconstruction: the mean loss minus that "
    "of the reconstruction it is compared with, in nats per token, over the seeds of the row; ± is "
    "the standard error of the paired differences over documents of the text, or over its windows "
    "if documents were joined.",
    "A retraining reaches the reconstruction at the budget where its loss, interpolated linearly "
    "in the logarithm of the budget, comes down to the reconstruction's. The interval is a "
    "Student's t interval over documents of the text (or over windows of joined documents, with "
    "allowance for the correlation of neighbours), and over seeds if there are several. At most: "
    "the smallest budget that was run already reaches it; smaller ones were not tried.",
)


def windows_section(windows: Rows) -> Section:
    """Return the section that shows the effect of the window size."""
    lines = [
        {
            **{column: row[column] for column in PRUNED},
            "adaptation": adaptation_name(row, PERPLEXITY),
            "window": f"{row['window']}{', least squares' if row['exact'] else ''}",
            "inputs, targets": f"{row['inputs']}, {row['targets']}",
            "tokens": f"{row['tokens']:,}",
            "seeds": str(row["seeds"]),
            "perplexity": shown(row, "perplexity"),
            "ratio to dense": over_dense(row),
            "improvement": shown(row, "gain"),
            "improvement lost": NOTHING if row["adaptation"] == row["best"] else _lost(row),
            "peak memory": f"{row['adaptation_peak_bytes'] / 1e9:.2f} GB",
            "TFLOP": f"{row['adaptation_flops'] / 1e12:.1f}",
        }
        for row in windows
    ]
    favoured = [FAVOURED] if any(row["selected_on"] == "evaluation" for row in windows) else []
    notes = [*window_sentences(windows), *WINDOW_NOTES, *favoured]
    words = (*PRUNED, "adaptation", "window", "inputs, targets")
    return Section("Effect of the window size", lines, notes, words)


def window_sentences(windows: Rows) -> Iterator[str]:
    """Yield what the windows of each pruned model and amount of text show: first those that hold a
    non-linear module, then single matrices.
    """
    for model, amount, here in compared_together(windows):
        name = ", ".join(filter(None, [model, amount]))
        usual = usual_windows(here)
        larger = [row for row in usual if row["window"] != MATRIX and math.isfinite(row[LOST])]
        if len(larger) > 1:
            best, *_, worst = sorted(larger, key=lambda row: row[LOST])
            yield (
                f"{name}: among {len(larger)} windows of half a block or more, {best['window']} "
                f"improves most and {worst['window']} least: it loses {_lost(worst)} of the best "
                "improvement."
            )
        for row in usual:
            if row["window"] == MATRIX:
                yield f"{name}: the window of one matrix, {_of_a_matrix(row)}"


def _of_a_matrix(row: Row) -> str:
    how = "in closed form, its optimum," if row["exact"] else "trained,"
    if row["adaptation"] == row["best"]:
        return f"{how} improves most."
    if not math.isfinite(row[LOST]):
        return f"{how} cannot be compared: its loss is not finite."
    return f"{how} loses {_lost(row)} of the best improvement."


def _lost(row: Row) -> str:
    return shown_percent(row, LOST)


def budgets_section(budgets: Rows, reaches: Rows) -> Section:
    """Return the section that compares retraining with reconstruction, budget by budget."""
    notes = [*reach_sentences(reaches), *BUDGET_NOTES]
    title, words = "Retraining beside reconstruction", (*PRUNED, "adaptation", "what")
    return Section(title, list(map(budget_line, budgets)), notes, words)


def budget_line(row: Row) -> dict[str, str]:
    """Return one line of the table, from column to text."""
    search = f" + {row['search_flops'] / 1e12:,.0f}" if row["search_flops"] else ""
    trained = row["trained_parameters"]
    return {
        **{column: row[column] for column in PRUNED},
        "adaptation": adaptation_name(row, PERPLEXITY),
        "what": row["series"],
        "tokens": f"{row['tokens']:,.0f}",
        "distinct": f"{row['distinct_tokens']:,.0f}",
        "steps": NOTHING if row["steps"] is None else f"{row['steps']:,}",
        "trained": f"{trained / 1e6:,.1f} M" if trained >= 1e6 else f"{trained / 1e3:,.1f} k",
        "TFLOP": f"{row['flops'] / 1e12:,.1f}{search}",
        "peak memory": f"{row['peak_bytes'] / 1e9:.2f} GB",
        "perplexity": shown(row, "perplexity"),
        "ratio to dense": over_dense(row),
        "seeds": f"{row['seeds']}",
        f"loss {MINUS} reconstruction": shown(row, "loss_minus_reference"),
    }


def reach_sentences(reaches: Rows) -> Iterator[str]:
    """Yield a sentence for each retraining series: the budget that reaches the reconstruction."""
    series: dict[str, dict[str, Row]] = {}
    for row in reaches:
        series.setdefault(f"{pruned_model(row)}: {row['series']}", {})[row["unit"]] = row
    for name, units in series.items():
        yield f"{name} {_reach(units['tokens'], units['flops'])}."


def _reach(tokens: Row, flops: Row) -> str:
    value, reference = tokens["reached_at_over_reference"], tokens["reference"]
    if math.isnan(value):
        return f"cannot be compared: {reference} diverged"
    if math.isinf(value):
        interval = "" if math.isinf(tokens["reached_at_low"]) else f"; {_interval(tokens)}"
        largest = significant(tokens["largest_over_reference"], 3)
        return f"does not reach {reference} with up to {largest} times its tokens{interval}"
    if value <= tokens["smallest_over_reference"]:
        least = [significant(row["smallest_over_reference"], 3) for row in (tokens, flops)]
        return (
            f"already reaches {reference} at the smallest budget that was run: with at most "
            f"{least[0]} times its tokens and {least[1]} times its FLOPs; {_interval(tokens)}"
        )
    operations = significant(flops["reached_at_over_reference"])
    return (
        f"reaches {reference} with {significant(value)} times its tokens ({_interval(tokens)}) and "
        f"{operations} times its FLOPs ({_interval(flops)})"
    )


def _interval(row: Row) -> str:
    if math.isnan(row["reached_at_low"]):
        return "no interval"
    low, high = (times(row[key], row) for key in ("reached_at_low", "reached_at_high"))
    return f"95 %: {low}" if low == high else f"95 %: {low} to {high}"


def times(value: float, row: Row) -> str:
    """Return a budget that reaches the reconstruction, or an end of its interval, in words: as a
    multiple of the reconstruction's budget. The row is that of `analysis.budget_effect.reach_rows`.
    """
    if math.isnan(value):
        return NOT_FINITE
    if math.isinf(value):
        return f"more than {significant(row['largest_over_reference'])}"
    if value <= row["smallest_over_reference"]:
        # Smaller budgets were not tried.
        return f"at most {significant(row['smallest_over_reference'])}"
    return significant(value)
