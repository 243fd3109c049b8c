"""Draw the gap between criteria against the size of the model."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from freelunch.reporting.drawing.marks import marks
from freelunch.reporting.drawing.style import (
    WIDTH_INCHES,
    draw_points,
    empty,
    legend_below,
    line_handle,
)
from freelunch.reporting.labels import Registered, pattern_label

PANEL_INCHES = 2.2
Row = dict[str, Any]


def draw(rows: Sequence[Row], adaptations: Registered) -> Figure:
    """Return the figure: for each pattern the gap between criteria against the size of the model.

    There is a line for each adaptation that several models have.

    Args:
        rows: Rows of sizes.csv.
        adaptations: All adaptations of the study's config; they decide the looks.
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
        return empty("criteria were compared on only one model")
    figure = Figure()
    looks = marks(adaptations)
    names = [name for name in looks if any(name in of for of in several.values())]
    figure.set_size_inches(WIDTH_INCHES, 0.8 + len(several) * PANEL_INCHES)
    grid = figure.subplots(len(several), 1, squeeze=False, sharex=True)
    for axes, (pattern, of) in zip(grid[:, 0], several.items(), strict=True):
        _panel(axes, of, looks)
        axes.set_title(pattern_label(pattern), loc="left")
        axes.set_ylabel("worst minus best criterion\n(nats per token)")
    axes.set_xlabel("parameters of the model")
    legend_below(
        figure,
        [line_handle(looks[name], looks[name].label) for name in names],
        "bars: ± standard error over windows of text",
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
        )
