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
# What a part is to its claim.
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

    It holds where the whole interval lies beyond the threshold, and does not hold where none of it
    does. An interval that has the threshold within is too wide to tell.

    Args:
        estimate: The number.
        threshold: `above` or `below` a number.
        written: How such a number is written.
        bounds: What a number can be told between: one that is no more than the first may be any
            less, an infinite one is known to be more than the second.
        undefined: What it means that there is no number, or not in all draws.
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
    """Return the verdict on what was looked at several times: on several pruned models, say.

    What could not be tested neither supports nor refutes; without anything that could be, nothing
    is said, and with something, it is not said that all holds.
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
        parts: The verdict on each of its parts, and its role. A claim with a part that `decides`
            and does not hold does not hold, whatever else does; if such a part cannot be tested, it
            cannot. A part that `adds` is not the claim's own: it takes something from a claim that
            holds where it does not, and gives nothing to one that does not hold.
    """
    deciding = [verdict for verdict, role in parts if role == DECIDES]
    for verdict in (FAILS, UNTESTED):
        if verdict in deciding:
            return verdict
    own = together([verdict for verdict, role in parts if role != ADDS])
    added = [verdict for verdict, role in parts if role == ADDS and verdict != UNTESTED]
    return together([own, *added]) if own in (HOLDS, IN_PART) else own
