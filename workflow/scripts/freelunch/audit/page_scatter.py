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
# Points are at least this far apart, from side to side or from top to bottom.
SIZE = 10.0
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
# An axis whose numbers differ by less than this has evenly spaced ticks.
_FEW = 5.0
# An adaptation beyond so many times the pruned model's perplexity would squeeze the others: it
# stands at the upper edge, with its number.
_MOST_TIMES = 5.0


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
        room = 2.0 if least == most else max((most / least) ** 0.06, 1.0005)
        return cls(least / room, most * room, start, end)

    def place(self, value: float) -> float:
        """Return the place of a number."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[dict[str, Any]]:
        """Return the places of its ticks and their texts."""
        if self.high / self.low < _FEW:
            step = _step((self.high - self.low) / 4)
            first, last = math.ceil(self.low / step), math.floor(self.high / step)
            values = [number * step for number in range(first, last + 1)]
        else:
            values = self._powers()
            # Each of them has one digit that is not zero.
            step = self.low
        return [{"at": self.place(value), "text": _short(value, step)} for value in values]

    def _powers(self) -> list[float]:
        """Return 1, 2 and 5 times powers of ten between its ends; of a long axis, only powers."""
        first, last = (math.floor(math.log10(end)) for end in (self.low, self.high))
        tens = [10.0**power for power in range(first, last + 1)]
        firsts = (1, 2, 5) if self.high / self.low < 1000 else (1,)
        found = [first * ten for ten in tens for first in firsts]
        return [value for value in found if self.low <= value <= self.high]


def _step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is not less than a number."""
    ten = 10.0 ** math.floor(math.log10(least))
    return float(next(ten * first for first in (1, 2, 5, 10) if ten * first >= 0.999 * least))


def _short(value: float, step: float) -> str:
    """Return a number, exact to a step, with a prefix of its unit: 8.2k, 1.5T."""
    size, prefix = next((it for it in _PREFIXES if value >= 0.9995 * it[0]), (1.0, ""))
    decimals = max(0, -math.floor(math.log10(step / size) + 1e-9))
    text = f"{value / size:.{decimals}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}{prefix}"


def scatter(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the plot of a pruned model; None if no adaptation has a place in it.

    Args:
        found: A pruned model, as `freelunch.audit.found.gather_found` returns it.
    """
    shown = [
        each
        for each in found["adaptations"]
        if _number(each["perplexity"], "value") is not None and each["tokens"]
    ]
    if not shown:
        return None
    levels = [each["perplexity"]["value"] for each in shown]
    unadapted, dense = (_number(found[key], "value") for key in ("unadapted", "dense"))
    most = math.inf if unadapted is None else _MOST_TIMES * unadapted
    bars = [
        _bar(each) if level <= most else None for each, level in zip(shown, levels, strict=True)
    ]
    reached = [level for level in levels if level <= most]
    reached += [end for bar in bars if bar for end in bar]
    reached += [unadapted] if unadapted is not None else []
    # The dense model is shown where it is near; elsewhere it would squeeze the rest.
    if dense is not None and min(reached) / dense > max(reached) / min(reached):
        dense = None
    y = Axis.around([*reached, *([dense] if dense else [])], HEIGHT - BOTTOM, TOP)
    axes = {view: _axis(shown, view) for view in VIEWS}
    lines = {"pruned": unadapted, "dense": dense}
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
            if value is not None
        ],
        "axes": [
            {"view": view, "title": VIEWS[view][0], "ticks": axis.ticks() if axis else []}
            for view, axis in axes.items()
        ],
        "points": _points(shown, bars, axes, y, most),
    }


def _axis(shown: Sequence[Mapping[str, Any]], view: str) -> Axis | None:
    """Return the axis of a view; None if no adaptation has a number for it."""
    values = [each[view] / VIEWS[view][1] for each in shown if each[view]]
    return Axis.around(values, LEFT, WIDTH - RIGHT) if values else None


def _points(
    shown: Sequence[Mapping[str, Any]],
    bars: Sequence[tuple[float, float] | None],
    axes: Mapping[str, Axis | None],
    y: Axis,
    most: float,
) -> list[dict[str, Any]]:
    """Return the place of each adaptation in each view, the interval of its gain, and its number if
    it is beyond the axis.
    """
    levels = [each["perplexity"]["value"] for each in shown]
    heights = [float(TOP) if level > most else y.place(level) for level in levels]
    views = [_apart(_places(shown, view, axis), heights) for view, axis in axes.items()]
    return [
        {
            "adaptation": each,
            "x": of_views[0],
            "places": " ".join("-" if place is None else f"{place:g}" for place in of_views),
            "y": height,
            "bar": bar and [y.place(end) for end in bar],
            "beyond": each["perplexity"]["text"] if each["perplexity"]["value"] > most else None,
        }
        for each, height, bar, of_views in zip(
            shown, heights, bars, zip(*views, strict=True), strict=True
        )
    ]


def _places(shown: Sequence[Mapping[str, Any]], view: str, axis: Axis | None) -> list[float | None]:
    unit = VIEWS[view][1]
    return [axis.place(each[view] / unit) if axis and each[view] else None for each in shown]


def _apart(places: Sequence[float | None], heights: Sequence[float]) -> list[float | None]:
    """Return places along an axis such that no point covers much of another one."""
    found: list[float | None] = []
    for place, height in zip(places, heights, strict=True):
        if place is None:
            found.append(None)
            continue
        near = [
            other
            for other, at in zip(found, heights, strict=False)
            if other is not None and abs(at - height) < SIZE
        ]
        moves = (sign * step * SIZE for step in range(len(near) + 1) for sign in (1, -1))
        free = (place + move for move in moves)
        found.append(next(it for it in free if all(abs(it - other) >= SIZE for other in near)))
    return found


def _bar(each: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the perplexities at the ends of the interval of a gain; None if there is none."""
    value, low, high = (_number(each["gain"], key) for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return None
    unadapted = float(each["perplexity"]["value"]) / (1 - value)
    return unadapted * (1 - low), unadapted * (1 - high)


def _number(of: Mapping[str, Any] | None, key: str) -> float | None:
    """Return a number that is there and finite, or None."""
    value = of[key] if of else None
    return value if isinstance(value, float) else None
