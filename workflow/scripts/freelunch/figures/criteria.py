"""Perplexity by criterion, without and with adaptation, beside the dense model.

Draws what `freelunch.tables` wrote to criteria.csv, and computes nothing.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from freelunch.cell import DENSE
from freelunch.figures.style import DENSE_COLOUR, QUIET, SMALL, Mark, marks, save, styled
from freelunch.summary import NOT_FINITE

# The axis is logarithmic if the largest perplexity is over so many times the smallest.
LOG_FROM = 5.0
PANEL_HEIGHT_INCHES = 2.6
# From point to point: a value of four digits fits.
STEP_INCHES = 0.3
# Of the room a criterion has; the rest keeps criteria apart.
USED_SHARE = 0.75


@dataclass(frozen=True)
class Point:
    """One row of criteria.csv; None where a number is not finite or not there."""

    criterion: str
    pattern: str
    model: str
    adaptation: str
    perplexity: float | None
    error: float | None
    spread: float | None


def draw_criteria(
    data: Path, adaptations: Sequence[str], text: str, outputs: Iterable[Path]
) -> None:
    """Draw the figure: a row of panels a model, a panel a pattern.

    Args:
        data: criteria.csv.
        adaptations: All that the config registers; decides how each looks.
        text: Name of the evaluation text, for the axis.
        outputs: Where to save it; suffixes are formats.
    """
    points = read_points(data)
    with styled():
        figure = criteria_figure(points, marks(adaptations), text)
        for path in outputs:
            save(figure, path)


def read_points(data: Path) -> list[Point]:
    """Return the rows of criteria.csv."""
    with data.open(encoding="utf-8", newline="") as file:
        return [
            Point(
                row["criterion"],
                row["pattern"],
                row["model"],
                row["adaptation"],
                _finite(row["perplexity"]),
                _finite(row["perplexity_standard_error"]),
                _finite(row["perplexity_standard_deviation_over_seeds"]),
            )
            for row in csv.DictReader(file)
        ]


def criteria_figure(points: Sequence[Point], looks: Mapping[str, Mark], text: str) -> Figure:
    """Return the figure, drawn in the current style."""
    dense = {point.model: point for point in points if point.criterion == DENSE}
    pruned = [point for point in points if point.criterion != DENSE]
    patterns = _distinct(point.pattern for point in pruned)
    criteria = _distinct(point.criterion for point in pruned)
    shown = [name for name in looks if any(point.adaptation == name for point in pruned)]
    width = max(2.4, STEP_INCHES * len(shown) * len(criteria) / USED_SHARE)
    size = (0.9 + (0.5 + width) * len(patterns), 0.6 + PANEL_HEIGHT_INCHES * len(dense))
    figure = Figure(figsize=size)
    grid = figure.subplots(len(dense), len(patterns), squeeze=False, sharey="row")
    for axes_of_model, (model, dense_point) in zip(grid, dense.items(), strict=True):
        of_model = [point for point in pruned if point.model == model]
        _scale(axes_of_model[0], [dense_point, *of_model])
        axes_of_model[0].set_ylabel(f"perplexity on {text}")
        for axes, pattern in zip(axes_of_model, patterns, strict=True):
            axes.set_title(f"{model}, {pattern_label(pattern)}", loc="left")
            here = [point for point in of_model if point.pattern == pattern]
            _panel(axes, here, criteria, shown, looks)
            _dense_line(axes, dense_point)
    _legend(figure, [looks[name] for name in shown], any(point.spread for point in pruned))
    return figure


def pattern_label(pattern: str) -> str:
    """Return a pattern in words, where its name is not already."""
    share = pattern.removeprefix("u")
    return f"{share} % unstructured" if share != pattern else pattern.replace("of", ":")


def _panel(
    axes: Axes,
    points: Sequence[Point],
    criteria: Sequence[str],
    shown: Sequence[str],
    looks: Mapping[str, Mark],
) -> None:
    """Draw one model and pattern."""
    step = USED_SHARE / len(shown)
    for point in points:
        place = shown.index(point.adaptation) - (len(shown) - 1) / 2
        x = criteria.index(point.criterion) + step * place
        _draw_point(axes, x, point, looks[point.adaptation])
    axes.set_xticks(range(len(criteria)), criteria)
    axes.set_xlim(-0.5, len(criteria) - 0.5)
    axes.tick_params(axis="x", length=0)
    if not points:
        axes.annotate(
            "not part of the study", (0.5, 0.5), xycoords="axes fraction", ha="center", color=QUIET
        )


def _draw_point(axes: Axes, x: float, point: Point, look: Mark) -> None:
    """Draw a mark, its error over windows as a bar, its spread over seeds as a wide pale one."""
    if point.perplexity is None:
        _mark_not_finite(axes, x, look)
        return
    if point.spread is not None:
        ends = (point.perplexity - point.spread, point.perplexity + point.spread)
        axes.plot(
            [x, x], ends, color=look.colour, alpha=0.3, linewidth=9, solid_capstyle="butt", zorder=2
        )
    axes.errorbar(
        x,
        point.perplexity,
        yerr=point.error,
        fmt=look.marker,
        color=look.colour,
        markerfacecolor=look.face,
        markeredgecolor=look.colour,
        zorder=3,
    )
    top = point.perplexity + max(point.error or 0.0, point.spread or 0.0)
    axes.annotate(
        _plain(point.perplexity),
        (x, top),
        xytext=(0, 3.5),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=SMALL,
        color=QUIET,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
        zorder=2.5,
    )


def _dense_line(axes: Axes, dense: Point) -> None:
    if dense.perplexity is None:
        return
    if dense.error is not None:
        ends = (dense.perplexity - dense.error, dense.perplexity + dense.error)
        axes.axhspan(*ends, color=DENSE_COLOUR, alpha=0.15, linewidth=0, zorder=1)
    axes.axhline(dense.perplexity, color=DENSE_COLOUR, linestyle="--", linewidth=1.0, zorder=1)
    axes.annotate(
        f"dense\n{_plain(dense.perplexity)}",
        (1.0, dense.perplexity),
        xycoords=axes.get_yaxis_transform(),
        xytext=(3, 0),
        textcoords="offset points",
        ha="left",
        va="center",
        fontsize=SMALL,
        color=DENSE_COLOUR,
    )


def _mark_not_finite(axes: Axes, x: float, look: Mark) -> None:
    """Put the mark on the upper edge, and say why it is there."""
    above = axes.get_xaxis_transform()
    axes.plot(
        x,
        1.0,
        look.marker,
        color=look.colour,
        markerfacecolor=look.face,
        transform=above,
        clip_on=False,
    )
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


def _legend(figure: Figure, looks: Sequence[Mark], seeds: bool) -> None:
    """Say below the panels what marks and bars mean."""
    handles = [
        Line2D(
            [],
            [],
            color=look.colour,
            marker=look.marker,
            markerfacecolor=look.face,
            linestyle="none",
            label=look.label,
        )
        for look in looks
    ]
    bars = "bars and band: ± standard error over windows"
    bars += "; wide: ± standard deviation over seeds" if seeds else ""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 4),
        title=bars,
        title_fontsize=SMALL,
    )


def _scale(axes: Axes, points: Sequence[Point]) -> None:
    """Choose a linear or a logarithmic axis, with room above and below, ticks in plain numbers."""
    values = [point.perplexity for point in points if point.perplexity is not None]
    if not values:
        return
    low, high = min(values), max(values)
    if high > LOG_FROM * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.35, high * 1.5)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        room = (high - low or high) * 0.2
        axes.set_ylim(low - room, high + room)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _plain(value: float) -> str:
    """Return three digits, or all of those before the point."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{decimals}f}"


def _finite(field: str) -> float | None:
    return float(field) if field and math.isfinite(float(field)) else None


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
