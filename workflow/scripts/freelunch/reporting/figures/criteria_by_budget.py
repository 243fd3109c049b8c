"""Perplexity by criterion, against the tokens that an adaptation sees."""

from collections.abc import Sequence
from operator import itemgetter

from freelunch.reporting.cells import CRITERIA_BUDGET_COLUMNS
from freelunch.reporting.drawing import style
from freelunch.reporting.drawing.adaptation_looks import Registered, criteria_marks, marks
from freelunch.reporting.figures import Figure, looks_and_text
from freelunch.reporting.figures.perplexity_by_criterion import Point
from freelunch.reporting.formatting import (
    criterion_label,
    pattern_label,
    seeds_label,
    short_tokens,
)
from freelunch.study.cell import DENSE, NONE

PANEL_INCHES = 3.2
# How far left of the smallest budget the models without adaptation stand, as a factor.
WITHOUT = 4.0


def draw(rows: Sequence[style.Row], adaptations: Registered, text: str) -> "style.Figure":
    """Return the figure: a panel for each model, pattern and series of adaptations."""
    panels = style.grouped([row for row in rows if row["series"]], "model", "pattern", "series")
    if not panels:
        return style.empty("no criteria were compared at several budgets")
    figure, grid = style.stacked(len(panels), 0.4 + PANEL_INCHES * len(panels))
    looks = marks(adaptations)
    for axes, ((model, pattern, _), adapted) in zip(grid, panels.items(), strict=True):
        of_model = [row for row in rows if row["model"] == model]
        without = [
            row for row in of_model if (row["adaptation"], row["pattern"]) == (NONE, pattern)
        ]
        (dense,) = (float(row["perplexity"]) for row in of_model if row["criterion"] == DENSE)
        level = _panel(axes, adapted, without, dense)
        seeds = seeds_label({int(row["seeds"]) for row in adapted})
        series = looks[adapted[0]["adaptation"]].series
        title = f"{model}, {pattern_label(pattern)}\n{series}, {seeds}\n{level}"
        axes.set_title(title, loc="left")
        axes.set_ylabel(f"perplexity on {text}")
    grid[-1].set_xlabel("tokens seen")
    style.legend_below(
        figure,
        [],
        "bars: ± standard error over windows; wide pale bars: ± standard deviation over",
        "seeds; a bar shorter than its mark is hidden",
    )
    return figure


def _panel(
    axes: "style.Axes", adapted: Sequence[style.Row], without: Sequence[style.Row], dense: float
) -> str:
    """Draw a panel; return in words where the dense model is."""
    from matplotlib.ticker import FixedLocator, NullLocator

    budgets = sorted(set(style.numbers(adapted, "tokens")))
    places = [budgets[0] / WITHOUT, *budgets]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(places, ["pruned", *map(short_tokens, budgets)])
    points = [(places[0], Point.of(row)) for row in without]
    at_budgets = zip(style.numbers(adapted, "tokens"), map(Point.of, adapted), strict=True)
    points += sorted(at_budgets, key=itemgetter(0))
    finite = [(x, point, value) for x, point in points if (value := point.perplexity) is not None]
    bars = [point.bar for _, point, _ in finite]
    style.log_scale(axes, [*(value for _, _, value in finite), dense], [*bars, 0.0])
    ends = {}
    in_order = [row["criterion"] for row in (*without, *adapted)]
    for criterion, look in criteria_marks(in_order).items():
        here = [(x, point) for x, point in points if point.criterion == criterion]
        for x, point in here:
            if point.perplexity is None:
                style.mark_not_finite(axes, x, look)
            else:
                style.draw_spread(axes, x, point.perplexity, point.spread, look.colour)
        for is_adapted in (False, True):
            shown = [
                (x, value, point.error or 0.0)
                for x, point, value in finite
                if point.criterion == criterion and (x > places[0]) == is_adapted
            ]
            x_of, values, errors = ([each[at] for each in shown] for at in range(3))
            style.draw_points(axes, x_of, values, errors, look)
        last, point = here[-1]
        if last > places[0] and point.perplexity is not None:
            name = f"{criterion_label(criterion)} {point.perplexity:.1f}"
            ends[name] = last, point.perplexity, look.colour
    style.name_ends(axes, ends)
    return style.draw_level(axes, dense, "dense", "--", "dashed")


FIGURE = Figure(
    name="criteria_budgets",
    title="perplexity by criterion and budget",
    caption=lambda study: (
        f"""\
Perplexity against the tokens that an adaptation sees, with a line for each pruning criterion. Lower
is better; the dashed line is the dense model, and the marks on the left are the pruned models
without adaptation. Masks are chosen on {study.calibration.samples} sequences of
{study.sequence_text} tokens of ``{study.calibration.text}``, whatever the budget. Perplexity is on
``{study.perplexity.text}``, windows of {study.window_text} tokens.

Bars are one standard error over windows; a bar shorter than its mark is hidden. All cells are
measured on the same windows, so their differences are more certain than the bars suggest. Where
there are several seeds, the mark is their mean and the wide pale bar their standard deviation. If
budgets have different seeds, a line may bend for this reason alone.
"""
    ),
    alternative=(
        "A chart for each model and pattern: perplexity against the tokens seen, a line for each "
        "pruning criterion, above a line for the dense model."
    ),
    claims=("C3", "C3c", "C3b"),
    wanted=lambda study: bool(study.comparisons.criteria_budgets),
    data="perplexity by criterion and budget",
    data_caption=lambda study: (
        f"""\
For each model, criterion, pattern and budget, the mean perplexity on ``{study.perplexity.text}``
over ``seeds`` seeds, its standard error over windows and its standard deviation over seeds (empty
for one seed). ``tokens``: the tokens that the adaptation sees; empty without adaptation.
``series``: the first of the adaptations that differ only in their budget. ``nan`` is a perplexity
that is not finite.
"""
    ),
    columns=CRITERIA_BUDGET_COLUMNS,
    rows=lambda results: results.criteria_budgets,
    drawing=__name__,
    settings=looks_and_text,
)
