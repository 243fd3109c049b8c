"""Numbers of an audit as people and programs read them."""

import math

from freelunch.analysis.intervals import Estimate
from freelunch.reporting.audit.verdicts import UNBOUNDED
from freelunch.reporting.formatting import NOT_FINITE, rounded

# The text after a number, by its unit.
_SUFFIXES = {"share": " %", "times": " times", "GB": " GB", "points": " points", "nats": " nats"}


def estimate_text(found: Estimate, unit: str, bounds: tuple[float, float] = UNBOUNDED) -> str:
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
        high = _bounded(found.high, found, unit, (least, max(most, _finite(found.high))))
        text += f" (95 %: {low.removesuffix(_SUFFIXES.get(unit, ''))} to {high})"
    elif found.low <= least or found.low >= most:
        text += " (the whole interval)"
    return text


def seeds_texts(found: Estimate, unit: str, bounds: tuple[float, float], without: str) -> list[str]:
    """Return the number of each seed as text, with the digits of the number over all seeds; without
    a number, what to show instead.
    """
    return [
        without if math.isnan(value) else _bounded(value, found, unit, bounds)
        for value in found.of_seeds
    ]


def _bounded(value: float, found: Estimate, unit: str, bounds: tuple[float, float]) -> str:
    """Return a value of an estimate as text; beyond the bounds, say only what is known."""
    least, most = bounds
    beyond = f"more than {number_text(float(f'{most:.3g}'), unit)}"
    if value == math.inf and math.isfinite(most):
        return beyond
    # A quarter of a 95 % interval is the standard error, of which two digits are shown.
    width = (most if found.high == math.inf else found.high) - max(found.low, least)
    error = width / 4 if math.isfinite(width) else abs(found.value) / 10
    if unit == "nats" and not width:
        # Two decimals would hide it.
        error = abs(found.value) / 10
    text = number_text(value if math.isfinite(value) else least, unit, error)
    if value > most:
        return f"{beyond}, at most {text}" if found.low > least else f"at most {text}"
    return f"at most {text}" if value <= least else text


def _finite(value: float) -> float:
    """Return a value, or the smallest one if it is infinite."""
    return value if math.isfinite(value) else -math.inf


def number_text(value: float, unit: str, error: float | None = None) -> str:
    """Return a number as text, rounded by its error; with all its digits if there is no error."""
    scale = 100 if unit in ("share", "points") else 1
    digits = f"{scale * value:g}" if error is None else rounded(scale * value, scale * error)
    return f"{digits}{_SUFFIXES.get(unit, '')}"


def json_number(value: float) -> float | str | None:
    """Return a number as JSON can hold it."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else f"{'-' * (value < 0)}infinity"
