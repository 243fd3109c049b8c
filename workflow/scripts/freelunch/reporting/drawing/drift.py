"""Draw the drift of activations against depth, by window."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from freelunch.reporting.drawing.marks import Registered, marks
from freelunch.reporting.drawing.style import SMALL, empty, legend_below, line_handle
from freelunch.study.cell import NONE
from freelunch.study.naming import pruned_model
from freelunch.study.windows import MATRIX, window_size

PANEL_INCHES = (3.3, 2.5)
LEGEND_INCHES = 0.2
# One block in this many is marked, a different one on each line, so that marks hide no lines.
MARKED = 5
KINDS = {
    "accumulated": "with the errors of all blocks before it",
    "local": "each block sees the dense model's activations",
}
Row = dict[str, Any]


def draw(rows: Sequence[Row], adaptations: Registered) -> Figure:
    """Return the figure: for each pruned model the error of block outputs against depth.

    It shows the pruned models that were adapted with several windows, or all if none was.

    Args:
        rows: Rows of drift.csv.
        adaptations: All adaptations of the study's config; they decide the looks.
    """
    shown = [row for row in rows if row["compared"] == "1" and row["output"] == "block"]
    by_model: dict[str, list[Row]] = {}
    for row in shown:
        by_model.setdefault(pruned_model(row), []).append(row)
    several = {
        model: here
        for model, here in by_model.items()
        if len({row["adaptation"] for row in here} - {NONE}) > 1
    }
    by_model = several or by_model
    if not by_model:
        return empty("no drift was measured")
    figure = Figure()
    looks = marks(adaptations)
    drawn = {row["adaptation"] for here in by_model.values() for row in here}
    # From small windows to large ones.
    sizes = {NONE: -math.inf}
    for name, entry in adaptations.items():
        sizes[name] = window_size(entry.get("window", MATRIX))
    names = sorted((name for name in looks if name in drawn), key=lambda name: sizes[name])
    figure.set_size_inches(
        0.6 + len(KINDS) * PANEL_INCHES[0],
        0.6 + len(by_model) * PANEL_INCHES[1] + LEGEND_INCHES * -(-len(names) // 3),
    )
    # Local errors are much smaller than accumulated ones, so each panel has its own scale.
    grid = figure.subplots(len(by_model), len(KINDS), squeeze=False)
    for (model, here), panels in zip(by_model.items(), grid, strict=True):
        for axes, (kind, meaning) in zip(panels, KINDS.items(), strict=True):
            _panel(axes, [row for row in here if row["kind"] == kind], names, looks)
            axes.set_xlabel(f"block\n{kind}: {meaning}")
        panels[0].set_ylabel("relative error of a block's output")
        panels[0].set_title(model, loc="left")
    legend_below(
        figure,
        [line_handle(looks[name], looks[name].label) for name in names],
        "averaged over tokens of held-out calibration text",
    )
    return figure


def _panel(axes: Axes, rows: Sequence[Row], names: Sequence[str], looks: Any) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="y", which="minor", labelsize=SMALL)
    for at, name in enumerate(names):
        here = [row for row in rows if row["adaptation"] == name]
        # A logarithmic scale has no 0.
        finite = [row for row in here if math.isfinite(float(row["mean"])) and float(row["mean"])]
        x = [int(row["block"]) for row in finite]
        y = [float(row["mean"]) for row in finite]
        look = looks[name]
        axes.plot(
            x,
            y,
            marker=look.marker,
            markevery=(at % MARKED, MARKED) if len(x) > 2 * MARKED else None,
            markersize=4,
            color=look.colour,
            linestyle=look.line,
            linewidth=0.9,
        )
