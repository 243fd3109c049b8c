"""Verdicts, and how they follow from numbers and from each other."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from freelunch.analysis.bootstrap import Estimate

HOLDS = "holds"
IN_PART = "holds in part"
FAILS = "does not hold"
UNTESTED = "not testable here"
VERDICTS = (HOLDS, IN_PART, FAILS, UNTESTED)
# The role of a part in its claim.
DECIDES, COUNTS, ADDS = "decides", "counts", "adds"
UNDEFINED = "a loss is not finite, or there is nothing to divide by"
UNBOUNDED = (-math.inf, math.inf)


def judge(
    estimate: Estimate,
    threshold: Mapping[str, Any],
    written: Callable[[float], str] = "{:g}".format,
    bounds: tuple[float, float] = UNBOUNDED,
    undefined: str = UNDEFINED,
) -> tuple[str, str]:
    """Return the verdict on a number, and why.

    It holds where the whole interval lies beyond the threshold, and does not hold where none of the
    interval does. An interval that contains the threshold is too wide for a verdict.

    Args:
        estimate: The number and its interval.
        threshold: `above` or `below` a number.
        written: Writes such a number.
        bounds: The range within which the number is known: one at or below the first bound may be
            any smaller number, an infinite one is known to exceed the second.
        undefined: Why there is no number, where there is none or some draws have none.
    """
    if math.isnan(estimate.value) or math.isnan(estimate.low):
        return UNTESTED, undefined
    side = "above" if "above" in threshold else "below"
    wanted = threshold[side]
    (least, most), low, high = bounds, estimate.low, estimate.high
    if low <= least:
        low = -math.inf
    elif low == math.inf:
        low = math.nextafter(most, math.inf)

    if low > wanted if side == "above" else high < wanted:
        return HOLDS, f"the whole interval is {side} {written(wanted)}"
    if high <= wanted if side == "above" else low >= wanted:
        return FAILS, f"none of the interval is {side} {written(wanted)}"
    return UNTESTED, f"the interval reaches to both sides of {written(wanted)}"


def together(verdicts: Sequence[str]) -> str:
    """Return the joint verdict of several comparisons, such as of several pruned models.

    A comparison that could not be tested neither supports nor refutes. The joint verdict is that it
    is not testable where none could be tested; it does not hold fully where some could not.
    """
    told = [verdict for verdict in verdicts if verdict != UNTESTED]
    if not told:
        return UNTESTED
    if set(told) == {FAILS}:
        return FAILS
    return HOLDS if set(verdicts) == {HOLDS} else IN_PART


def of_claim(parts: Sequence[tuple[str, str]]) -> str:
    """Return the verdict on a claim.

    Args:
        parts: The verdict and the role of each part. If a part that `decides` does not hold or
            cannot be tested, neither does or can the claim. A part that `adds` is not the claim's
            own: if it fails, a claim that holds does so only in part, and if it holds, a claim that
            does not hold stays as it is.
    """
    deciding = [verdict for verdict, role in parts if role == DECIDES]
    for verdict in (FAILS, UNTESTED):
        if verdict in deciding:
            return verdict
    own = together([verdict for verdict, role in parts if role != ADDS])
    added = [verdict for verdict, role in parts if role == ADDS and verdict != UNTESTED]
    return together([own, *added]) if own in (HOLDS, IN_PART) else own
