"""Draw perplexity and memory against the window size."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from freelunch.reporting.drawing.marks import (
    COLOURS,
    DENSE_COLOUR,
    INK,
    QUIET,
    Mark,
    apart,
)
from freelunch.reporting.drawing.style import (
    draw_points,
    empty,
    legend_below,
    line_handle,
    name_line,
)
from freelunch.study.naming import pruned_model
from freelunch.study.windows import HALVES, window_size

PANEL_INCHES = (0.62, 2.5)
# The series, by inputs, targets, and whether least squares took the place of training.
SERIES = {
    ("dense", "dense", False): "dense inputs and targets",
    ("dense", "dense", True): "dense inputs and targets, least squares",
    ("sparse", "dense", False): "sparse inputs, dense targets",
    ("sparse", "dense", True): "sparse inputs, dense targets, least squares",
    ("sparse", "local", False): "sparse inputs, local targets",
    ("sparse", "local", True): "sparse inputs, local targets, least squares",
}
Row = dict[str, Any]


def draw(rows: Sequence[Row], text: str) -> Figure:
    """Return the figure: for each pruned model perplexity above, memory below.

    Args:
        rows: Rows of windows.csv.
        text: Name of the evaluation text, for the axis.
    """
    if not rows:
        return empty("no two windows to compare")
    models = list(dict.fromkeys(pruned_model(row) for row in rows))
    # Each possible series has its own look, shown or not.
    colours = dict(zip(SERIES.values(), COLOURS, strict=True))
    looks = dict(zip(SERIES, apart(colours).values(), strict=True))
    widest = max(
        len(_windows([row for row in rows if pruned_model(row) == model])) for model in models
    )
    figure = Figure()
    width = max(4.2, 1.6 + PANEL_INCHES[0] * widest)
    figure.set_size_inches(width, 0.6 + 2 * PANEL_INCHES[1] * len(models))
    grid = figure.subplots(2 * len(models), 1, squeeze=False)[:, 0]
    for number, model in enumerate(models):
        here = [row for row in rows if pruned_model(row) == model]
        quality, memory = grid[2 * number], grid[2 * number + 1]
        quality.set_title(model, loc="left")
        quality.set_ylabel(f"perplexity on {text}")
        memory.set_ylabel("peak memory of a job (GB)")
        memory.set_xlabel("window: number of blocks, or part of one")
        _series(quality, here, looks, "perplexity", 1.0)
        _series(memory, here, looks, "adaptation_peak_bytes", 1e-9)
        memory.set_ylim(0, 1.08 * memory.get_ylim()[1])
        _line(quality, here, "perplexity_unadapted", "not adapted", INK, ":")
        _line(quality, here, "perplexity_dense", "dense", DENSE_COLOUR, "--")
    shown = [series for series in SERIES if any(_kind(row) == series for row in rows)]
    on_evaluation = any(row["selected_on"] == "evaluation" for row in rows)
    opened = "\nopen marks: learning rate chosen on the evaluation text" if on_evaluation else ""
    legend_below(
        figure,
        [line_handle(looks[series], SERIES[series]) for series in shown],
        "bars: ± standard error over windows of text" + opened,
        columns=2,
    )
    return figure


def _series(
    axes: Axes, rows: Sequence[Row], looks: dict[tuple[str, str, bool], Mark], key: str, unit: float
) -> None:
    """Draw a quantity of all series; marks that share a window stand side by side."""
    windows = _windows(rows)
    finite = [row for row in rows if math.isfinite(float(row[key]))]
    for kind in dict.fromkeys(_kind(row) for row in rows):
        here = [row for row in finite if _kind(row) == kind]
        x = [windows.index(row["window"]) + _beside(row, finite) for row in here]
        y = [float(row[key]) * unit for row in here]
        error = None
        if key == "perplexity":
            error = [float(row["perplexity_standard_error"]) for row in here]
        opened = [row["selected_on"] == "evaluation" for row in here]
        draw_points(axes, x, y, error, looks[kind], opened)
    names = [name.replace(HALVES, "attention\n/ MLP") for name in windows]
    axes.set_xticks(range(len(windows)), names)
    axes.set_xlim(-0.6, len(windows) - 0.4)
    axes.tick_params(axis="x", length=0)


def _beside(row: Row, rows: Sequence[Row]) -> float:
    """Return the shift of a mark to the side, so that marks of one window do not overlap."""
    sharing = [other for other in rows if other["window"] == row["window"]]
    place = next(number for number, other in enumerate(sharing) if other is row)
    return 0.14 * (place - (len(sharing) - 1) / 2)


def _line(axes: Axes, rows: Sequence[Row], key: str, label: str, colour: str, style: str) -> None:
    """Draw a value that all rows share as a horizontal line with its name."""
    value = float(rows[0][key])
    if not math.isfinite(value):
        return
    axes.axhline(value, color=colour, linestyle=style, linewidth=1.0, zorder=1)
    name_line(axes, value, f"{label}\n{value:.1f}", QUIET)


def _windows(rows: Sequence[Row]) -> list[str]:
    """Return the windows from small to large."""
    return sorted({row["window"] for row in rows}, key=window_size)


def _kind(row: Row) -> tuple[str, str, bool]:
    return row["inputs"], row["targets"], row["exact"] == "1"
