"""Perplexity by criterion, without and with adaptation, beside the dense model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from freelunch.reporting.cells import CRITERIA_COLUMNS
from freelunch.reporting.drawing import style
from freelunch.reporting.drawing.adaptation_looks import (
    DENSE_COLOUR,
    QUIET,
    Mark,
    Registered,
    marks,
)
from freelunch.reporting.figures import Figure, looks_and_text
from freelunch.reporting.formatting import criterion_label, marked, pattern_label, seeds_label
from freelunch.study.cell import DENSE
from freelunch.study.study import Study

# The axis is logarithmic if the largest perplexity is more than this many times the smallest.
LOG_FROM = 5.0
PANEL_HEIGHT_INCHES = 2.3
# A wider row would become unreadably small on a page, so it continues below.
PANELS_A_ROW = 3
ROW_INCHES = 4.2
# Wide enough for the legend.
LEAST_WIDTH_INCHES = 3.2
# The width of a character of titles and names of criteria.
CHARACTER_INCHES = 0.078
# The distance between points, wide enough for a value of four digits. Between criteria, half a step
# is added.
STEP_INCHES = 0.36
GAP_STEPS = 0.5


class Point(NamedTuple):
    """A row of criteria.csv; None where a number is empty or not finite."""

    criterion: str
    pattern: str
    model: str
    adaptation: str
    seeds: int
    perplexity: float | None
    error: float | None
    spread: float | None

    @classmethod
    def of(cls, row: style.Row) -> "Point":
        criterion, pattern, model, adaptation = (row[key] for key in CRITERIA_COLUMNS[:4])
        numbers = [float(row[key] or "nan") for key in CRITERIA_COLUMNS[5:]]
        finite = [number if math.isfinite(number) else None for number in numbers]
        return cls(criterion, pattern, model, adaptation, int(row["seeds"]), *finite)

    @property
    def bar(self) -> float:
        """Return the length of the longer of its two bars."""
        return max(self.error or 0.0, self.spread or 0.0)


class Panel:
    """One model and pattern: the points of its criteria, each with room for so many adaptations, in
    a width at which neither marks nor words touch.
    """

    def __init__(self, title: str, points: Sequence[Point], adaptations: int) -> None:
        self.title, self.points = title, points
        self.criteria = list(dict.fromkeys(point.criterion for point in points))
        marks_inches = STEP_INCHES * (adaptations + GAP_STEPS)
        name_inches = CHARACTER_INCHES * max(len(criterion_label(name)) for name in self.criteria)
        of_criteria = max(marks_inches, name_inches) * len(self.criteria)
        self.width_inches = max(of_criteria, CHARACTER_INCHES * max(map(len, title.splitlines())))


def draw(
    rows: Sequence[style.Row],
    adaptations: Registered,
    text: str,
    selected_on_evaluation: Sequence[str] = (),
) -> "style.Figure":
    """Return the figure: a panel for each model and pattern, the panels of a model in rows."""
    points = [Point.of(row) for row in rows]
    dense = {point.model: point for point in points if point.criterion == DENSE}
    pruned = [point for point in points if point.criterion != DENSE]
    names = {point.adaptation for point in pruned}
    shown = {name: look for name, look in marks(adaptations).items() if name in names}
    for name in names.intersection(selected_on_evaluation):
        shown[name] = replace(shown[name], label=marked(shown[name].label, "evaluation"))
    grid = [(model, row) for model in dense for row in _panel_rows(model, pruned, len(shown))]
    widest = max(_width_inches(row) for _, row in grid)
    height, width = 0.7 + PANEL_HEIGHT_INCHES * len(grid), max(1.4 + widest, LEAST_WIDTH_INCHES)
    figure = style.new_figure(height, width)
    places = figure.add_gridspec(len(grid), 1)
    scales: dict[str, style.Axes] = {}
    for at, (model, row) in enumerate(grid):
        widths = [panel.width_inches for panel in row]
        if widest > sum(widths):
            # A column that stays empty, so that a criterion takes the same room in all rows.
            widths.append(widest - sum(widths))
        columns = places[at].subgridspec(1, len(widths), width_ratios=widths)
        for column, panel in enumerate(row):
            # Panels of one model share their scale.
            axes = figure.add_subplot(columns[column], sharey=scales.get(model))
            if model not in scales:
                scales[model] = axes
                _scale(axes, [point for point in points if point.model == model])
            is_first = column == 0
            axes.tick_params(axis="y", left=is_first, labelleft=is_first)
            axes.set_ylabel(f"perplexity on {text}" if is_first else "")
            _panel(axes, panel, shown)
            _dense_line(axes, dense[model], named=panel is row[-1])
    spread = ["wide pale bars: ± standard deviation over seeds"]
    style.legend_below(
        figure,
        [style.handle(look, look.label, line=False) for look in shown.values()],
        "bars and band: ± standard error over windows",
        *(spread if any(point.spread for point in pruned) else []),
        "a bar shorter than its mark is hidden",
    )
    return figure


def _panel_rows(model: str, points: Sequence[Point], adaptations: int) -> list[list[Panel]]:
    """Return the panels of a model, one per pattern, in rows that fit a page; the name of the model
    is above the first panel of each row.
    """
    rows: list[list[Panel]] = []
    of_model = [point for point in points if point.model == model]
    for pattern in dict.fromkeys(point.pattern for point in of_model):
        here = [point for point in of_model if point.pattern == pattern]
        title = pattern_label(pattern)
        if any(point.seeds > 1 for point in points):
            title += f"\n{seeds_label({point.seeds for point in here})}"
        panel = Panel(title, here, adaptations)
        row = [*rows[-1], panel] if rows else []
        if row and len(row) <= PANELS_A_ROW and _width_inches(row) <= ROW_INCHES:
            rows[-1] = row
        else:
            rows.append([Panel(f"{model}, {title}", here, adaptations)])
    return rows


def _width_inches(row: Sequence[Panel]) -> float:
    return sum(panel.width_inches for panel in row)


def _panel(axes: "style.Axes", panel: Panel, shown: Mapping[str, Mark]) -> None:
    """Draw the marks of one model and pattern, each with its error over windows as a bar and its
    spread over seeds as a wide pale one, and the names below them.
    """
    axes.set_title(panel.title, loc="left")
    step, places = 1 / (len(shown) + GAP_STEPS), list(shown)
    for point in panel.points:
        place = places.index(point.adaptation) - (len(places) - 1) / 2
        x = panel.criteria.index(point.criterion) + step * place
        look, value = shown[point.adaptation], point.perplexity
        if value is None:
            style.mark_above(axes, x, look)
            continue
        style.draw_spread(axes, x, value, point.spread, look.colour)
        axes.errorbar(x, value, yerr=point.error, **look.points, linestyle="none", zorder=3)
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
        words = {"ha": "center", "va": "bottom", "color": QUIET, "bbox": behind, "zorder": 2.5}
        style.write_at(axes, _plain(value), (x, value + point.bar), (0, 3.5), **words)
    names = [criterion_label(name) for name in panel.criteria]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.tick_params(axis="x", length=0)


def _dense_line(axes: "style.Axes", dense: Point, named: bool) -> None:
    value = dense.perplexity
    if value is None:
        return
    if dense.error is not None:
        ends = (value - dense.error, value + dense.error)
        axes.axhspan(*ends, color=DENSE_COLOUR, alpha=0.15, linewidth=0, zorder=1)
    axes.axhline(value, color=DENSE_COLOUR, linestyle="--", linewidth=1.0, zorder=1)
    if named:
        style.write_beside(axes, value, f"dense\n{_plain(value)}", DENSE_COLOUR, gap=3)


def _scale(axes: "style.Axes", points: Sequence[Point]) -> None:
    """Choose a linear or a logarithmic axis, with room above and below, ticks in plain numbers."""
    finite = [(point.perplexity, point.bar) for point in points if point.perplexity is not None]
    if not finite:
        return
    least, high = min(value for value, _ in finite), max(value + bar for value, bar in finite)
    # No bar reaches down to 0 on a logarithmic axis: a longer one leaves the panel.
    low = max(min(value - bar for value, bar in finite), least / 2)
    if high > LOG_FROM * least:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.35, high * 1.9)
        style.log_ticks(axes)
    else:
        room = (high - low or high) * 0.2
        axes.set_ylim(low - room, high + room)
        axes.yaxis.set_major_formatter("{x:,g}")


def _plain(value: float) -> str:
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{decimals}f}"


def _caption(study: Study) -> str:
    perplexity, calibration = study.perplexity, study.calibration
    windows = perplexity.windows or "all"
    length, stride = perplexity.length, perplexity.stride
    overlap = "without overlap" if stride in (None, length) else f"one every {stride} tokens"
    return f"""\
Perplexity by pruning criterion, without and with adaptation; the dashed line is the dense model.
Lower is better. Measured on {windows} windows of {study.window_text} tokens of
``{perplexity.text}``, {overlap}; calibrated on {calibration.samples} sequences of
{study.sequence_text} tokens of ``{calibration.text}``.

Bars, and the band of the dense model, are one standard error over windows; a bar shorter than its
mark is hidden. All cells of a model are measured on the same windows, so their differences are more
certain than the bars suggest: see ``loss_minus_dense_standard_error`` in the summary table. Where
there are several seeds, the mark is their mean and the wide pale bar their standard deviation. The
numbers are in ``criteria.csv``.
"""


FIGURE = Figure(
    name="criteria",
    title="perplexity by criterion",
    caption=_caption,
    alternative=(
        "A chart for each model and pattern: the perplexity of each pruning criterion without and "
        "with the reconstruction, above a line for the dense model."
    ),
    claims=("C3", "C3c", "C3b"),
    # A study that compares nothing shows its cells here.
    wanted=lambda study: (
        study.comparisons.of_criteria
        or not (study.comparisons.of_windows or study.comparisons.of_budgets)
    ),
    data="perplexity by criterion",
    data_caption=lambda study: (
        f"""\
For each model, criterion and pattern, and each adaptation that several criteria have, the mean
perplexity on ``{study.perplexity.text}`` over ``seeds`` seeds, its standard error over windows and
its standard deviation over seeds (empty for one seed). ``nan`` is a perplexity that is not finite.
"""
    ),
    columns=CRITERIA_COLUMNS,
    rows=lambda results: results.criteria,
    drawing=__name__,
    settings=lambda study: {
        **looks_and_text(study),
        "selected_on_evaluation": study.comparisons.selected_on_evaluation,
    },
)
