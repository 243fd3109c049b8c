"""One style for all figures: colours, marks, sizes, and files that are equal byte for byte.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which colour-blind readers tell
apart. Each comes with its own marker, filling and line, so that a figure also reads in grey.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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
    is_retraining,
)
from freelunch.study.windows import ALL, AUTO, HALVES, MATRIX

matplotlib.use("Agg")

INK = "#000000"
QUIET = "#595959"
DENSE_COLOUR = "#595959"
SMALL = 7.0
# Okabe and Ito's yellow is left out: it is lost on white.
_BLUE, _VERMILION, _GREEN, _PINK, _ORANGE, _SKY = COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
)
# No two sorts of windows share a colour, and no retraining has that of a window of one block.
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
_STYLE = {
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.1,
    "lines.markersize": 4.2,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
    "svg.fonttype": "path",
    "svg.hashsalt": "freelunch",
}
# What would otherwise hold a date, or the version of matplotlib.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


# The registry `adaptations` of a config.
Registered = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Mark:
    """How a series looks; an adaptation looks the same in every figure of a study.

    Attributes:
        label: In a legend.
        colour: Of line, marker and error bar.
        marker: As matplotlib names it.
        face: What the marker is filled with.
        line: Line style.
    """

    label: str
    colour: str
    marker: str
    face: str
    line: Any


def marks(adaptations: Registered) -> Mapping[str, Mark]:
    """Return the mark of each adaptation, and of `none`.

    The colour is that of what it is, in every figure of every study; marker and line tell it from
    the others of a study.

    Args:
        adaptations: All that the config registers, in its order, and not only those a figure shows:
            an adaptation then looks the same in every figure.
    """
    found = {NONE: Mark("no adaptation", INK, "o", "#FFFFFF", "-")}
    for index, (name, settings) in enumerate(adaptations.items()):
        found[name] = _mark(name, _colour(settings), index)
    return found


def apart(colours: Mapping[str, str]) -> Mapping[str, Mark]:
    """Return marks with these colours that differ in marker and line, by what they are called."""
    return {
        name: _mark(name, colour, index) for index, (name, colour) in enumerate(colours.items())
    }


def _mark(name: str, colour: str, index: int) -> Mark:
    # 7 markers and 5 lines have no common divisor: 35 before one comes again.
    marker, line = _MARKERS[index % len(_MARKERS)], _LINES[index % len(_LINES)]
    return Mark(name, colour, marker, colour, line)


def _colour(settings: Mapping[str, Any]) -> str:
    """Return the colour of an entry of `adaptations`."""
    if is_retraining(settings):
        return _RETRAINING[settings["method"]]
    window = settings.get("window", MATRIX)
    if isinstance(window, int):
        return _BLUE if window == 1 else _SKY if window < 5 else _GREEN
    return _WINDOWS[window]


@contextmanager
def styled() -> Iterator[None]:
    """Draw and save in this style, whatever the user's own matplotlibrc says."""
    with matplotlib.style.context(["default", _STYLE]):
        yield


def draw_points(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    errors: Sequence[float] | None,
    look: Mark,
    opened: Sequence[bool],
) -> None:
    """Draw the points of a series, joined by its line where there are several.

    Args:
        axes: Where.
        x: Of each point.
        y: Of each point.
        errors: Bars on both sides; None for none.
        look: Of the series.
        opened: Whose mark is open, which the legend has to explain.
    """
    axes.errorbar(
        x,
        y,
        yerr=errors,
        marker=look.marker,
        color=look.colour,
        linestyle=look.line if len(x) > 1 else "none",
        linewidth=0.8,
        zorder=3,
    )
    axes.plot(
        [value for value, is_open in zip(x, opened, strict=True) if is_open],
        [value for value, is_open in zip(y, opened, strict=True) if is_open],
        look.marker,
        color=look.colour,
        markerfacecolor="white",
        zorder=4,
    )


def empty(message: str) -> Figure:
    """Return a figure that says why nothing is drawn."""
    figure = Figure()
    figure.text(0.5, 0.5, message, ha="center", va="center", color=QUIET)
    return figure


def legend_below(figure: Figure, handles: Sequence[Line2D], title: str, columns: int = 3) -> None:
    """Explain series below all panels."""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(columns, len(handles)),
        title=title,
        title_fontsize=SMALL,
    )


def line_handle(look: Mark, label: str) -> Line2D:
    """Return what a legend shows of a series."""
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.line, label=label)


def pruned_model(row: Mapping[str, Any]) -> str:
    """Return what the pruned model of a row of a table is called."""
    return f"{row['model']}, {row['criterion']}, {row['pattern']}"


def name_line(axes: Axes, value: float, text: str, colour: str) -> None:
    """Say to the right of the axes what the line across them at a value is."""
    axes.annotate(
        text,
        (1.0, value),
        xycoords=axes.get_yaxis_transform(),
        xytext=(3, 0),
        textcoords="offset points",
        ha="left",
        va="center",
        fontsize=SMALL,
        color=colour,
    )


def draw(
    data: Path, figure_of: Callable[[list[dict[str, Any]]], Figure], outputs: Iterable[Path]
) -> None:
    """Draw a figure from the rows of a CSV file, and save it in each format."""
    with data.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with styled():
        figure = figure_of(rows)
        for path in outputs:
            save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Save a figure so that drawing it again gives the same bytes.

    Args:
        figure: Drawn within `styled`, and saved within it.
        path: Its suffix is the format: .png, .svg or .pdf.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(temporary, format=path.suffix[1:], metadata=_METADATA[path.suffix])
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
