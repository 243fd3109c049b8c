"""Draw perplexity against tokens and operations, for each series of adaptations."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from freelunch.reporting.drawing.marks import (
    DENSE_COLOUR,
    INK,
    QUIET,
    Mark,
    Registered,
    apart,
    marks,
)
from freelunch.reporting.drawing.style import (
    SMALL,
    draw_points,
    empty,
    legend_below,
    line_handle,
    name_line,
)
from freelunch.study.naming import pruned_model

PANEL_INCHES = (3.4, 2.9)
LEGEND_INCHES = 0.2
# Column, label and unit of each axis.
AXES = {"tokens": ("tokens seen", 1.0), "flops": ("TFLOP", 1e-12)}
Row = dict[str, Any]


def draw(
    rows: Sequence[Row], adaptations: Registered, series: Mapping[str, str], text: str
) -> Figure:
    """Return the figure: for each pruned model perplexity against tokens and against operations.

    Args:
        rows: Rows of budgets.csv.
        adaptations: All adaptations of the study's config; they decide the colours.
        series: Name of the series of each adaptation. A series has the colour of its first one.
        text: Name of the evaluation text, for the axis.
    """
    if not rows:
        return empty("no model was both reconstructed and retrained")
    of_adaptations = marks(adaptations)
    colours: dict[str, str] = {}
    for name, its_series in series.items():
        colours.setdefault(its_series, of_adaptations[name].colour)
    models = list(dict.fromkeys(pruned_model(row) for row in rows))
    shown = [name for name in colours if any(row["series"] == name for row in rows)]
    # A config may have more adaptations than there are markers, so only those shown get one.
    looks = apart({name: colours[name] for name in shown})
    figure = Figure()
    figure.set_size_inches(
        0.6 + len(AXES) * PANEL_INCHES[0],
        0.5 + len(models) * PANEL_INCHES[1] + LEGEND_INCHES * -(-len(shown) // 3),
    )
    grid = figure.subplots(len(models), len(AXES), squeeze=False, sharey="row")
    for model, panels in zip(models, grid, strict=True):
        here = [row for row in rows if pruned_model(row) == model]
        for axes, (key, (label, unit)) in zip(panels, AXES.items(), strict=True):
            _panel(axes, here, key, unit, looks)
            axes.set_xlabel(label)
        panels[0].set_ylabel(f"perplexity on {text}")
        panels[0].set_title(model, loc="left")
        last = panels[-1]
        _line(last, here, "perplexity_unadapted", "not adapted")
        _line(last, here, "perplexity_dense", "dense")
    on_evaluation = any(row["selected_on"] == "evaluation" for row in rows)
    opened = "\nopen marks: learning rate chosen on the evaluation text" if on_evaluation else ""
    legend_below(
        figure,
        [line_handle(looks[name], name) for name in shown],
        "bars: ± standard error, over windows of text, of the difference from the "
        "reconstruction that the others are compared with" + opened,
    )
    return figure


def _panel(
    axes: Axes, rows: Sequence[Row], key: str, unit: float, looks: Mapping[str, Mark]
) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="y", which="minor", labelsize=SMALL)
    axes.xaxis.set_minor_formatter(NullFormatter())
    for row_key, colour, style in (
        ("perplexity_unadapted", INK, ":"),
        ("perplexity_dense", DENSE_COLOUR, "--"),
    ):
        value = float(rows[0][row_key])
        if math.isfinite(value):
            axes.axhline(value, color=colour, linestyle=style, linewidth=1.0, zorder=1)
    amounts = [float(row[key]) * unit for row in rows]
    if max(amounts) < 2 * min(amounts):
        # Otherwise a few percent would fill the panel.
        axes.set_xlim(min(amounts) / 2, 2 * max(amounts))
    for name in dict.fromkeys(row["series"] for row in rows):
        here = [
            row for row in rows if row["series"] == name and math.isfinite(float(row["perplexity"]))
        ]
        x = [float(row[key]) * unit for row in here]
        y = [float(row["perplexity"]) for row in here]
        errors = [float(row["perplexity_error_beside_reference"]) for row in here]
        opened = [row["selected_on"] == "evaluation" for row in here]
        draw_points(axes, x, y, errors, looks[name], opened)


def _line(axes: Axes, rows: Sequence[Row], key: str, label: str) -> None:
    value = float(rows[0][key])
    if math.isfinite(value):
        name_line(axes, value, f"{label}\n{value:.1f}", QUIET)
