"""Perplexity against tokens, operations or memory, as a plot that the page's script can change.

The page is complete without the script, which then shows perplexity against tokens. Every point has
its place on each of the three axes, so that the script only moves it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 22, 44
# The columns of what was found that the horizontal axis can show, with its title and its unit.
VIEWS = {
    "tokens": ("tokens seen", 1.0),
    "flops": ("floating-point operations", 1.0),
    "peak_bytes": ("peak memory of a job, GB", 1e9),
}
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
# An axis whose numbers differ by less than this has evenly spaced ticks.
_FEW = 5.0


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis.

    Attributes:
        low: The number at its start.
        high: The number at its end; larger than `low`.
        start: The place of its start.
        end: The place of its end.
    """

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> "Axis":
        """Return an axis with room on both sides of positive numbers."""
        least, most = min(values), max(values)
        room = 2.0 if least == most else max((most / least) ** 0.06, 1.01)
        return cls(least / room, most * room, start, end)

    def place(self, value: float) -> float:
        """Return the place of a number."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[dict[str, Any]]:
        """Return the places of its ticks and their texts."""
        return [{"at": self.place(value), "text": _short(value)} for value in self._round()]

    def _round(self) -> list[float]:
        """Return round numbers between its ends."""
        if self.high / self.low < _FEW:
            step = _step((self.high - self.low) / 4)
            first, last = math.ceil(self.low / step), math.floor(self.high / step)
            return [number * step for number in range(first, last + 1)]
        first, last = (math.floor(math.log10(end)) for end in (self.low, self.high))
        tens = [10.0**power for power in range(first, last + 1)]
        firsts = (1, 2, 5) if self.high / self.low < 1000 else (1,)
        found = [first * ten for ten in tens for first in firsts]
        return [value for value in found if self.low <= value <= self.high]


def _step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is not less than a number."""
    ten = 10.0 ** math.floor(math.log10(least))
    return float(next(ten * first for first in (1, 2, 5, 10) if ten * first >= 0.999 * least))


def _short(value: float) -> str:
    """Return a number with a prefix of its unit: 8.2k, 1.5T."""
    for size, prefix in _PREFIXES:
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.3g}"


def scatter(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the plot of a pruned model; None if no adaptation has a place in it.

    Args:
        found: A pruned model, as `freelunch.reporting.audit.found.gather_found` returns it.
    """
    shown = [
        each
        for each in found["adaptations"]
        if isinstance(each["perplexity"]["value"], float) and each["tokens"]
    ]
    if not shown:
        return None
    levels = [each["perplexity"]["value"] for each in shown]
    unadapted, dense = ((found[key] or {}).get("value") for key in ("unadapted", "dense"))
    reached = [*levels, *([unadapted] if isinstance(unadapted, float) else [])]
    # The dense model is shown where it is near; elsewhere it would squeeze the rest.
    near = isinstance(dense, float) and min(reached) / dense < max(reached) / min(reached)
    y = Axis.around([*reached, *([dense] if near else [])], HEIGHT - BOTTOM, TOP)
    axes = {view: _axis(shown, view) for view in VIEWS}
    lines = {"pruned": unadapted, "dense": dense if near else None}
    return {
        "box": f"0 0 {WIDTH} {HEIGHT}",
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "ticks": y.ticks(),
        "lines": [
            {"at": y.place(value), "text": f"{name}: {found[key]['text']}"}
            for (name, value), key in zip(lines.items(), ("unadapted", "dense"), strict=True)
            if isinstance(value, float)
        ],
        "axes": [
            {"view": view, "title": VIEWS[view][0], "ticks": axis.ticks() if axis else []}
            for view, axis in axes.items()
        ],
        "points": [_point(each, axes, y) for each in shown],
    }


def _axis(shown: Sequence[Mapping[str, Any]], view: str) -> Axis | None:
    """Return the axis of a view; None if no adaptation has a number for it."""
    values = [each[view] / VIEWS[view][1] for each in shown if each[view]]
    return Axis.around(values, LEFT, WIDTH - RIGHT) if values else None


def _point(each: Mapping[str, Any], axes: Mapping[str, Axis | None], y: Axis) -> dict[str, Any]:
    """Return the place of an adaptation in each view, and the interval of its gain."""
    places = [
        axis.place(each[view] / VIEWS[view][1]) if axis and each[view] else None
        for view, axis in axes.items()
    ]
    value = each["perplexity"]["value"]
    return {
        "adaptation": each,
        "x": places[0],
        "places": " ".join("-" if place is None else f"{place:g}" for place in places),
        "y": y.place(value),
        "bar": _bar(each, value, y),
    }


def _bar(each: Mapping[str, Any], value: float, y: Axis) -> tuple[float, float] | None:
    """Return the ends of the interval, within the axis; None if there is none."""
    gain = each["gain"] or {}
    ends = [gain.get(key) for key in ("value", "low", "high")]
    if not all(isinstance(end, float) for end in ends):
        return None
    unadapted = value / (1 - ends[0])
    levels = [min(max(unadapted * (1 - end), y.low), y.high) for end in ends[1:]]
    return y.place(levels[0]), y.place(levels[1])
