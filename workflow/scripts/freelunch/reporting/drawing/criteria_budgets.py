"""Draw perplexity by criterion, against the tokens that an adaptation sees."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from freelunch.reporting.drawing.marks import Mark, marks, of_criteria
from freelunch.reporting.drawing.panels import Point
from freelunch.reporting.drawing.style import (
    WIDTH_INCHES,
    draw_level,
    draw_points,
    draw_spread,
    empty,
    legend_below,
    log_ticks,
    mark_not_finite,
    name_ends,
    start_with_data,
)
from freelunch.reporting.labels import Registered, criterion_label, pattern_label, seeds_label
from freelunch.study.cell import DENSE, NONE

PANEL_INCHES = 3.2
# How far left of the smallest budget the models without adaptation stand, as a factor.
WITHOUT = 4.0
Row = Mapping[str, str]


def draw(rows: Sequence[Row], adaptations: Registered, text: str) -> Figure:
    """Return the figure: a panel for each model, pattern and series of adaptations.

    Args:
        rows: Rows of criteria_budgets.csv.
        adaptations: All adaptations of the study's config; they decide the names of series.
        text: Name of the evaluation text, for the axis.
    """
    panels: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["series"]:
            panels.setdefault((row["model"], row["pattern"], row["series"]), []).append(row)
    if not panels:
        return empty("no criteria were compared at several budgets")
    figure = Figure()
    figure.set_size_inches(WIDTH_INCHES, 0.4 + PANEL_INCHES * len(panels))
    grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    looks = marks(adaptations)
    for axes, ((model, pattern, series), adapted) in zip(grid, panels.items(), strict=True):
        without = [
            row
            for row in rows
            if row["adaptation"] == NONE and (row["model"], row["pattern"]) == (model, pattern)
        ]
        dense = next(row for row in rows if (row["criterion"], row["model"]) == (DENSE, model))
        level = _panel(axes, adapted, without, float(dense["perplexity"]))
        seeds = seeds_label({int(row["seeds"]) for row in adapted})
        series = looks[adapted[0]["adaptation"]].series
        title = f"{model}, {pattern_label(pattern)}\n{series}, {seeds}\n{level}"
        axes.set_title(title, loc="left")
        axes.set_ylabel(f"perplexity on {text}")
    grid[-1].set_xlabel("tokens seen")
    legend_below(
        figure,
        [],
        "bars: ± standard error over windows; wide pale bars: ± standard deviation over\n"
        "seeds; a bar shorter than its mark is hidden",
    )
    return figure


def _panel(axes: Axes, adapted: Sequence[Row], without: Sequence[Row], dense: float) -> str:
    """Draw a panel; return in words where the dense model is."""
    budgets = sorted({float(row["tokens"]) for row in adapted})
    places = [budgets[0] / WITHOUT, *budgets]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(places, ["not\nadapted", *map(_amount, budgets)])
    axes.set_yscale("log")
    points = [Point.of(row) for row in (*without, *adapted)]
    finite = [point for point in points if point.perplexity is not None]
    start_with_data(
        axes,
        [*(point.perplexity or math.nan for point in finite), dense],
        [*(point.bar for point in finite), 0.0],
    )
    log_ticks(axes)
    looks = of_criteria([point.criterion for point in points])
    ends = {}
    for criterion, look in looks.items():
        of_without = [row for row in without if row["criterion"] == criterion]
        of_adapted = sorted(
            (row for row in adapted if row["criterion"] == criterion),
            key=lambda row: float(row["tokens"]),
        )
        _draw(axes, [places[0]] * len(of_without), of_without, look)
        last = _draw(axes, [float(row["tokens"]) for row in of_adapted], of_adapted, look)
        if last is not None:
            ends[f"{criterion_label(criterion)} {last[1]:.1f}"] = (last, look.colour)
    name_ends(
        axes,
        {name: end for name, (end, _) in ends.items()},
        {name: colour for name, (_, colour) in ends.items()},
    )
    return draw_level(axes, dense, "dense", "--", "dashed")


def _amount(tokens: float) -> str:
    """Return a number of tokens in three digits: 8.19k, 131k, 1.57M."""
    rounded = float(f"{tokens:.3g}")
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if rounded >= unit:
            return f"{rounded / unit:g}{name}"
    return f"{rounded:g}"


def _draw(
    axes: Axes, places: Sequence[float], rows: Sequence[Row], look: Mark
) -> tuple[float, float] | None:
    """Draw the points of a criterion; return the last one, if it is finite."""
    points = [(x, Point.of(row)) for x, row in zip(places, rows, strict=True)]
    finite = [(x, it, it.perplexity) for x, it in points if it.perplexity is not None]
    for x, point in points:
        if point.perplexity is None:
            mark_not_finite(axes, x, look)
    for x, point, perplexity in finite:
        draw_spread(axes, x, perplexity, point.spread, look.colour)
    draw_points(
        axes,
        [x for x, _, _ in finite],
        [perplexity for _, _, perplexity in finite],
        [point.error or 0.0 for _, point, _ in finite],
        look,
    )
    x, last = points[-1] if points else (math.nan, None)
    return None if last is None or last.perplexity is None else (x, last.perplexity)
