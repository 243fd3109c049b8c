"""The gap between criteria against the size of the model.

Draws what `freelunch.analysis.criteria_gap` wrote to sizes.csv, and computes nothing.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from freelunch.reporting.figures.style import (
    Registered,
    draw,
    draw_points,
    empty,
    legend_below,
    line_handle,
    marks,
)

PANEL_INCHES = (2.9, 2.5)
Row = dict[str, Any]


def draw_sizes(data: Path, adaptations: Registered, outputs: Iterable[Path]) -> None:
    """Draw the figure: for each pattern the gap against the parameters of the model.

    Args:
        data: sizes.csv.
        adaptations: All that the study's config has; decides how each looks.
        outputs: Where to save it; suffixes are formats.
    """
    draw(data, lambda rows: sizes_figure(rows, adaptations), outputs)


def sizes_figure(rows: Sequence[Row], adaptations: Registered) -> Figure:
    """Return the figure, drawn in the current style: a line for each adaptation that several models
    have.
    """
    series: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        series.setdefault(row["pattern"], {}).setdefault(row["adaptation"], []).append(row)
    several = {
        pattern: kept
        for pattern, of in series.items()
        if (kept := {name: here for name, here in of.items() if len(here) > 1})
    }
    if not several:
        return empty("criteria were compared on one model only")
    figure = Figure()
    looks = marks(adaptations)
    names = [name for name in looks if any(name in of for of in several.values())]
    figure.set_size_inches(0.6 + len(several) * PANEL_INCHES[0], 0.8 + PANEL_INCHES[1])
    grid = figure.subplots(1, len(several), squeeze=False, sharey=True)
    for axes, (pattern, of) in zip(grid[0], several.items(), strict=True):
        _panel(axes, of, looks)
        axes.set_title(pattern, loc="left")
        axes.set_xlabel("parameters of the model")
    grid[0][0].set_ylabel("worst minus best criterion, nats a token")
    legend_below(
        figure,
        [line_handle(looks[name], looks[name].label) for name in names],
        "± one standard error over windows of text",
    )
    return figure


def _panel(axes: Axes, series: dict[str, list[Row]], looks: Any) -> None:
    axes.set_xscale("log")
    for name, rows in series.items():
        here = sorted(
            (row for row in rows if math.isfinite(float(row["loss_gap"]))),
            key=lambda row: int(row["parameters"]),
        )
        draw_points(
            axes,
            [int(row["parameters"]) for row in here],
            [float(row["loss_gap"]) for row in here],
            [float(row["loss_gap_standard_error"]) for row in here],
            looks[name],
            [False] * len(here),
        )
