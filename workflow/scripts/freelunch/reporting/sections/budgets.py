"""The part of the summary that compares retraining with reconstruction, in words and rounded
numbers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from freelunch.reporting.formatting import NOT_FINITE, marked, over_dense, with_error

BUDGET_NOTES = (
    "Tokens: seen, repetitions counted; distinct: of the text that was drawn from. Steps: of the "
    "optimiser, for each trained parameter. TFLOP: of the adaptation, with the pass through the "
    "dense model that made what it learns from, and of the search for its learning rate where it "
    "was one. Loss minus: mean loss minus that of the reconstruction which is compared with, nats "
    "a token; ± is the standard error of the paired differences over windows of text.",
    "A retraining reaches the reconstruction where its loss, on a straight line between the "
    "budgets that were run over the logarithm of the budget, comes down to it; the interval holds "
    "95 % of 1,000 draws of the text's windows, and is wider where there are several seeds. At "
    "most: with the smallest budget that was run; whether less would do was not tried.",
)


def budget_line(row: Mapping[str, Any]) -> dict[str, str]:
    """Return one line of the table, from column to text."""
    search = f" + {row['search_flops'] / 1e12:,.0f}" if row["search_flops"] else ""
    return {
        "model": row["model"],
        "criterion": row["criterion"],
        "pattern": row["pattern"],
        "adaptation": marked(row["adaptation"], row["selected_on"]),
        "what": row["series"],
        "tokens": f"{row['tokens']:,.0f}",
        "distinct": f"{row['distinct_tokens']:,.0f}",
        "steps": "-" if row["steps"] is None else f"{row['steps']:,}",
        "trained": _parameters(row["trained_parameters"]),
        "TFLOP": f"{row['flops'] / 1e12:,.1f}{search}",
        "peak memory": f"{row['peak_bytes'] / 1e9:.2f} GB",
        "perplexity": with_error(row["perplexity"], row["perplexity_standard_error"]),
        "over dense": over_dense(row),
        "loss minus": with_error(
            row["loss_minus_reference"], row["loss_minus_reference_standard_error"]
        ),
    }


def budget_sentences(reaches: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield, for each pruned model and way of retraining, what reaches the reconstruction."""
    for row in reaches:
        if row["unit"] != "tokens":
            continue
        (flops,) = (other for other in reaches if other["unit"] == "flops" and _same(other, row))
        name = f"{row['model']}, {row['criterion']}, {row['pattern']}: {row['series']}"
        value = row["reached_at_over_reference"]
        if math.isnan(value):
            yield f"{name} cannot be compared: {row['reference']} diverged."
        elif math.isinf(value):
            note = "" if math.isinf(row["reached_at_low"]) else f"; {_interval(row)}"
            yield (
                f"{name} does not reach {row['reference']} with up to "
                f"{row['largest_over_reference']:.3g} times its tokens{note}."
            )
        elif value <= row["smallest_over_reference"]:
            yield (
                f"{name} reaches {row['reference']} with the least that was run already: with at "
                f"most {row['smallest_over_reference']:.3g} times its tokens and "
                f"{flops['smallest_over_reference']:.3g} times its operations; {_interval(row)}."
            )
        else:
            yield (
                f"{name} reaches {row['reference']} with {value:.2g} times its tokens "
                f"({_interval(row)}) and {flops['reached_at_over_reference']:.2g} times its "
                f"operations ({_interval(flops)})."
            )


def _interval(row: Mapping[str, Any]) -> str:
    low, high = (times(row[key], row) for key in ("reached_at_low", "reached_at_high"))
    return f"95 %: {low}" if low == high else f"95 %: {low} to {high}"


def times(value: float, row: Mapping[str, Any]) -> str:
    """Return a budget, as a multiple of the reconstruction's, in words.

    Args:
        value: One that reaches the reconstruction, or an end of its interval.
        row: That of `freelunch.analysis.budget_effect.reach_rows` which it is from.
    """
    if math.isnan(value):
        return NOT_FINITE
    if math.isinf(value):
        return f"more than {row['largest_over_reference']:.2g}"
    if value <= row["smallest_over_reference"]:
        # Whether less would do was not tried.
        return f"at most {row['smallest_over_reference']:.2g}"
    return f"{value:.2g}"


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[key] == other[key] for key in ("model", "criterion", "pattern", "series"))


def _parameters(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count / 1e3:,.1f} k"
