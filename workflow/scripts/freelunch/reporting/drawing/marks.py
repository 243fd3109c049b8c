"""How each adaptation looks: one mark, one colour and one line, in every figure and every study.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which colour-blind readers can
tell apart. In grey, the marker tells adaptations apart: filled for a reconstruction, open for a
retraining, half filled for a variant of either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freelunch.reporting.labels import (
    Kind,
    Registered,
    adaptation_labels,
    is_retraining,
    kind_of,
    series_label,
    variants,
)
from freelunch.study.cell import NONE
from freelunch.study.methods import (
    BIASES,
    BIASES_NORMS,
    FULL,
    LORA,
    LORA_PRUNE,
    MASKLORA,
    METHODS,
    NORMS,
    SCALELORA,
    SPP,
)
from freelunch.study.windows import ALL, AUTO, HALVES, LEAST_SQUARES, MATRIX

INK = "#000000"
QUIET = "#595959"
PALE = "#B0B0B0"
WHITE = "#FFFFFF"
DENSE_COLOUR = "#595959"
# Okabe and Ito's yellow is left out: it is hard to see on white.
_BLUE, _VERMILION, _GREEN, _PINK, _ORANGE, _SKY = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
)
# No two kinds have the same colour and marker, and no two retrainings the same marker.
_RETRAINING = {
    FULL: (_GREEN, "o"),
    MASKLORA: (_PINK, "D"),
    BIASES: (_ORANGE, "<"),
    NORMS: (_ORANGE, ">"),
    BIASES_NORMS: (_ORANGE, "v"),
    LORA: (_SKY, "^"),
    LORA_PRUNE: (_SKY, "s"),
    SCALELORA: (_VERMILION, "P"),
    SPP: (_VERMILION, "X"),
}
_WINDOWS = {
    MATRIX: (_VERMILION, "^"),
    HALVES: (_ORANGE, "d"),
    ALL: (_PINK, "p"),
    AUTO: (_SKY, "h"),
}
_EXACT = (_VERMILION, ">")
# The half of a variant's marker that is filled, and its line. Each four variants have an outline
# and another half of their own.
_HALVES = ("left", "right", "bottom", "top")
_FOURS = ((False, WHITE), (True, WHITE), (False, PALE), (True, PALE))
_LINES = ("-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))


@dataclass(frozen=True)
class Mark:
    """How an adaptation looks.

    Attributes:
        label: The adaptation in words.
        series: The same without its amount of text.
        colour: Colour of line, marker and error bar.
        marker: Marker, as matplotlib names it.
        fill: The part of the marker that is filled, as matplotlib names it; "none" for none.
        line: Line style, as matplotlib names it.
        inked: Whether the marker's outline is black, rather than of its colour.
        rest: Colour of the part of the marker that is not filled.
    """

    label: str
    series: str
    colour: str
    marker: str
    fill: str
    line: Any
    inked: bool = False
    rest: str = WHITE

    @property
    def edge(self) -> str:
        """Return the colour of the marker's outline."""
        return INK if self.inked else self.colour

    @property
    def points(self) -> dict[str, Any]:
        """Return the look of its markers, as arguments of matplotlib's `plot` and `errorbar`."""
        return {
            "marker": self.marker,
            "color": self.colour,
            "fillstyle": "full" if self.fill == "none" else self.fill,
            "markerfacecolor": self.rest if self.fill == "none" else self.colour,
            "markerfacecoloralt": self.rest,
            "markeredgecolor": self.edge,
        }


# The mark of an effect that is about several adaptations.
NEUTRAL = Mark("several adaptations", "several adaptations", INK, "|", "full", "-")


# The looks of criteria, in the order of a figure.
_CRITERIA = (
    *((_VERMILION, "v"), (_BLUE, "s"), (_GREEN, "o"), (_PINK, "D")),
    *((_ORANGE, "^"), (_SKY, "P"), (INK, "X"), (QUIET, "*")),
)


def of_criteria(names: Sequence[str]) -> dict[str, Mark]:
    """Return the mark of each criterion of a panel; from the ninth on, looks begin again."""
    return {
        name: Mark(name, name, *_CRITERIA[at % len(_CRITERIA)], "full", "-")
        for at, name in enumerate(dict.fromkeys(names))
    }


def marks(adaptations: Registered) -> Mapping[str, Mark]:
    """Return the mark of each adaptation, and of `none`.

    Adaptations that differ only in how much text they see share their mark.

    Args:
        adaptations: All adaptations of the config in its order, not only those that a figure shows,
            so that an adaptation looks the same in every figure.
    """
    labels, places = adaptation_labels(adaptations), variants(adaptations)
    found = {NONE: Mark(labels[NONE], labels[NONE], INK, "x", "full", "-")}
    for name, settings in adaptations.items():
        series = series_label(settings, labels[name])
        found[name] = _mark(kind_of(settings), places[name], labels[name], series)
    return found


def _mark(kind: Kind, variant: int, label: str, series: str) -> Mark:
    colour, marker = _look(kind)
    if variant:
        # 16 variants come before one looks like another.
        four, half = divmod(variant - 1, len(_HALVES))
        line = _LINES[(four + half) % len(_LINES)]
        inked, rest = _FOURS[four % len(_FOURS)]
        return Mark(label, series, colour, marker, _HALVES[half], line, inked, rest)
    if is_retraining(kind):
        return Mark(label, series, colour, marker, "none", "--")
    return Mark(label, series, colour, marker, "full", "-")


def _look(kind: Kind) -> tuple[str, str]:
    """Return the colour and the marker of a kind of adaptation."""
    method, window = kind
    if method in METHODS:
        return _RETRAINING.get(method, (_VERMILION, "*"))
    if method == LEAST_SQUARES:
        return _EXACT
    if isinstance(window, int):
        return (
            (_BLUE, "s")
            if window == 1
            else (_SKY, "P")
            if window < 5
            else (_GREEN, "X" if window < 10 else "*")
        )
    return _WINDOWS[str(window)]
