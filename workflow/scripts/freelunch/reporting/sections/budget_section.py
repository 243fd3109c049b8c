"""The section of the summary that compares retraining with reconstruction, budget by budget."""

import math
from collections.abc import Iterator

from freelunch.analysis.pairing import Row, Rows
from freelunch.reporting.formatting import (
    NOT_FINITE,
    NOTHING,
    adaptation_name,
    over_dense,
    shown,
    significant,
)
from freelunch.reporting.summary import Section
from freelunch.study.cell import pruned_model

WORDS = ("model", "criterion", "pattern", "adaptation", "what")
NOTES = (
    "Tokens: tokens seen, counting repeats; distinct: the distinct tokens of the text among them. "
    "Steps: steps of the optimiser for each trained parameter. TFLOP: operations of the "
    "adaptation, including the dense pass that made its targets, and of the search for its "
    "learning rate if there was one. Loss \N{MINUS SIGN} reconstruction: the mean loss minus that "
    "of the reconstruction it is compared with, in nats per token, over the seeds of the row; ± is "
    "the standard error of the paired differences over documents of the text, or over its windows "
    "if documents were joined.",
    "A retraining reaches the reconstruction at the budget where its loss, interpolated linearly "
    "in the logarithm of the budget, comes down to the reconstruction's. The interval is a "
    "Student's t interval over documents of the text (or over windows of joined documents, with "
    "allowance for the correlation of neighbours), and over seeds if there are several. At most: "
    "the smallest budget that was run already reaches it; smaller ones were not tried.",
)


def budgets_section(budgets: Rows, reaches: Rows) -> Section:
    """Return the section."""
    lines = [budget_line(row) for row in budgets]
    notes = [*reach_sentences(reaches), *NOTES]
    return Section("budgets", "Retraining beside reconstruction", lines, notes, WORDS)


def budget_line(row: Row) -> dict[str, str]:
    """Return one line of the table, from column to text."""
    search = f" + {row['search_flops'] / 1e12:,.0f}" if row["search_flops"] else ""
    return {
        "model": row["model"],
        "criterion": row["criterion"],
        "pattern": row["pattern"],
        "adaptation": adaptation_name(row),
        "what": row["series"],
        "tokens": f"{row['tokens']:,.0f}",
        "distinct": f"{row['distinct_tokens']:,.0f}",
        "steps": NOTHING if row["steps"] is None else f"{row['steps']:,}",
        "trained": _parameters(row["trained_parameters"]),
        "TFLOP": f"{row['flops'] / 1e12:,.1f}{search}",
        "peak memory": f"{row['peak_bytes'] / 1e9:.2f} GB",
        "perplexity": shown(row, "perplexity"),
        "ratio to dense": over_dense(row),
        "seeds": f"{row['seeds']}",
        "loss \N{MINUS SIGN} reconstruction": shown(row, "loss_minus_reference"),
    }


def reach_sentences(reaches: Rows) -> Iterator[str]:
    """Yield a sentence for each retraining series: the budget that reaches the reconstruction."""
    series: dict[str, dict[str, Row]] = {}
    for row in reaches:
        series.setdefault(f"{pruned_model(row)}: {row['series']}", {})[row["unit"]] = row
    for name, units in series.items():
        yield f"{name} {_reach(units['tokens'], units['flops'])}."


def _reach(tokens: Row, flops: Row) -> str:
    """Return the budget that reaches the reconstruction, as the predicate of a sentence."""
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
            f"{least[0]} times its tokens and {least[1]} times its operations; {_interval(tokens)}"
        )
    operations = significant(flops["reached_at_over_reference"])
    return (
        f"reaches {reference} with {significant(value)} times its tokens ({_interval(tokens)}) and "
        f"{operations} times its operations ({_interval(flops)})"
    )


def _interval(row: Row) -> str:
    if math.isnan(row["reached_at_low"]):
        return "no interval"
    low, high = (times(row[key], row) for key in ("reached_at_low", "reached_at_high"))
    return f"95 %: {low}" if low == high else f"95 %: {low} to {high}"


def times(value: float, row: Row) -> str:
    """Return a budget in words, as a multiple of the reconstruction's.

    Args:
        value: A budget that reaches the reconstruction, or an end of its interval.
        row: The row of `analysis.budget_effect.reach_rows` that the value comes from.
    """
    if math.isnan(value):
        return NOT_FINITE
    if math.isinf(value):
        return f"more than {significant(row['largest_over_reference'])}"
    if value <= row["smallest_over_reference"]:
        # Smaller budgets were not tried.
        return f"at most {significant(row['smallest_over_reference'])}"
    return significant(value)


def _parameters(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count / 1e3:,.1f} k"
