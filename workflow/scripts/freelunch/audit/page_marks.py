"""The marks of adaptations as SVG, for the audit's page: the same as in the figures."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from freelunch.reporting.drawing.marks import Mark

# Half of the size of a symbol, which has the marker in its middle, with radius 5.
HALF = 7
_RADIUS = 5.0
Points = Sequence[tuple[float, float]]


def _around(count: int, turn: float = 0.0, radii: Sequence[float] = (1.0,)) -> Points:
    """Return points around the middle, the first above it, turned by a share of a full turn."""
    return [
        (
            radii[at % len(radii)] * math.sin(2 * math.pi * (at / count + turn)),
            -radii[at % len(radii)] * math.cos(2 * math.pi * (at / count + turn)),
        )
        for at in range(count)
    ]


def _cross(turn: float) -> Points:
    """Return a thick cross."""
    near, far = 0.36, 0.95
    arm = [(-near, -near), (-near, -far), (near, -far)]
    cos, sin = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    quarters = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    found = [(x * b - y * a, x * a + y * b) for a, b in quarters for x, y in arm]
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in found]


def _thin(points: Points) -> Points:
    return [(0.65 * x, y) for x, y in points]


# The corners of each marker, by its name in matplotlib. A circle is drawn with many corners.
_CORNERS: Mapping[str, Points] = {
    "o": _around(48, radii=(0.92,)),
    "s": _around(4, 1 / 8, radii=(1.2,)),
    "D": _around(4, radii=(1.15,)),
    "d": _thin(_around(4, radii=(1.2,))),
    "^": _around(3, radii=(1.15,)),
    "v": _around(3, 1 / 2, radii=(1.15,)),
    "<": _around(3, 3 / 4, radii=(1.15,)),
    ">": _around(3, 1 / 4, radii=(1.15,)),
    "P": _cross(0.0),
    "X": _cross(1 / 8),
    "p": _around(5, radii=(1.05,)),
    "h": _around(6, radii=(1.05,)),
    "*": _around(10, radii=(1.25, 0.5)),
}
# Where the filled half of a marker lies: left edge, top edge, width and height.
_HALVES = {
    "left": (-HALF, -HALF, HALF, 2 * HALF),
    "right": (0, -HALF, HALF, 2 * HALF),
    "bottom": (-HALF, 0, 2 * HALF, HALF),
    "top": (-HALF, -HALF, 2 * HALF, HALF),
}


def symbols(marks: Iterable[Mark]) -> dict[str, Markup]:
    """Return the `<symbol>` of each look among some marks, by its identifier."""
    return {symbol_id(mark): _symbol(mark) for mark in marks}


def symbol_id(mark: Mark) -> str:
    """Return the identifier of the symbol of a mark."""
    # Some markers are signs that an identifier cannot have.
    colours = (mark.colour, mark.edge, mark.rest)
    parts = [str(ord(mark.marker)), mark.fill, *(it.lstrip("#").lower() for it in colours)]
    return f"mark-{'-'.join(parts)}"


def _symbol(mark: Mark) -> Markup:
    box = f"{-HALF} {-HALF} {2 * HALF} {2 * HALF}"
    return Markup('<symbol id="{}" viewBox="{}">{}</symbol>').format(
        symbol_id(mark), box, Markup("").join(_shapes(mark))
    )


def _shapes(mark: Mark) -> Iterator[Markup]:
    """Yield the outline of a marker and what fills it."""
    if mark.marker == "x":
        yield Markup(
            '<path d="M-4 -4L4 4M4 -4L-4 4" stroke="{}" stroke-width="1.6" fill="none"/>'
        ).format(mark.colour)
        return
    corners = "L".join(f"{_RADIUS * x:.2f} {_RADIUS * y:.2f}" for x, y in _CORNERS[mark.marker])
    path = Markup('<path d="M{}Z" fill="{}" stroke="{}" stroke-width="1.3"/>')
    yield path.format(corners, mark.colour if mark.fill == "full" else mark.rest, mark.edge)
    if mark.fill in _HALVES:
        left, top, width, height = _HALVES[mark.fill]
        # An inner `svg` shows only what lies in its own box.
        inner = '<svg x="{0}" y="{1}" width="{2}" height="{3}" viewBox="{0} {1} {2} {3}">{4}</svg>'
        yield Markup(inner).format(
            left, top, width, height, path.format(corners, mark.colour, mark.edge)
        )


def sign(mark: Mark) -> dict[str, Any]:
    """Return what the page needs to show a mark: its symbol, and what it means."""
    return {"id": symbol_id(mark), "label": mark.series}
