"""Draw the share of the best gain that each window misses, and its memory."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from freelunch.reporting.drawing.marks import INK, Mark, marks
from freelunch.reporting.drawing.style import (
    CHOSEN,
    DAGGER,
    SMALL,
    WIDTH_INCHES,
    empty,
    legend_below,
    widen,
    write_beside,
)
from freelunch.reporting.formatting import NOT_FINITE
from freelunch.reporting.labels import Registered, pruned_model_label, seeds_label

ROW_INCHES, LINE_INCHES, GAP_INCHES = 0.22, 0.12, 0.06
LABEL_CHARACTERS = 26
# Percent of the best gain. A window that misses more would leave the others no room on the axis.
MOST_MISSED = 200.0
# The title, the axis and its name.
AROUND_INCHES = 1.0
LEGEND_INCHES = 0.35
BEYOND = "\N{RIGHTWARDS ARROW}"
# How far below the axes the name of the x axis is.
HEAD_POINTS = -19.5
Row = dict[str, Any]


def draw(rows: Sequence[Row], adaptations: Registered, text: str) -> Figure:
    """Return the figure: for each pruned model and amount of text a row for each window, with the
    share of the best gain that it misses, its memory and its perplexity.

    Args:
        rows: Rows of windows.csv.
        adaptations: All adaptations of the study's config; they decide the looks.
        text: Name of the evaluation text, for the head of the perplexities.
    """
    if not rows:
        return empty("no two windows to compare")
    looks = marks(adaptations)
    together: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        together.setdefault((pruned_model_label(row), int(row["tokens"])), []).append(row)
    figure = Figure()
    heights = [AROUND_INCHES + _row_inches(here, looks) * len(here) for here in together.values()]
    figure.set_size_inches(WIDTH_INCHES, LEGEND_INCHES + sum(heights))
    grid = figure.subplots(len(together), 2, squeeze=False, height_ratios=heights)
    for (missed, memory), ((model, tokens), here) in zip(grid, together.items(), strict=True):
        error = "gain_missed_standard_error"
        _panel(missed, here, looks, "gain_missed", 100.0, error, MOST_MISSED)
        _panel(memory, here, looks, "adaptation_peak_bytes", 1e-9)
        widen(memory)
        seeds = seeds_label({int(row["seeds"]) for row in here})
        missed.set_title(f"{model}\n{tokens:,} tokens, {seeds}", loc="left", x=0.0)
        missed.set_xlabel("gain missed (%)")
        memory.set_xlabel("memory (GB)")
        missed.set_yticks(range(len(here)), [_label(row, looks) for row in here], fontsize=SMALL)
        memory.set_yticks(range(len(here)), [""] * len(here))
        _numbers(memory, here)
        _head_below(memory, "perplexity")
    # No other words are in these axes.
    beyond = any(missed.texts for missed, _ in grid)
    on_evaluation = any(row["selected_on"] == "evaluation" for row in rows)
    legend_below(
        figure,
        [],
        "gain missed: share of the best window's gain; bars: ± standard error of the paired\n"
        f"difference from the best; memory: peak of a job; perplexity on {text}"
        + (f"\n{BEYOND}: beyond {MOST_MISSED:g} %" if beyond else "")
        + (f"\n{CHOSEN}" if on_evaluation else ""),
    )
    return figure


def _label(row: Row, looks: Mapping[str, Mark]) -> str:
    """Return the window of a row in words; the title has its amount of text."""
    label = looks[row["adaptation"]].series.removeprefix("reconstruction: ")
    label = f"{label} {DAGGER}" if row["selected_on"] == "evaluation" else label
    return textwrap.fill(label, LABEL_CHARACTERS)


def _row_inches(rows: Sequence[Row], looks: Mapping[str, Mark]) -> float:
    """Return the height of the rows of a panel."""
    lines = max(_label(row, looks).count("\n") + 1 for row in rows)
    return max(ROW_INCHES, GAP_INCHES + LINE_INCHES * lines)


def _panel(
    axes: Axes,
    rows: Sequence[Row],
    looks: Mapping[str, Mark],
    key: str,
    unit: float,
    error: str | None = None,
    most: float = math.inf,
) -> None:
    """Draw a quantity of all windows, with its error if it has one; write what exceeds `most`."""
    for at, row in enumerate(rows):
        value = unit * float(row[key])
        bar = None if error is None else [unit * float(row[error])]
        if most < value < math.inf:
            write_beside(axes, at, f"{value:,.0f} {BEYOND}", INK, gap=-3)
        elif math.isfinite(value):
            points = looks[row["adaptation"]].points
            axes.errorbar([value], [at], xerr=bar, **points, linestyle="none", zorder=3)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")


def _head_below(axes: Axes, text: str) -> None:
    """Name the numbers right of the axes, at the height of the name of the x axis."""
    axes.annotate(
        text,
        (1.0, 0.0),
        xycoords="axes fraction",
        xytext=(5, HEAD_POINTS),
        textcoords="offset points",
        ha="left",
        va="top",
    )


def _numbers(axes: Axes, rows: Sequence[Row]) -> None:
    """Write perplexities to the right of the axes."""
    for at, row in enumerate(rows):
        perplexity = float(row["perplexity"])
        digits = 0 if perplexity >= 1e4 else 1
        text = f"{perplexity:,.{digits}f}" if math.isfinite(perplexity) else NOT_FINITE
        write_beside(axes, at, text, INK, gap=5)
