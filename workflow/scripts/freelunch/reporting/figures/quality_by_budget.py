"""Perplexity against tokens and memory: reconstruction beside retraining, and the paper's claim."""

from collections.abc import Mapping, Sequence
from typing import Any

from freelunch.analysis.budget_effect import BUDGET_COLUMNS
from freelunch.reporting.drawing import style
from freelunch.reporting.drawing.adaptation_looks import Mark, Registered, marks
from freelunch.reporting.figures import Figure, looks_and_text
from freelunch.reporting.formatting import pruned_model_label, seeds_label, short_tokens

PANEL_INCHES = 2.6
LEGEND_INCHES = 0.2
# The axes, their labels, and the units that their values are divided by.
AXES = {"tokens": ("tokens seen", 1.0), "peak_bytes": ("peak memory of a job (GB), {} tokens", 1e9)}
ERROR = "perplexity_error_beside_reference"
# How many times the reconstruction's tokens retraining needs, says the paper (section 1).
CLAIMED = 10
BAND = "reconstruction's line at ten times its tokens: the paper has retraining right of it"


def draw(
    rows: Sequence[style.Row], adaptations: Registered, series: Mapping[str, str], text: str
) -> "style.Figure":
    """Return the figure: for each pruned model perplexity against tokens and memory."""
    if not rows:
        return style.empty("no model was both reconstructed and retrained")
    of_adaptations = marks(adaptations)
    looks: dict[str, Mark] = {}
    for name, its_series in series.items():
        looks.setdefault(its_series, of_adaptations[name])
    shown = [look for name, look in looks.items() if any(row["series"] == name for row in rows)]
    models = style.grouped(rows, "model", "criterion", "pattern").values()
    panels = len(models) * len(AXES)
    height = 0.8 + panels * PANEL_INCHES + LEGEND_INCHES * -(-len(shown) // 2)
    figure, grid = style.stacked(panels, height)
    for number, here in enumerate(models):
        of_model = grid[number * len(AXES) : (number + 1) * len(AXES)]
        # More text hardly takes more memory: its panel has the tokens of the reference alone.
        (at,) = {row["tokens"] for row in here if row["adaptation"] == row["reference"]}
        equal = [row for row in here if row["tokens"] == at]
        for axes, key, its_rows in zip(of_model, AXES, (here, equal), strict=True):
            levels = _panel(axes, its_rows, key, looks)
            label = AXES[key][0].format(short_tokens(float(at)))
            axes.set(xlabel=label, ylabel=f"perplexity on {text}")
        seeds = seeds_label({int(row["seeds"]) for row in here})
        title = f"{pruned_model_label(here[0])}, {seeds}\n{levels}"
        of_model[0].set_title(title, loc="left")
    several = {int(row["seeds"]) > 1 for row in rows}
    style.legend_below(
        figure,
        [style.handle(look, look.series) for look in shown],
        f"pale band: {BAND}",
        "bars: \N{PLUS-MINUS SIGN} standard error of the difference from the reconstruction",
        *(["pale marks: one seed"] if len(several) > 1 else []),
        *style.chosen_note(rows),
    )
    return figure


def _panel(
    axes: "style.Axes", rows: Sequence[style.Row], key: str, looks: Mapping[str, Mark]
) -> str:
    """Draw the panel of one axis; say which lines are the pruned and the dense model."""
    unit, several = AXES[key][1], any(row["seeds"] != "1" for row in rows)
    amounts = [amount / unit for amount in style.numbers(rows, key)]
    finite = style.finite_rows(rows, "perplexity")
    levels = {each: float(rows[0][f"perplexity_{each}"]) for each in ("pruned", "dense")}
    values = style.numbers(finite, "perplexity")
    errors = [*style.numbers(finite, ERROR), *(0.0 for _ in levels)]
    style.log_scale(axes, [*values, *levels.values()], errors)
    # The reconstruction, which comes first, covers what others cover.
    for name, here in reversed(style.grouped(finite, "series").items()):
        style.draw_points(
            axes,
            [amount / unit for amount in style.numbers(here, key)],
            style.numbers(here, "perplexity"),
            style.numbers(here, ERROR),
            looks[name],
            chosen=[row["selected_on"] == "evaluation" for row in here],
            pale=[several and row["seeds"] == "1" for row in here],
        )
    for row, amount in zip(rows, amounts, strict=True):
        if row not in finite:
            style.mark_above(axes, amount, looks[row["series"]])
    if key == "tokens":
        _show_claim(axes, rows, looks)
    else:
        style.widen(axes)
    return ", ".join(
        (
            style.draw_level(axes, levels["pruned"], "pruned", ":", "dotted"),
            style.draw_level(axes, levels["dense"], "dense", "--", "dashed"),
        )
    )


def _show_claim(axes: "style.Axes", rows: Sequence[style.Row], looks: Mapping[str, Mark]) -> None:
    """Scale the axis of tokens, and draw the reconstruction with ten times its tokens as a band."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    (series,) = {row["series"] for row in rows if row["adaptation"] == row["reference"]}
    finite = style.finite_rows(rows, "perplexity")
    band = [row for row in finite if row["series"] == series]
    claimed = [CLAIMED * tokens for tokens in style.numbers(band, "tokens")]
    look: dict[str, Any] = {"color": looks[series].colour, "alpha": 0.25, "linewidth": 9}
    look |= {"marker": "o", "markersize": 9} if len(band) == 1 else {}
    axes.plot(claimed, style.numbers(band, "perplexity"), **look)
    axes.set_xscale("log")
    # The band begins within the panel, and need not end there.
    tokens = style.numbers(rows, "tokens")
    axes.set_xlim(min(tokens) / 1.4, 1.4 * max(tokens + claimed[:1]))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


FIGURE = Figure(
    name="budgets",
    title="perplexity by tokens and by memory",
    caption=lambda study: (
        f"""\
What each adaptation of the same pruned model reaches with how many tokens, and in how much memory
with the tokens of the reconstruction that the others are compared with: lower and further left is
better. Perplexity on ``{study.perplexity.text}``, windows of {study.window_text} tokens. A line
joins the budgets of one method; filled marks are reconstructions, open marks retrainings,
half-filled marks variants of either. The pale band is the reconstruction with ten times its tokens:
if retraining needed over ten times as many, as the paper says, its lines would lie there or right
of it; the further left, the fewer it needs.

Bars are one standard error, over windows of text, of the difference from that reconstruction. The
audit says with how many tokens and FLOPs the best retraining reaches it.
"""
    ),
    alternative=(
        "Two charts of perplexity, by tokens and, at equal tokens, by memory: a line for each way "
        "to adapt, and a pale band that shows the reconstruction with ten times its tokens."
    ),
    claims=("C1", "C1a", "C1b"),
    wanted=lambda study: study.comparisons.of_budgets,
    sums_up=True,
    data="retraining beside reconstruction",
    data_caption=lambda _: (
        """\
Retraining and reconstruction in the same units: tokens seen and distinct, steps of the
optimiser, trained parameters, FLOPs (of the adaptation, and of the search for
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
