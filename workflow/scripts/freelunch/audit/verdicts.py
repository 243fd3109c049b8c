"""Verdicts, how they follow from numbers and from each other, and numbers as people read them.

Two questions have two answers. The verdict says what a study reproduces. What that says of the
paper's claim is the bearing; it is nothing where the models are not the paper's, or the study is
smaller.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from freelunch.analysis.intervals import Estimate
from freelunch.reporting.formatting import NOT_FINITE, rounded

# These words are the verdicts in `audit.json`, and people read them everywhere: this study
# reproduces the effect that a claim describes, or it does not.
HOLDS, IN_PART, FAILS = "reproduced", "reproduced in part", "not reproduced"
# The study has the cells, but their numbers do not settle it.
UNDECIDED = "undecided"
# The study lacks the cells.
UNTESTED = "not testable here"
# One seed says nothing about another calibration sample or training order; two say little.
FEW_SEEDS = "(single-seed)"
# What a study of the paper's models and scale says of the paper's claim, and what others say.
BEARINGS = {
    HOLDS: "supported",
    IN_PART: "supported in part",
    FAILS: "not supported",
    UNDECIDED: UNDECIDED,
    UNTESTED: UNTESTED,
}
OTHERS = "not tested: not its models and budgets"
TOO_FEW_SEEDS = "not testable: fewer than three seeds"
# The verdicts that count neither way.
OPEN = (UNDECIDED, UNTESTED)
# The role of a part in its claim; what stands beside a claim has no say in it.
DECIDES, COUNTS, ADDS, BESIDE = "decides", "counts", "adds", "beside"
UNDEFINED = "a loss is not finite, windows are too few, or there may be nothing to divide by"
UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class Threshold:
    """A threshold: `side` is above or below its value, or within it and its negative."""

    side: str
    value: float

    @property
    def range(self) -> tuple[float, float]:
        """Return the open range of the numbers with which an effect is reproduced."""
        return {
            "above": (self.value, math.inf),
            "below": (-math.inf, self.value),
            "within": (-self.value, self.value),
        }[self.side]

    def text(self, written: Callable[[float], str]) -> str:
        """Return it in words; `written` returns a number of this kind as text."""
        sign = "\N{PLUS-MINUS SIGN}" if self.side == "within" else ""
        return f"{self.side} {sign}{written(self.value)}"


def of_few_seeds(verdict: str) -> str:
    """Return the verdict that fewer than ENOUGH_SEEDS seeds can give."""
    return verdict if verdict in OPEN else f"{verdict} {FEW_SEEDS}"


def kind(verdict: str) -> str:
    """Return a verdict without the words that few seeds add to it."""
    return verdict.removesuffix(f" {FEW_SEEDS}")


VERDICTS = (
    *(word for each in (HOLDS, IN_PART, FAILS) for word in (each, of_few_seeds(each))),
    *OPEN,
)


def judge(
    estimate: Estimate,
    threshold: Threshold,
    written: Callable[[float], str] = "{:g}".format,
    bounds: tuple[float, float] = UNBOUNDED,
    undefined: str = UNDEFINED,
) -> tuple[str, str]:
    """Return the verdict on a number, and why.

    The effect is reproduced if the whole interval lies beyond the threshold, and not reproduced if
    none of the interval does. An interval that contains the threshold leaves it undecided. As the
    interval has 2.5 % on each side, `above` and `below` are one-sided tests, and `within` consists
    of two of them: a test of equivalence.

    Args:
        estimate: The number and its interval.
        threshold: The threshold.
        written: Returns a number of this kind as text.
        bounds: The range within which the number is known. A number at or below the first bound may
            be any smaller number; one beyond the second bound may be any between the two.
        undefined: The reason to give if there is no number, or too many draws have none.
    """
    low, high = estimate.low, estimate.high
    if any(map(math.isnan, (estimate.value, low, high))):
        return UNDECIDED, undefined
    least, most = bounds
    if low <= least:
        low = -math.inf
    elif low > most:
        low = math.nextafter(most, math.inf)
    start, end = threshold.range
    where = threshold.text(written)
    is_range = estimate.low < estimate.high
    if (low > start or start == -math.inf) and (high < end or end == math.inf):
        return HOLDS, f"{'the whole interval' if is_range else 'the number'} is {where}"
    if high <= start or low >= end:
        return FAILS, f"{'none of the interval is' if is_range else 'the number is not'} {where}"
    return UNDECIDED, f"only a part of the interval is {where}"


def on_models(verdict: str, models: Mapping[str, str]) -> str:
    """Return a verdict with the models that it is on, and their own verdicts if these differ."""
    if not models or verdict == UNTESTED:
        return verdict
    few = FEW_SEEDS if kind(verdict) != verdict else ""
    text = f"{kind(verdict)} on {', '.join(models)} {few}".rstrip()
    if len({*models.values(), verdict}) > 1:
        text += f" ({'; '.join(f'{model}: {its}' for model, its in models.items())})"
    return text


def tally(verdicts: Sequence[str], what: str) -> str:
    """Return the number of each verdict on things such as "claims", as the end of a sentence."""
    counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS if verdict in verdicts}
    told = ", ".join(f"{n} {'are' if n > 1 else 'is'} {verdict}" for verdict, n in counts.items())
    return f"Of {len(verdicts)} {what}, {told}"


def together(verdicts: Sequence[str], agree: bool = False) -> str:
    """Return the joint verdict of several comparisons, such as of several pruned models.

    Comparisons that are undecided or could not be tested count neither way. If there are no others,
    the result is as open; if only some are decided, it is at most "in part". With `agree`, "not
    reproduced" needs all comparisons to agree, open ones included.
    """
    told = [verdict for verdict in verdicts if verdict not in OPEN]
    kinds = {kind(verdict) for verdict in told}
    if not told or (agree and kinds == {FAILS} and len(told) < len(verdicts)):
        return UNDECIDED if UNDECIDED in verdicts else UNTESTED
    found = FAILS if kinds == {FAILS} else IN_PART
    if kinds == {HOLDS} and len(told) == len(verdicts):
        found = HOLDS
    return found if told == [*map(kind, told)] else of_few_seeds(found)


def of_claim(parts: Sequence[tuple[str, str]]) -> str:
    """Return the verdict on a claim, from the verdict and the role of each part.

    If a deciding part cannot be tested or is undecided, so is the claim; if all deciding parts
    fail, so does the claim. A part that `adds` can only weaken a claim, and one `beside` it counts
    for nothing.
    """
    parts = [(verdict, role) for verdict, role in parts if role != BESIDE]
    deciding = [verdict for verdict, role in parts if role == DECIDES]
    for verdict in (UNTESTED, UNDECIDED):
        if verdict in deciding:
            return verdict
    if deciding and kind(together(deciding)) == FAILS:
        return together(deciding)
    own = together([verdict for verdict, role in parts if role != ADDS])
    added = [verdict for verdict, role in parts if role == ADDS and verdict not in OPEN]
    joint = together([own, *added])
    weaker = kind(own) in (HOLDS, IN_PART) and kind(joint) != kind(own)
    return joint if weaker else own


def bearing(verdict: str) -> str:
    """Return what a verdict on the paper's models and budgets says of its claim."""
    return BEARINGS.get(verdict, TOO_FEW_SEEDS)


# What a number is multiplied by to be written, by its unit; others are written as they are.
SCALES = {"share": 100, "points": 100}
_SUFFIXES = {
    "share": " %",
    "times": " times",
    "GB": " GB",
    "points": " points",
    "nats": " nats",
}
Bounds = tuple[float, float]


def estimate_text(found: Estimate, unit: str, bounds: Bounds = UNBOUNDED) -> str:
    """Return a number and its interval as people read them. The unit is share, times, perplexity,
    GB, points or nats, and the bounds are those of a `Measurement`.
    """
    if math.isnan(found.value):
        return NOT_FINITE
    least, most = bounds
    if found.low > most and found.high == math.inf:
        return f"{_bounded(math.inf, found, unit, bounds)} (the whole interval)"
    text = _bounded(found.value, found, unit, bounds)
    if math.isnan(found.low):
        return f"{text} (no interval)"
    if found.low < found.high:
        # Beyond what is known, the low end says only that, and a finite high end is still one.
        low = _bounded(math.inf if found.low > most else found.low, found, unit, bounds)
        to = (least, max(most, found.high) if math.isfinite(found.high) else most)
        high = _bounded(found.high, found, unit, to)
        text += f" (95 %: {low.removesuffix(_SUFFIXES.get(unit, ''))} to {high})"
    elif found.low <= least or found.low >= most:
        text += " (the whole interval)"
    return text


def seeds_texts(found: Estimate, unit: str, bounds: Bounds, without: str) -> list[str]:
    """Return the number of each seed as text, with the digits of the number over all seeds; without
    a number, what to show instead.
    """
    return [
        without if math.isnan(value) else _bounded(value, found, unit, bounds)
        for value in found.of_seeds
    ]


def _bounded(value: float, found: Estimate, unit: str, bounds: Bounds) -> str:
    """Return a value of an estimate as text; beyond the bounds, say only what is known."""
    least, most = bounds
    if not math.isfinite(value) and not math.isfinite(most if value > 0 else least):
        return NOT_FINITE
    # A quarter of a 95 % interval is the standard error, of which two digits are shown.
    width = (most if found.high == math.inf else found.high) - max(found.low, least)
    # One seed may have a number where the mean over seeds has none.
    known = found.value if math.isfinite(found.value) else value
    error = width / 4 if math.isfinite(width) else abs(known) / 10
    if unit == "nats" and not width:
        # Two decimals would hide it.
        error = abs(found.value) / 10
    if value > most:
        beyond = f"more than {number_text(float(f'{most:.3g}'), unit)}"
        if not math.isfinite(value):
            return beyond
        text = f"at most {number_text(value, unit, error)}"
        return f"{beyond}, {text}" if found.low > least else text
    text = number_text(value if math.isfinite(value) else least, unit, error)
    return f"at most {text}" if value <= least else text


def number_text(value: float, unit: str, error: float | None = None) -> str:
    """Return a number as text, rounded by its error; with all its digits if there is no error."""
    scale = SCALES.get(unit, 1)
    digits = f"{scale * value:g}" if error is None else rounded(scale * value, scale * error)
    return f"{digits}{_SUFFIXES.get(unit, '')}"


@dataclass(frozen=True)
class Number:
    """An estimate as JSON can hold it.

    Attributes:
        value, low, high: The number and its interval; an infinite one is a word.
        known_from, known_to: The range within which it is known; None where that is unbounded.
        text: The number as people read it; None where nothing was measured.
    """

    value: float | str | None = None
    low: float | str | None = None
    high: float | str | None = None
    known_from: float | None = None
    known_to: float | None = None
    text: str | None = None

    @staticmethod
    def of(
        found: Estimate, unit: str, bounds: Bounds = UNBOUNDED, without: str = NOT_FINITE
    ) -> "Number":
        """Return an estimate; `without` is the text if there is no number."""
        text = without if math.isnan(found.value) else estimate_text(found, unit, bounds)
        value, low, high = map(json_number, (found.value, found.low, found.high))
        known_from, known_to = (end if math.isfinite(end) else None for end in bounds)
        return Number(value, low, high, known_from, known_to, text)


def json_number(value: float) -> float | str | None:
    """Return a number as JSON can hold it."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else f"{'-' * (value < 0)}infinity"
