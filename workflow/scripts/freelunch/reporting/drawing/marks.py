"""How each series of a figure looks: an adaptation looks the same in every figure of a study.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which colour-blind readers can
tell apart. Each comes with its own marker, filling and line, so a figure is also readable in grey.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from freelunch.study.cell import NONE
from freelunch.study.methods import (
    BIASES,
    BIASES_NORMS,
    FULL,
    LORA,
    LORA_PRUNE,
    MASKLORA,
    NORMS,
    SCALELORA,
    SPP,
)
from freelunch.study.windows import ALL, AUTO, HALVES, MATRIX

INK = "#000000"
QUIET = "#595959"
DENSE_COLOUR = "#595959"
# Okabe and Ito's yellow is left out: it is hard to see on white.
_BLUE, _VERMILION, _GREEN, _PINK, _ORANGE, _SKY = COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
)
# No two kinds of windows share a colour, and no retraining shares that of a window of one block.
_WINDOWS = {MATRIX: _VERMILION, HALVES: _ORANGE, ALL: _PINK, AUTO: _SKY}
_RETRAINING = {
    FULL: _GREEN,
    MASKLORA: _PINK,
    **dict.fromkeys((BIASES, NORMS, BIASES_NORMS), _ORANGE),
    **dict.fromkeys((LORA, LORA_PRUNE), _SKY),
    **dict.fromkeys((SCALELORA, SPP), _VERMILION),
}
_MARKERS = ("s", "^", "D", "v", "P", "X", "<")
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))

# The registry `adaptations` of a config, as JSON has it.
Registered = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Mark:
    """How a series looks; an adaptation looks the same in every figure of a study.

    Attributes:
        label: Text in a legend.
        colour: Colour of line, marker and error bar.
        marker: Marker, as matplotlib names it.
        face: Colour that fills the marker.
        line: Line style, as matplotlib names it.
    """

    label: str
    colour: str
    marker: str
    face: str
    line: Any


def marks(adaptations: Registered) -> Mapping[str, Mark]:
    """Return the mark of each adaptation, and of `none`.

    The colour shows the kind of adaptation, in every study; marker and line distinguish it from the
    other adaptations of its study.

    Args:
        adaptations: All adaptations of the config in its order, not only those that a figure shows,
            so that an adaptation looks the same in every figure.
    """
    found = {NONE: Mark("no adaptation", INK, "o", "#FFFFFF", "-")}
    for index, (name, settings) in enumerate(adaptations.items()):
        found[name] = _mark(name, _colour(settings), index)
    return found


def apart(colours: Mapping[str, str]) -> Mapping[str, Mark]:
    """Return a mark for each name, with its colour and a marker and line of its own."""
    return {
        name: _mark(name, colour, index) for index, (name, colour) in enumerate(colours.items())
    }


def _mark(name: str, colour: str, index: int) -> Mark:
    # 7 and 5 have no common divisor, so 35 pairs of marker and line come before one repeats.
    marker, line = _MARKERS[index % len(_MARKERS)], _LINES[index % len(_LINES)]
    return Mark(name, colour, marker, colour, line)


def _colour(settings: Mapping[str, Any]) -> str:
    """Return the colour of an entry of `adaptations`."""
    if settings["method"] in _RETRAINING:
        return _RETRAINING[settings["method"]]
    window = settings.get("window", MATRIX)
    if isinstance(window, int):
        return _BLUE if window == 1 else _SKY if window < 5 else _GREEN
    return _WINDOWS[window]
