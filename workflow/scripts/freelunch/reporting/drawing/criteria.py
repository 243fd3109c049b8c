"""Draw perplexity by criterion, without and with adaptation, beside the dense model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from freelunch.reporting.drawing.marks import DENSE_COLOUR, QUIET, Mark, marks
from freelunch.reporting.drawing.panels import (
    GAP_STEPS,
    Panel,
    Point,
    panel_grid,
    panel_rows,
)
from freelunch.reporting.drawing.style import (
    SMALL,
    draw_spread,
    legend_below,
    log_ticks,
    mark_handle,
    mark_not_finite,
    write_beside,
)
from freelunch.reporting.formatting import marked
from freelunch.reporting.labels import Registered, criterion_label
from freelunch.study.cell import DENSE

# The axis is logarithmic if the largest perplexity is more than this many times the smallest.
LOG_FROM = 5.0


def draw(
    rows: Sequence[Mapping[str, str]],
    adaptations: Registered,
    text: str,
    selected_on_evaluation: Sequence[str] = (),
) -> Figure:
    """Return the figure: a panel for each model and pattern, the panels of a model in rows.

    Args:
        rows: Rows of criteria.csv.
        adaptations: All adaptations of the study's config; they decide the looks.
        text: Name of the evaluation text, for the axis.
        selected_on_evaluation: The adaptations whose settings were chosen on that text; the legend
            marks them.
    """
    points = [Point.of(row) for row in rows]
    looks = {
        name: replace(look, label=marked(look.label, "evaluation"))
        if name in selected_on_evaluation
        else look
        for name, look in marks(adaptations).items()
    }
    dense = {point.model: point for point in points if point.criterion == DENSE}
    pruned = [point for point in points if point.criterion != DENSE]
    shown = {
        name: look
        for name, look in looks.items()
        if any(point.adaptation == name for point in pruned)
    }
    grid = [row for model in dense for row in panel_rows(model, pruned, len(shown))]
    figure = Figure()
    for axes_of_row, row in zip(panel_grid(figure, grid), grid, strict=True):
        model = row[0].model
        axes_of_row[0].set_ylabel(f"perplexity on {text}")
        _scale(axes_of_row[0], [point for point in points if point.model == model])
        for axes, panel in zip(axes_of_row, row, strict=True):
            _panel(axes, panel, shown)
            _dense_line(axes, dense[model])
        _dense_label(axes_of_row[-1], dense[model])
    _legend(figure, list(shown.values()), any(point.spread for point in pruned))
    return figure


def _panel(axes: Axes, panel: Panel, shown: Mapping[str, Mark]) -> None:
    """Draw the marks of one model and pattern, and the names below them."""
    axes.set_title(panel.title, loc="left")
    step, places = 1 / (len(shown) + GAP_STEPS), list(shown)
    for point in panel.points:
        place = places.index(point.adaptation) - (len(places) - 1) / 2
        x = panel.criteria.index(point.criterion) + step * place
        _draw_point(axes, x, point, shown[point.adaptation])
    axes.set_xticks(range(len(panel.criteria)), [criterion_label(it) for it in panel.criteria])
    axes.set_xlim(-0.5, len(panel.criteria) - 0.5)
    axes.tick_params(axis="x", length=0)


def _draw_point(axes: Axes, x: float, point: Point, look: Mark) -> None:
    """Draw a mark, its error over windows as a bar, its spread over seeds as a wide pale one."""
    if point.perplexity is None:
        mark_not_finite(axes, x, look)
        return
    draw_spread(axes, x, point.perplexity, point.spread, look.colour)
    axes.errorbar(
        x,
        point.perplexity,
        yerr=point.error,
        **look.points,
        linestyle="none",
        zorder=3,
    )
    axes.annotate(
        _plain(point.perplexity),
        (x, point.perplexity + point.bar),
        xytext=(0, 3.5),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=SMALL,
        color=QUIET,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
        zorder=2.5,
    )


def _dense_line(axes: Axes, dense: Point) -> None:
    if dense.perplexity is None:
        return
    if dense.error is not None:
        ends = (dense.perplexity - dense.error, dense.perplexity + dense.error)
        axes.axhspan(*ends, color=DENSE_COLOUR, alpha=0.15, linewidth=0, zorder=1)
    axes.axhline(dense.perplexity, color=DENSE_COLOUR, linestyle="--", linewidth=1.0, zorder=1)


def _dense_label(axes: Axes, dense: Point) -> None:
    """Name the dashed line of a row, to its right."""
    if dense.perplexity is None:
        return
    text = f"dense\n{_plain(dense.perplexity)}"
    write_beside(axes, dense.perplexity, text, DENSE_COLOUR, gap=3)


def _legend(figure: Figure, looks: Sequence[Mark], seeds: bool) -> None:
    """Explain marks and bars below the panels."""
    handles = [mark_handle(look, look.label) for look in looks]
    bars = ["bars and band: ± standard error over windows"]
    bars += ["wide pale bars: ± standard deviation over seeds"] if seeds else []
    bars += ["a bar shorter than its mark is hidden"]
    legend_below(figure, handles, "\n".join(bars))


def _scale(axes: Axes, points: Sequence[Point]) -> None:
    """Choose a linear or a logarithmic axis, with room above and below, ticks in plain numbers."""
    finite = [(point.perplexity, point.bar) for point in points if point.perplexity is not None]
    if not finite:
        return
    low, high = min(value for value, _ in finite), max(value + bar for value, bar in finite)
    logarithmic = high > LOG_FROM * low
    # No bar reaches down to 0 on a logarithmic axis: a longer one leaves the panel.
    low = max(min(value - bar for value, bar in finite), low / 2)
    if logarithmic:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.35, high * 1.9)
        log_ticks(axes)
    else:
        room = (high - low or high) * 0.2
        axes.set_ylim(low - room, high + room)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _plain(value: float) -> str:
    """Return three digits, or all of those before the point."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{decimals}f}"
