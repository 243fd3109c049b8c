"""One style for all figures, and the parts that several of them have."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from freelunch.reporting.drawing.marks import QUIET, Mark

matplotlib.use("Agg")

SMALL = 7.0
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
        axes: Axes to draw in.
        x: Place of each point.
        y: Value of each point.
        errors: Length of each point's error bar, up and down; None for no bars.
        look: How the series looks.
        opened: Whether each point's mark is open; the legend has to explain open marks.
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
    """Return a figure without axes that says why nothing is drawn."""
    figure = Figure()
    figure.text(0.5, 0.5, message, ha="center", va="center", color=QUIET)
    return figure


def legend_below(figure: Figure, handles: Sequence[Line2D], title: str, columns: int = 3) -> None:
    """Put a legend below all panels."""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(columns, len(handles)),
        title=title,
        title_fontsize=SMALL,
    )


def line_handle(look: Mark, label: str) -> Line2D:
    """Return the entry of a series in a legend."""
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.line, label=label)


def name_line(axes: Axes, value: float, text: str, colour: str) -> None:
    """Name a horizontal line, to the right of the axes."""
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
