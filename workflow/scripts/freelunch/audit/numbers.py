"""Numbers of an audit as people and programs read them."""

import math
from dataclasses import dataclass

from freelunch.analysis.intervals import Estimate
from freelunch.audit.verdicts import UNBOUNDED
from freelunch.reporting.formatting import NOT_FINITE, rounded

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
    """Return a number and its interval as people read them.

    Args:
        found: The number.
        unit: share, times, perplexity, GB, points or nats.
        bounds: As those of a `Measurement`.
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
