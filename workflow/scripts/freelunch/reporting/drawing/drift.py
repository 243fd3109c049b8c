"""Draw the drift of activations against depth, by window or by adaptation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from freelunch.reporting.drawing.marks import PALE, Mark, marks
from freelunch.reporting.drawing.style import (
    WIDTH_INCHES,
    empty,
    legend_below,
    line_handle,
    log_ticks,
    mark_not_finite,
    name_ends,
    start_with_data,
)
from freelunch.reporting.labels import Registered, kind_of, pruned_model_label, seeds_label
from freelunch.study.cell import NONE
from freelunch.study.windows import window_size

PANEL_INCHES = 2.35
# One block in this many is marked, a different one on each line, so that marks hide no lines.
MARKED = 5
# If there are no more adapted models, all are named. Of more, so many windows, and a retraining.
MOST_NAMED = 3
KINDS = {
    "accumulated": "with the errors of all blocks before it",
    "local": "each block sees the dense model's activations",
}
Row = dict[str, Any]


def draw(rows: Sequence[Row], adaptations: Registered) -> Figure:
    """Return the figure: for each pruned model the error of block outputs against depth.

    It shows the pruned models with several of the adaptations that are compared, or else those with
    one, or else all. At most five lines are in colour and named; the others are in grey.

    Args:
        rows: Rows of drift.csv.
        adaptations: All adaptations of the study's config; they decide the looks.
    """
    shown = [row for row in rows if row["compared"] == "1" and row["output"] == "block"]
    by_model: dict[str, list[Row]] = {}
    for row in shown:
        by_model.setdefault(pruned_model_label(row), []).append(row)
    adapted = {
        model: len({row["adaptation"] for row in here} - {NONE}) for model, here in by_model.items()
    }
    most = min(max(adapted.values(), default=0), 2)
    by_model = {model: here for model, here in by_model.items() if adapted[model] >= most}
    if not by_model:
        return empty("no drift was measured")
    looks = marks(adaptations)
    figure = Figure()
    figure.set_size_inches(WIDTH_INCHES, 0.5 + len(KINDS) * len(by_model) * PANEL_INCHES)
    # Local errors are much smaller than accumulated ones, so each panel has its own scale.
    grid = figure.subplots(len(KINDS) * len(by_model), 1, squeeze=False)[:, 0]
    panels = iter(grid)
    grey = False
    for model, here in by_model.items():
        drawn = {row["adaptation"] for row in here}
        named = _named([name for name in looks if name in drawn], adaptations)
        grey |= len(named) < len(drawn)
        seeds = seeds_label({int(row["seeds"]) for row in here})
        for kind, meaning in KINDS.items():
            axes = next(panels)
            of_kind = [row for row in here if row["kind"] == kind]
            _panel(axes, of_kind, named, [name for name in looks if name in drawn], looks)
            axes.set_title(f"{model}, {seeds}\n{kind}: {meaning}", loc="left")
            axes.set_xlabel("block")
            axes.set_ylabel("relative error of output")
    handles = [line_handle(_GREY, "other adaptations")] if grey else []
    legend_below(figure, handles, "averaged over tokens of held-out calibration text")
    return figure


def _named(names: Sequence[str], adaptations: Registered) -> list[str]:
    """Return the lines that are named: not adapted, the smallest window, one block, the largest,
    and a retraining; fewer windows leave room for more retrainings.

    Of three adaptations or fewer, all are named. If no window is one block, or several are, that in
    the middle takes its place. Of equal windows, the first in the config is the smallest.
    """
    adapted = [name for name in names if name != NONE]
    chosen = [name for name in names if name == NONE]
    if len(adapted) <= MOST_NAMED:
        return chosen + adapted
    sizes = {
        name: window_size(window)
        for name in adapted
        if (window := kind_of(adaptations[name])[1]) is not None
    }
    retrained = [name for name in adapted if name not in sizes]
    windowed = sorted(sizes, key=sizes.__getitem__)
    if windowed:
        blocks = [name for name in windowed if sizes[name] == 1]
        middle = blocks[0] if len(blocks) == 1 else windowed[len(windowed) // 2]
        windowed = list(dict.fromkeys((windowed[0], middle, windowed[-1])))
    room = max(MOST_NAMED - len(windowed), 1)
    return chosen + windowed + retrained[-room:]


_GREY = Mark("others", "others", PALE, "", "full", "-")


def _panel(
    axes: Axes,
    rows: Sequence[Row],
    named: Sequence[str],
    names: Sequence[str],
    looks: Mapping[str, Mark],
) -> None:
    axes.set_yscale("log")
    # A logarithmic scale has no 0.
    finite = [row for row in rows if math.isfinite(float(row["mean"])) and float(row["mean"])]
    not_finite = [row for row in rows if not math.isfinite(float(row["mean"]))]
    start_with_data(axes, [float(row["mean"]) for row in finite])
    log_ticks(axes)
    ends: dict[str, tuple[float, float]] = {}
    for name in names:
        here = [row for row in finite if row["adaptation"] == name]
        x, y = [int(row["block"]) for row in here], [float(row["mean"]) for row in here]
        if name not in named:
            axes.plot(x, y, color=PALE, linewidth=0.7, zorder=1.5)
            continue
        look, at = looks[name], named.index(name)
        every = (at % MARKED, MARKED) if len(x) > 2 * MARKED else None
        axes.plot(x, y, **look.points, markevery=every, linestyle=look.line, linewidth=1.0)
        diverged = [int(row["block"]) for row in not_finite if row["adaptation"] == name]
        if diverged:
            mark_not_finite(axes, diverged[0], look)
        elif y:
            ends[_short(look)] = x[-1], y[-1]
    if finite:
        blocks = [int(row["block"]) for row in finite]
        axes.set_xlim(min(blocks) - 0.5, max(blocks) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    name_ends(axes, ends, {_short(looks[name]): looks[name].colour for name in named})


def _short(look: Mark) -> str:
    """Return the window of a reconstruction in words."""
    return look.label.removeprefix("reconstruction: ")
