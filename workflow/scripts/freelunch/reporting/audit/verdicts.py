"""Verdicts, and how they follow from numbers and from each other."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from freelunch.analysis.bootstrap import Estimate

# These words are the verdicts in `audit.json`, and people read them everywhere: the effect that a
# claim describes was found, or was not found in this study, which is small.
HOLDS = "found"
IN_PART = "found in part"
FAILS = "not found at this scale"
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

    The effect is found if the whole interval lies beyond the threshold, and not found if none of
    the interval does. An interval that contains the threshold is too wide for a verdict.

    Args:
        estimate: The number and its interval.
        threshold: `above` or `below` a number.
        written: Returns a number of this kind as text.
        bounds: The range within which the number is known. A number at or below the first bound may
            be any smaller number; an infinite one is known to exceed the second bound.
        undefined: The reason to give if there is no number, or some draws have none.
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
    return UNTESTED, f"the interval contains {written(wanted)}"


def tally(verdicts: Sequence[str], what: str) -> str:
    """Return the number of each verdict, as the end of a sentence.

    Args:
        verdicts: One verdict for each thing that was judged.
        what: The things, such as "claims".
    """
    counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS if verdict in verdicts}
    told = ", ".join(f"{n} {'are' if n > 1 else 'is'} {verdict}" for verdict, n in counts.items())
    return f"Of {len(verdicts)} {what}, {told}"


def together(verdicts: Sequence[str]) -> str:
    """Return the joint verdict of several comparisons, such as of several pruned models.

    Comparisons that could not be tested count neither way. If none could be tested, the result is
    not testable; if only some could, it is at most "in part".
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
        parts: The verdict and the role of each part. If a deciding part fails or cannot be tested,
            so does the claim. A part that `adds` can only weaken a claim.
    """
    deciding = [verdict for verdict, role in parts if role == DECIDES]
    for verdict in (FAILS, UNTESTED):
        if verdict in deciding:
            return verdict
    own = together([verdict for verdict, role in parts if role != ADDS])
    added = [verdict for verdict, role in parts if role == ADDS and verdict != UNTESTED]
    return together([own, *added]) if own in (HOLDS, IN_PART) else own
