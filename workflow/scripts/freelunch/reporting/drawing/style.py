"""One style for all figures, and the parts that several of them have."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from freelunch.reporting.drawing.marks import DENSE_COLOUR, QUIET, Mark
from freelunch.reporting.formatting import NOT_FINITE

matplotlib.use("Agg")

# A figure is as wide as a phone can show with its words still readable, so panels are stacked.
WIDTH_INCHES = 4.8
SMALL = 7.5
DAGGER = "\N{DAGGER}"
CHOSEN = f"{DAGGER}: settings chosen on the evaluation text"
UP, DOWN = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"
# The least distance of labels beside lines, as a share of the height of a panel.
LABEL_STEP = 0.1
# How far right of a panel they begin, as a share of its width.
LABEL_GAP = 0.06
# The ratio of the ends of a logarithmic axis up to which evenly spaced numbers say more than 1, 2
# and 5, and beyond which powers of ten are enough.
FEW, MANY = 8.0, 500.0
# The least span of an axis of memory, as a share of its largest value.
LEAST_SPAN = 0.2
_STYLE = {
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8.5,
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
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.1,
    "lines.markeredgewidth": 1.0,
    "lines.markersize": 4.8,
    "savefig.dpi": 220,
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
    chosen: Sequence[bool] = (),
) -> None:
    """Draw the points of a series, joined by its line where there are several.

    Args:
        axes: Axes to draw in.
        x: Place of each point.
        y: Value of each point.
        errors: Length of each point's error bar, up and down; None for no bars.
        look: How the series looks.
        chosen: Whether each point's settings were chosen on the evaluation text. These get a
            dagger, which the legend has to explain (`CHOSEN`).
    """
    axes.errorbar(
        x,
        y,
        yerr=errors,
        **look.points,
        linestyle=look.line if len(x) > 1 else "none",
        linewidth=0.8,
        zorder=3,
    )
    for at, value, marked in zip(x, y, chosen, strict=False):
        if marked:
            axes.annotate(
                DAGGER,
                (at, value),
                xytext=(4, 3),
                textcoords="offset points",
                fontsize=SMALL,
                color=QUIET,
            )


def draw_spread(axes: Axes, x: float, y: float, spread: float | None, colour: str) -> None:
    """Draw a spread over seeds as a wide pale bar, up and down; nothing if there is none."""
    if spread is not None:
        axes.plot(
            [x, x],
            (y - spread, y + spread),
            color=colour,
            alpha=0.3,
            linewidth=9,
            solid_capstyle="butt",
            zorder=2,
        )


def start_with_data(
    axes: Axes, values: Iterable[float], errors: Iterable[float | None] | None = None
) -> None:
    """Let the y axis span the data and their bars, with a little room above and below."""
    found = list(values)
    bars = [error or 0.0 for error in errors] if errors is not None else [0.0] * len(found)
    pairs = [pair for pair in zip(found, bars, strict=True) if math.isfinite(sum(pair))]
    if not pairs:
        return
    low = min(value - bar for value, bar in pairs)
    high = max(value + bar for value, bar in pairs)
    if axes.get_yscale() == "log":
        # No bar reaches down to 0 on a logarithmic axis: a longer one leaves the panel.
        low = max(low, min(value for value, _ in pairs) / 2)
        room = (high / low) ** 0.08 if high > low else 1.1
        axes.set_ylim(low / room, high * room)
    else:
        room = 0.08 * (high - low or abs(high) or 1.0)
        axes.set_ylim(low - room, high + room)


def log_ticks(axes: Axes) -> None:
    """Put plain numbers at a logarithmic y axis whose limits are set: few enough to be read."""
    low, high = axes.get_ylim()
    locator: Locator = MaxNLocator(6, steps=[1, 2, 5, 10])
    if high > FEW * low:
        locator = LogLocator(subs=(1.0,) if high > MANY * low else (1.0, 2.0, 5.0))
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def mark_not_finite(axes: Axes, x: float, look: Mark) -> None:
    """Put a mark on the upper edge, with the reason below it."""
    above = axes.get_xaxis_transform()
    axes.plot([x], [1.0], **look.points, transform=above, clip_on=False)
    axes.annotate(
        NOT_FINITE,
        (x, 1.0),
        xycoords=above,
        xytext=(0, -6),
        textcoords="offset points",
        rotation=90,
        ha="center",
        va="top",
        fontsize=SMALL,
        color=QUIET,
    )


def widen(axes: Axes) -> None:
    """Let the x axis span at least a share of its values, so that noise does not fill a panel."""
    low, high = axes.get_xlim()
    lacking = LEAST_SPAN * abs(high) - (high - low)
    if lacking > 0:
        axes.set_xlim(low - lacking / 2, high + lacking / 2)


def draw_level(axes: Axes, value: float, name: str, line: str, word: str) -> str:
    """Draw a value as a horizontal line if it is within the axes, and return it in words.

    Args:
        axes: Axes whose limits are set.
        value: The value.
        name: What the value is.
        line: Line style, as matplotlib names it.
        word: The line style in a word.
    """
    low, high = axes.get_ylim()
    if not math.isfinite(value):
        return f"{name}: {NOT_FINITE}"
    if low <= value <= high:
        axes.axhline(value, color=DENSE_COLOUR, linestyle=line, linewidth=1.0, zorder=1)
        return f"{name} ({word}): {value:.1f}"
    return f"{name}: {value:.1f} {UP if value > high else DOWN}"


def name_ends(
    axes: Axes, ends: Mapping[str, tuple[float, float]], looks: Mapping[str, str]
) -> None:
    """Name lines beside their right ends, to which thin lines lead from their names.

    Args:
        axes: Axes whose limits are set.
        ends: The right end of each line, by its name.
        looks: The colour of each name.
    """
    scale = math.log if axes.get_yscale() == "log" else float
    low, high = (scale(limit) for limit in axes.get_ylim())
    ordered = sorted(ends.items(), key=lambda end: end[1][1])
    places = apart([(scale(y) - low) / (high - low) for _, (_, y) in ordered], LABEL_STEP)
    for (name, end), place in zip(ordered, places, strict=True):
        axes.annotate(
            name,
            end,
            xytext=(1.0 + LABEL_GAP, place),
            textcoords="axes fraction",
            ha="left",
            va="center",
            fontsize=SMALL,
            color=looks[name],
            arrowprops={
                "arrowstyle": "-",
                "color": looks[name],
                "linewidth": 0.5,
                "shrinkA": 1.0,
                "shrinkB": 0.0,
                "relpos": (0.0, 0.5),
            },
        )


def apart(places: Sequence[float], step: float) -> list[float]:
    """Return ascending places moved at least a step apart, by as little as possible.

    The sum of the squared moves is the least one (isotonic regression, by pooling neighbours).
    """
    pools: list[list[float]] = []
    for at, place in enumerate(places):
        pools.append([place - at * step])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    means = [fmean(pool) for pool in pools for _ in pool]
    return [mean + at * step for at, mean in enumerate(means)]


def empty(message: str) -> Figure:
    """Return a figure without axes that says why nothing is drawn."""
    figure = Figure()
    figure.text(0.5, 0.5, message, ha="center", va="center", color=QUIET)
    return figure


def legend_below(figure: Figure, handles: Sequence[Line2D], title: str, columns: int = 2) -> None:
    """Put a legend below all panels."""
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(columns, len(handles)) or 1,
        title=title,
        title_fontsize=SMALL,
    )
    legend.get_title().set_multialignment("center")


def line_handle(look: Mark, label: str) -> Line2D:
    """Return the entry of a series in a legend."""
    return Line2D([], [], **look.points, linestyle=look.line, linewidth=0.8, label=label)


def mark_handle(look: Mark, label: str) -> Line2D:
    """Return the entry of a mark without a line in a legend."""
    return Line2D([], [], **look.points, linestyle="none", label=label)


def write_beside(axes: Axes, value: float, text: str, colour: str, gap: float) -> None:
    """Write a text at the height of a value, `gap` points right of the axes; left of their right
    edge if this is negative.
    """
    axes.annotate(
        text,
        (1.0, value),
        xycoords=axes.get_yaxis_transform(),
        xytext=(gap, 0),
        textcoords="offset points",
        ha="left" if gap > 0 else "right",
        va="center",
        fontsize=SMALL,
        color=colour,
    )
