"""The share of the best improvement that each window loses, and its memory."""

import math
import textwrap
from collections.abc import Mapping, Sequence

from freelunch.analysis.window_effect import WINDOW_COLUMNS
from freelunch.reporting.drawing import style
from freelunch.reporting.drawing.adaptation_looks import INK, Mark, Registered, marks
from freelunch.reporting.figures import Figure, looks_and_text
from freelunch.reporting.formatting import NOT_FINITE, pruned_model_label, seeds_label

ROW_INCHES, LINE_INCHES, GAP_INCHES = 0.22, 0.12, 0.06
LABEL_CHARACTERS = 26
# Percent of the best improvement. A window that loses more would leave others no room on the axis.
MOST_MISSED = 200.0
# The title, the axis and its name.
AROUND_INCHES = 1.0
LEGEND_INCHES = 0.35
BEYOND = "\N{RIGHTWARDS ARROW}"
# How far below the axes the name of the x axis is.
HEAD_POINTS = -19.5


def draw(rows: Sequence[style.Row], adaptations: Registered, text: str) -> "style.Figure":
    """Return the figure: for each pruned model and amount of text a row for each window, with the
    share of the best improvement that it loses, its memory and its perplexity.
    """
    if not rows:
        return style.empty("no two windows to compare")
    looks = marks(adaptations)
    panels = style.grouped(rows, "model", "criterion", "pattern", "tokens").values()
    labels = [[_label(row, looks) for row in here] for here in panels]
    heights = [
        AROUND_INCHES
        + max(ROW_INCHES, GAP_INCHES + LINE_INCHES * max(label.count("\n") + 1 for label in its))
        * len(its)
        for its in labels
    ]
    figure = style.new_figure(LEGEND_INCHES + sum(heights))
    grid = figure.subplots(len(panels), 2, squeeze=False, height_ratios=heights)
    for (missed, memory), here, its_labels in zip(grid, panels, labels, strict=True):
        shares, errors = (
            [100 * share for share in style.numbers(here, column)]
            for column in ("improvement_lost", "improvement_lost_standard_error")
        )
        _panel(missed, here, looks, shares, errors)
        _panel(memory, here, looks, [1e-9 * float(row["adaptation_peak_bytes"]) for row in here])
        style.widen(memory)
        tokens, seeds = int(here[0]["tokens"]), seeds_label({int(row["seeds"]) for row in here})
        title = f"{pruned_model_label(here[0])}\n{tokens:,} tokens, {seeds}"
        missed.set_title(title, loc="left", x=0.0)
        missed.set_xlabel("improvement lost (%)")
        memory.set_xlabel("memory (GB)")
        missed.set_yticks(range(len(here)), its_labels, fontsize=style.SMALL)
        memory.set_yticks(range(len(here)), [""] * len(here))
        for at, value in enumerate(style.numbers(here, "perplexity")):
            digits = f"{value:,.{0 if value >= 1e4 else 1}f}"
            said = digits if math.isfinite(value) else NOT_FINITE
            style.write_beside(memory, at, said, INK, gap=5)
        # Name the numbers right of the axes, at the height of the name of the x axis.
        head = {"xycoords": "axes fraction", "fontsize": None, "va": "top"}
        style.write_at(memory, "perplexity", (1.0, 0.0), (5, HEAD_POINTS), **head)
    # No other words are in these axes.
    beyond = [f"{BEYOND}: beyond {MOST_MISSED:g} %"] if any(row[0].texts for row in grid) else []
    style.legend_below(
        figure,
        [],
        "improvement lost: share of the best window's; bars: ± standard error of the paired",
        f"difference from the best; memory: peak of a job; perplexity on {text}",
        *beyond,
        *style.chosen_note(rows),
    )
    return figure


def _label(row: style.Row, looks: Mapping[str, Mark]) -> str:
    """Return the window of a row in words; the title has its amount of text."""
    label = looks[row["adaptation"]].series.removeprefix("reconstruction: ")
    label = f"{label} {style.DAGGER}" if row["selected_on"] == "evaluation" else label
    return textwrap.fill(label, LABEL_CHARACTERS)


def _panel(
    axes: "style.Axes",
    rows: Sequence[style.Row],
    looks: Mapping[str, Mark],
    values: Sequence[float],
    errors: Sequence[float] | None = None,
) -> None:
    """Draw a quantity of all windows; write the shares, which have errors, that are too large."""
    from matplotlib.ticker import MaxNLocator

    for at, (row, value) in enumerate(zip(rows, values, strict=True)):
        if errors is not None and MOST_MISSED < value < math.inf:
            style.write_beside(axes, at, f"{value:,.0f} {BEYOND}", INK, gap=-3)
        elif math.isfinite(value):
            bar = None if errors is None else [errors[at]]
            points = looks[row["adaptation"]].points
            axes.errorbar([value], [at], xerr=bar, **points, linestyle="none", zorder=3)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")


FIGURE = Figure(
    name="windows",
    title="quality and memory by window",
    caption=lambda study: (
        f"""\
The share of the best improvement that each window loses, the memory that it takes, and the
perplexity that it reaches. A window is the part of the model that is adapted together: a single
matrix, attention and MLP separately (half blocks), consecutive blocks, or the whole model. Each is
compared with the best window on the same amount of text, over the seeds that the two share, so
perplexities may be means over different seeds.

The improvement is by how much the adaptation lowers the loss. Bars are one standard error of the
paired difference from the best window, over windows of text. Perplexity is on
``{study.perplexity.text}``, windows of {study.window_text} tokens. All masks are chosen on
{study.calibration.samples} sequences of {study.sequence_text} tokens of
``{study.calibration.text}``. Memory is the peak resident set of a job.
"""
    ),
    alternative=(
        "Two charts with a row for each window, from single matrices to the whole model: how much "
        "of the best improvement it loses, with the error, and the peak memory of a job; beside "
        "them, its perplexity."
    ),
    claims=("C2", "C2b", "C2v1"),
    wanted=lambda study: study.comparisons.of_windows,
    data="effect of the window size",
    data_caption=lambda _: (
        """\
``gain``: the mean loss without the adaptation minus that with it, nats per token.
``improvement_lost``: how much less that is than of the best one on as many ``tokens`` (``best``),
as a share of it, with the standard error of the paired differences over windows of text (and over
seeds, where there are several). What was chosen on the evaluation text is not the best. ``exact``:
1 for a window in closed form (least squares) that was not trained. ``targets`` also names the
code-paper discrepancies that are switched on.
"""
    ),
    columns=WINDOW_COLUMNS,
    rows=lambda results: results.windows,
    drawing=__name__,
    settings=looks_and_text,
)
