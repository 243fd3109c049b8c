"""One style for all figures, the parts that several of them have, and their files: drawing a figure
again gives the same bytes.

Planning imports the figures and with them this module, but draws nothing. So matplotlib is imported
where it is used.
"""

import csv
import importlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freelunch.core.files import no_half_file
from freelunch.reporting.drawing.adaptation_looks import DENSE_COLOUR, QUIET, WHITE, Mark
from freelunch.reporting.formatting import NOT_FINITE

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
    from matplotlib.lines import Line2D

# A row of the CSV file of a figure.
Row = Mapping[str, str]
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


# --- Figures


@contextmanager
def styled() -> Iterator[None]:
    """Draw and save in this style, whatever the user's own matplotlibrc says."""
    import matplotlib.style

    with matplotlib.style.context(["default", _STYLE]):
        yield


def new_figure(height_inches: float, width_inches: float = WIDTH_INCHES) -> "Figure":
    """Return a figure without axes."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches))


def stacked(panels: int, height_inches: float, **subplots: Any) -> "tuple[Figure, Sequence[Axes]]":
    """Return a figure, and its panels from top to bottom."""
    figure = new_figure(height_inches)
    return figure, figure.subplots(panels, 1, squeeze=False, **subplots)[:, 0]


def empty(message: str) -> "Figure":
    """Return a figure without axes that says why nothing is drawn."""
    from matplotlib.figure import Figure

    figure = Figure()
    figure.text(0.5, 0.5, message, ha="center", va="center", color=QUIET)
    return figure


def grouped(rows: Iterable[Row], *keys: str) -> dict[Any, list[Row]]:
    """Return rows by what they have in some columns, in the order of the first of each."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        place = tuple(row[key] for key in keys)
        groups.setdefault(place if len(keys) > 1 else place[0], []).append(row)
    return groups


def numbers(rows: Iterable[Row], key: str) -> list[float]:
    return [float(row[key]) for row in rows]


def finite_rows(rows: Iterable[Row], key: str) -> list[Row]:
    return [row for row in rows if math.isfinite(float(row[key]))]


# --- Points and lines


def draw_points(
    axes: "Axes",
    x: Sequence[float],
    y: Sequence[float],
    errors: Sequence[float] | None,
    look: Mark,
    chosen: Sequence[bool] = (),
    pale: Sequence[bool] = (),
) -> None:
    """Draw the points of a series with error bars, joined by its line where there are several.

    Points whose settings were `chosen` on the evaluation text get a dagger, and some points are
    `pale`; the legend has to explain both (`CHOSEN`).
    """
    line = look.line if len(x) > 1 else "none"
    axes.errorbar(x, y, yerr=errors, **look.points, linestyle=line, linewidth=0.8, zorder=3)
    for at, value, is_pale in zip(x, y, pale, strict=False):
        if is_pale:
            axes.plot(at, value, "o", color=WHITE, alpha=0.6, markersize=7, zorder=3.1)
    for at, value, is_chosen in zip(x, y, chosen, strict=False):
        if is_chosen:
            write_at(axes, DAGGER, (at, value), (4, 3), color=QUIET)


def draw_spread(axes: "Axes", x: float, y: float, spread: float | None, colour: str) -> None:
    """Draw a spread over seeds as a wide pale bar, up and down; nothing if there is none."""
    if spread is not None:
        look: dict[str, Any] = {"color": colour, "alpha": 0.3, "linewidth": 9, "zorder": 2}
        axes.plot([x, x], (y - spread, y + spread), solid_capstyle="butt", **look)


def mark_above(axes: "Axes", x: float, look: Mark, words: str = NOT_FINITE) -> None:
    """Put a mark on the upper edge, with the reason below it."""
    above = axes.get_xaxis_transform()
    axes.plot([x], [1.0], **look.points, transform=above, clip_on=False)
    upright = {"rotation": 90, "ha": "center", "va": "top", "color": QUIET}
    write_at(axes, words, (x, 1.0), (0, -6), xycoords=above, **upright)


def draw_level(axes: "Axes", value: float, name: str, line: str, word: str) -> str:
    """Draw a value as a horizontal line if it is within the limits of the axes, and return it in
    words; `word` says what `line`, a line style of matplotlib's, looks like.
    """
    low, high = axes.get_ylim()
    if not math.isfinite(value):
        return f"{name}: {NOT_FINITE}"
    if low <= value <= high:
        axes.axhline(value, color=DENSE_COLOUR, linestyle=line, linewidth=1.0, zorder=1)
        return f"{name} ({word}): {value:.1f}"
    return f"{name}: {value:.1f} {UP if value > high else DOWN}"


# --- Axes


def log_scale(axes: "Axes", values: Sequence[float], errors: Sequence[float] = ()) -> None:
    """Let a logarithmic y axis span the data and their bars, with a little room above and below,
    and put plain numbers at it.
    """
    axes.set_yscale("log")
    bars = errors or [0.0] * len(values)
    pairs = [pair for pair in zip(values, bars, strict=True) if math.isfinite(sum(pair))]
    if pairs:
        low = min(value - bar for value, bar in pairs)
        high = max(value + bar for value, bar in pairs)
        # No bar reaches down to 0 on a logarithmic axis: a longer one leaves the panel.
        low = max(low, min(value for value, _ in pairs) / 2)
        room = (high / low) ** 0.08 if high > low else 1.1
        axes.set_ylim(low / room, high * room)
    log_ticks(axes)


def log_ticks(axes: "Axes") -> None:
    """Put plain numbers at a logarithmic y axis whose limits are set: few enough to be read."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    low, high = axes.get_ylim()
    if high > FEW * low:
        powers = LogLocator(subs=(1.0,) if high > MANY * low else (1.0, 2.0, 5.0))
        axes.yaxis.set_major_locator(powers)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:,.10g}")


def widen(axes: "Axes") -> None:
    """Let the x axis span at least a share of its values, so that noise does not fill a panel."""
    low, high = axes.get_xlim()
    lacking = LEAST_SPAN * abs(high) - (high - low)
    if lacking > 0:
        axes.set_xlim(low - lacking / 2, high + lacking / 2)


# --- Words


def name_ends(axes: "Axes", ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Name lines beside their right ends, given with their colours; thin lines lead from their
    names. The limits of the axes are set, and the y axis is logarithmic.
    """
    low, high = map(math.log, axes.get_ylim())
    ordered = sorted(ends.items(), key=lambda end: end[1][1])
    heights = [(math.log(y) - low) / (high - low) for _, (_, y, _) in ordered]
    for (name, (x, y, colour)), place in zip(ordered, apart(heights, LABEL_STEP), strict=True):
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "relpos": (0.0, 0.5)}
        axes.annotate(
            name,
            (x, y),
            xytext=(1.0 + LABEL_GAP, place),
            textcoords="axes fraction",
            va="center",
            fontsize=SMALL,
            color=colour,
            arrowprops={**line, "shrinkA": 1.0, "shrinkB": 0.0},
        )


def apart(places: Sequence[float], step: float) -> list[float]:
    """Return ascending places moved at least a step apart, so that the sum of the squared moves is
    the least one (isotonic regression).
    """
    from scipy.optimize import isotonic_regression

    steps = [at * step for at in range(len(places))]
    lowered = [place - below for place, below in zip(places, steps, strict=True)]
    moved = isotonic_regression(lowered).x if lowered else []
    return [float(place) + below for place, below in zip(moved, steps, strict=True)]


def legend_below(figure: "Figure", handles: "Sequence[Line2D]", *notes: str) -> None:
    """Put a legend below all panels, with notes above its entries."""
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(2, len(handles)) or 1,
        title="\n".join(notes),
        title_fontsize=SMALL,
    )
    legend.get_title().set_multialignment("center")


def chosen_note(rows: Iterable[Row]) -> list[str]:
    """Return what daggers mean, if settings of some rows were chosen on the evaluation text."""
    return [CHOSEN] if any(row["selected_on"] == "evaluation" for row in rows) else []


def handle(look: Mark, label: str, line: bool = True) -> "Line2D":
    """Return the entry of a series in a legend, or of a mark without a line."""
    from matplotlib.lines import Line2D

    style = {"linestyle": look.line, "linewidth": 0.8} if line else {"linestyle": "none"}
    return Line2D([], [], **look.points, **style, label=label)


def write_at(
    axes: "Axes", text: str, at: tuple[float, float], offset: tuple[float, float], **look: Any
) -> None:
    """Write a small text some points right of and above a place."""
    axes.annotate(
        text, at, xytext=offset, **{"textcoords": "offset points", "fontsize": SMALL, **look}
    )


def write_beside(axes: "Axes", value: float, text: str, colour: str, gap: float) -> None:
    """Write a text at the height of a value, `gap` points right of the axes."""
    look = {"ha": "left", "va": "center", "color": colour}
    write_at(axes, text, (1.0, value), (gap, 0), xycoords=axes.get_yaxis_transform(), **look)


# Metadata that would otherwise contain a date or the version of matplotlib.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def draw_figure(
    drawing: str, data: Path, settings: Mapping[str, object], outputs: Iterable[Path]
) -> None:
    """Draw a CSV file with a drawing module (`Figure.drawing`) and the other arguments of its
    `draw`, and save the figure in several formats, which are the suffixes .png, .svg and .pdf.
    """
    with data.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with styled():
        figure = importlib.import_module(drawing).draw(rows, **settings)
        for path in outputs:
            save(figure, path)
            # All formats have the layout of the first, which takes longer than to draw the figure.
            figure.set_layout_engine("none")


def save(figure: "Figure", path: Path) -> None:
    """Save a figure, within `styled`; a file is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with no_half_file(temporary):
        figure.savefig(temporary, format=path.suffix[1:], metadata=_METADATA[path.suffix])
        temporary.replace(path)
