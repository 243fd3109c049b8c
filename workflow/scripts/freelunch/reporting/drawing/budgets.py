"""Draw perplexity against tokens, operations and memory, for each series of adaptations."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from freelunch.reporting.drawing.marks import Mark, marks
from freelunch.reporting.drawing.style import (
    CHOSEN,
    WIDTH_INCHES,
    draw_level,
    draw_points,
    empty,
    legend_below,
    line_handle,
    log_ticks,
    mark_not_finite,
    start_with_data,
    widen,
)
from freelunch.reporting.labels import Registered, pruned_model_label, seeds_label

PANEL_INCHES = 2.35
LEGEND_INCHES = 0.2
TOKENS, OPERATIONS, MEMORY = AXES = ("tokens", "flops", "peak_bytes")
# Units of operations, from the largest.
FLOP = {"PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9, "MFLOP": 1e6}
Row = dict[str, Any]


def draw(
    rows: Sequence[Row], adaptations: Registered, series: Mapping[str, str], text: str
) -> Figure:
    """Return the figure: for each pruned model perplexity against tokens, operations and memory.

    Args:
        rows: Rows of budgets.csv.
        adaptations: All adaptations of the study's config; they decide the looks.
        series: Name of the series of each adaptation. A series looks like its first one.
        text: Name of the evaluation text, for the axis.
    """
    if not rows:
        return empty("no model was both reconstructed and retrained")
    of_adaptations = marks(adaptations)
    looks: dict[str, Mark] = {}
    for name, its_series in series.items():
        looks.setdefault(its_series, of_adaptations[name])
    shown = [name for name in looks if any(row["series"] == name for row in rows)]
    models = list(dict.fromkeys(pruned_model_label(row) for row in rows))
    figure = Figure()
    figure.set_size_inches(
        WIDTH_INCHES,
        0.6 + len(models) * len(AXES) * PANEL_INCHES + LEGEND_INCHES * -(-len(shown) // 2),
    )
    grid = figure.subplots(len(models) * len(AXES), 1, squeeze=False)[:, 0]
    for number, model in enumerate(models):
        here = [row for row in rows if pruned_model_label(row) == model]
        panels = grid[number * len(AXES) : (number + 1) * len(AXES)]
        for axes, key in zip(panels, AXES, strict=True):
            label, unit = axis_of(key, [float(row[key]) for row in here])
            levels = _panel(axes, here, key, unit, looks)
            axes.set_xlabel(label)
            axes.set_ylabel(f"perplexity on {text}")
        seeds = seeds_label({int(row["seeds"]) for row in here})
        panels[0].set_title(f"{model}\n{seeds}; {levels}", loc="left")
    on_evaluation = any(row["selected_on"] == "evaluation" for row in rows)
    legend_below(
        figure,
        [line_handle(looks[name], looks[name].series) for name in shown],
        "bars: ± standard error, over windows of text, of the\n"
        "difference from the reconstruction that is the reference"
        + (f"\n{CHOSEN}" if on_evaluation else ""),
    )
    return figure


def axis_of(key: str, values: Sequence[float]) -> tuple[str, float]:
    """Return the label of the axis of a column, and the unit that its values are divided by.

    Most operations are 1 to 1,000 of their unit: the largest one below their geometric middle.
    """
    if key == TOKENS:
        return "tokens seen", 1.0
    if key == MEMORY:
        return "peak memory of a job (GB)", 1e9
    middle = math.sqrt(min(values) * max(values))
    name = next((name for name, unit in FLOP.items() if unit <= middle), "MFLOP")
    return f"operations ({name})", FLOP[name]


def _panel(
    axes: Axes, rows: Sequence[Row], key: str, unit: float, looks: Mapping[str, Mark]
) -> str:
    """Draw the panel of one axis; return in words where the unadapted and the dense model are."""
    if key == MEMORY:
        axes.xaxis.set_major_locator(MaxNLocator(7))
    else:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(EngFormatter(sep="") if key == TOKENS else "{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yscale("log")
    finite = [row for row in rows if math.isfinite(float(row["perplexity"]))]
    start_with_data(
        axes,
        [float(row["perplexity"]) for row in finite],
        [float(row["perplexity_error_beside_reference"]) for row in finite],
    )
    log_ticks(axes)
    amounts = [float(row[key]) / unit for row in rows]
    if key != MEMORY and max(amounts) < 2 * min(amounts):
        # Otherwise a few percent would fill the panel.
        axes.set_xlim(min(amounts) / 2, 2 * max(amounts))
    for name in dict.fromkeys(row["series"] for row in rows):
        here = [row for row in finite if row["series"] == name]
        draw_points(
            axes,
            [float(row[key]) / unit for row in here],
            [float(row["perplexity"]) for row in here],
            [float(row["perplexity_error_beside_reference"]) for row in here],
            looks[name],
            [row["selected_on"] == "evaluation" for row in here],
        )
    for row in rows:
        if not math.isfinite(float(row["perplexity"])):
            mark_not_finite(axes, float(row[key]) / unit, looks[row["series"]])
    if key == MEMORY:
        widen(axes)
    levels = (
        draw_level(axes, float(rows[0]["perplexity_unadapted"]), "not adapted", ":", "dotted"),
        draw_level(axes, float(rows[0]["perplexity_dense"]), "dense", "--", "dashed"),
    )
    return ", ".join(levels)
