"""Perplexity against tokens, operations and memory: reconstruction beside retraining."""

import math
from collections.abc import Mapping, Sequence

from freelunch.analysis.budget_effect import BUDGET_COLUMNS
from freelunch.reporting.drawing import style
from freelunch.reporting.drawing.adaptation_looks import Mark, Registered, marks
from freelunch.reporting.figures import Figure, looks_and_text
from freelunch.reporting.formatting import pruned_model_label, seeds_label

PANEL_INCHES = 2.35
LEGEND_INCHES = 0.2
TOKENS, OPERATIONS, MEMORY = AXES = ("tokens", "flops", "peak_bytes")
# Units of operations, from the largest.
FLOP = {"PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9, "MFLOP": 1e6}
ERROR = "perplexity_error_beside_reference"


def draw(
    rows: Sequence[style.Row], adaptations: Registered, series: Mapping[str, str], text: str
) -> "style.Figure":
    """Return the figure: for each pruned model perplexity against tokens, operations and memory."""
    if not rows:
        return style.empty("no model was both reconstructed and retrained")
    of_adaptations = marks(adaptations)
    looks: dict[str, Mark] = {}
    for name, its_series in series.items():
        looks.setdefault(its_series, of_adaptations[name])
    shown = [look for name, look in looks.items() if any(row["series"] == name for row in rows)]
    models = style.grouped(rows, "model", "criterion", "pattern").values()
    panels = len(models) * len(AXES)
    height = 0.6 + panels * PANEL_INCHES + LEGEND_INCHES * -(-len(shown) // 2)
    figure, grid = style.stacked(panels, height)
    for number, here in enumerate(models):
        of_model = grid[number * len(AXES) : (number + 1) * len(AXES)]
        for axes, key in zip(of_model, AXES, strict=True):
            label, unit = axis_of(key, style.numbers(here, key))
            levels = _panel(axes, here, key, unit, looks)
            axes.set(xlabel=label, ylabel=f"perplexity on {text}")
        seeds = seeds_label({int(row["seeds"]) for row in here})
        title = f"{pruned_model_label(here[0])}\n{seeds}; {levels}"
        of_model[0].set_title(title, loc="left")
    style.legend_below(
        figure,
        [style.handle(look, look.series) for look in shown],
        "bars: ± standard error, over windows of text, of the",
        "difference from the reconstruction that is the reference",
        *style.chosen_note(rows),
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
    axes: "style.Axes", rows: Sequence[style.Row], key: str, unit: float, looks: Mapping[str, Mark]
) -> str:
    """Draw the panel of one axis; return in words where the unadapted and the dense model are."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

    amounts = [amount / unit for amount in style.numbers(rows, key)]
    if key == MEMORY:
        axes.xaxis.set_major_locator(MaxNLocator(7))
    else:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(EngFormatter(sep="") if key == TOKENS else "{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        if max(amounts) < 2 * min(amounts):
            # Otherwise a few percent would fill the panel.
            axes.set_xlim(min(amounts) / 2, 2 * max(amounts))
    finite = style.finite_rows(rows, "perplexity")
    style.log_scale(axes, style.numbers(finite, "perplexity"), style.numbers(finite, ERROR))
    for name in dict.fromkeys(row["series"] for row in rows):
        here = [row for row in finite if row["series"] == name]
        style.draw_points(
            axes,
            [amount / unit for amount in style.numbers(here, key)],
            style.numbers(here, "perplexity"),
            style.numbers(here, ERROR),
            looks[name],
            [row["selected_on"] == "evaluation" for row in here],
        )
    for row, amount in zip(rows, amounts, strict=True):
        if row not in finite:
            style.mark_not_finite(axes, amount, looks[row["series"]])
    if key == MEMORY:
        style.widen(axes)
    levels = (
        style.draw_level(axes, float(rows[0][f"perplexity_{key}"]), name, line, word)
        for key, name, line, word in (
            ("unadapted", "not adapted", ":", "dotted"),
            ("dense", "dense", "--", "dashed"),
        )
    )
    return ", ".join(levels)


FIGURE = Figure(
    name="budgets",
    title="quality by tokens, operations and memory",
    caption=lambda study: (
        f"""\
Perplexity against the tokens that an adaptation sees, its operations, and the peak memory of its
job, for the reconstruction and each way of retraining the same pruned model. Perplexity on
``{study.perplexity.text}``, windows of {study.window_text} tokens. A line joins the budgets of one
method. Filled marks are reconstructions, and open marks are retrainings; half-filled marks are
variants of either with other settings. The vertical axes span the data. The title gives the
perplexities of the pruned model without adaptation and of the dense model; an arrow beside one of
them says that it lies above or below the axes.

Bars are one standard error, over windows of text, of the difference from the reconstruction that
the others are compared with. ``reach.csv`` has the budget at which each retraining reaches that
reconstruction.
"""
    ),
    alternative=(
        "Three charts of perplexity, against the tokens seen, the operations and the peak memory: "
        "a line for the reconstruction and one for each way of retraining."
    ),
    claims=("C1",),
    wanted=lambda study: study.comparisons.of_budgets,
    data="retraining beside reconstruction",
    data_caption=lambda _: (
        """\
Retraining and reconstruction in the same units: tokens seen and distinct, steps of the
optimiser, trained parameters, floating-point operations (of the adaptation, and of the search for
its learning rate), wall and processor seconds, peak memory. ``loss_minus_reference``: the mean
loss minus that of the reconstruction ``reference``, nats per token, with the standard error of the
paired differences over windows of text.
"""
    ),
    columns=BUDGET_COLUMNS,
    rows=lambda results: results.budgets,
    drawing=__name__,
    settings=lambda study: {**looks_and_text(study), "series": study.comparisons.series},
)
