"""Perplexity by criterion, against the tokens that an adaptation sees."""

from collections.abc import Sequence
from operator import itemgetter

from freelunch.reporting import formatting
from freelunch.reporting.cells import CRITERIA_BUDGET_COLUMNS
from freelunch.reporting.drawing import style
from freelunch.reporting.drawing.adaptation_looks import Registered, criteria_marks, marks
from freelunch.reporting.figures import Figure, looks_and_text
from freelunch.reporting.figures.perplexity_by_criterion import Point
from freelunch.study.cell import NONE

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
        without = [
            row
            for row in rows
            if (row["model"], row["adaptation"], row["pattern"]) == (model, NONE, pattern)
        ]
        _panel(axes, adapted, without)
        seeds = formatting.seeds_label({int(row["seeds"]) for row in adapted})
        series = looks[adapted[0]["adaptation"]].series
        axes.set_title(
            f"{model}, {formatting.pattern_label(pattern)}\n{series}, {seeds}", loc="left"
        )
        axes.set_ylabel(f"perplexity on {text} / best criterion's")
    grid[-1].set_xlabel("tokens seen")
    style.legend_below(
        figure,
        [],
        "right: the perplexity at the last budget; upper edge: a ratio above the axis;",
        "bars: ± standard error over windows; wide pale bars: ± standard deviation over",
        "seeds; a bar shorter than its mark is hidden",
    )
    return figure


def _panel(axes: "style.Axes", adapted: Sequence[style.Row], without: Sequence[style.Row]) -> None:
    """Draw a panel: perplexities as ratios to the best criterion's at the same budget."""
    from matplotlib.ticker import FixedLocator, NullLocator

    budgets = sorted(set(style.numbers(adapted, "tokens")))
    places = [budgets[0] / WITHOUT, *budgets]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(places, ["pruned", *map(formatting.short_tokens, budgets)])
    points = [(places[0], Point.of(row)) for row in without]
    at_budgets = zip(style.numbers(adapted, "tokens"), map(Point.of, adapted), strict=True)
    points += sorted(at_budgets, key=itemgetter(0))
    finite = [(x, point, value) for x, point in points if (value := point.perplexity) is not None]
    best = {x: min(value for at, _, value in finite if at == x) for x, _, _ in finite}
    # What pruning alone does may be tens of times worse, and would hide all other differences.
    shown = [(x, point, value / best[x]) for x, point, value in finite if x > places[0]]
    bars = [point.bar / best[x] for x, point, _ in shown]
    style.log_scale(axes, [ratio for _, _, ratio in shown], bars)
    most = axes.get_ylim()[1]
    ends = {}
    in_order = [row["criterion"] for row in (*without, *adapted)]
    for criterion, look in criteria_marks(in_order).items():
        here = [(x, point) for x, point in points if point.criterion == criterion]
        lines: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
        for x, point in here:
            ratio = None if point.perplexity is None else point.perplexity / best[x]
            if ratio is None or ratio > most:
                words = formatting.NOT_FINITE if ratio is None else f"{ratio:,.1f}"
                style.mark_above(axes, x, look, words)
                continue
            spread = None if point.spread is None else point.spread / best[x]
            style.draw_spread(axes, x, ratio, spread, look.colour)
            lines[x > places[0]].append((x, ratio, (point.error or 0.0) / best[x]))
        for line in lines.values():
            x_of, ratios, errors = ([each[at] for each in line] for at in range(3))
            style.draw_points(axes, x_of, ratios, errors, look)
        last, point = here[-1]
        if last > places[0] and point.perplexity is not None:
            name = f"{formatting.criterion_label(criterion)} {point.perplexity:.1f}"
            ends[name] = last, point.perplexity / best[last], look.colour
    style.name_ends(axes, ends)


FIGURE = Figure(
    name="criteria_budgets",
    title="perplexity by criterion and budget",
    caption=lambda study: (
        f"""\
Perplexity, divided by that of the best criterion at the same budget, against the tokens that an
adaptation sees, with a line for each pruning criterion. At 1, criteria are equally good. The marks
on the left are the pruned models without adaptation; a mark on the upper edge has its ratio below
it. The numbers on the right are perplexities. Masks are chosen on {study.calibration.samples}
sequences of {study.sequence_text} tokens of ``{study.calibration.text}``, whatever the budget.
Perplexity is on ``{study.perplexity.text}``, windows of {study.window_text} tokens.

Bars are one standard error over windows; a bar shorter than its mark is hidden. All cells are
measured on the same windows, so their differences are more certain than the bars suggest. Where
there are several seeds, the mark is their mean and the wide pale bar their standard deviation. If
budgets or criteria have different seeds, ratios may differ for this reason alone.
"""
    ),
    alternative=(
        "A chart for each model and pattern: perplexity as a ratio to the best criterion's against "
        "the tokens seen, a line for each pruning criterion."
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
