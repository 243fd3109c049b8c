"""The budget at which retraining reaches a reconstruction, against the reconstruction's budget."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from freelunch.analysis.pairing import Rows
from freelunch.reporting.drawing.adaptation_looks import INK, PALE, QUIET, Mark
from freelunch.reporting.drawing.style import empty, grouped, legend_below, line_handle, stacked
from freelunch.reporting.figures import Figure
from freelunch.reporting.labels import pruned_model_label, seeds_label
from freelunch.reporting.results import Results
from freelunch.study.study import Study

if TYPE_CHECKING:
    from matplotlib import figure as drawn
    from matplotlib.axes import Axes

PANEL_INCHES = 2.35
# A line is about several adaptations, so that it has the mark of none of them.
LOOKS = {
    "perplexity": Mark("{}", "{}", INK, "o", "full", "-"),
    "held_out_perplexity": Mark("{}, held out", "{}", QUIET, "H", "full", "--"),
}
# How far the lines of two texts are apart, so that their bars do not overlap, as a factor.
APART = 1.05
# How far an arrow reaches beyond what is known, as a factor.
ARROW = 1.5
THRESHOLD: dict[str, Any] = {"color": QUIET, "linestyle": ":", "linewidth": 1.0}
UNITS = {"tokens": "tokens", "flops": "operations"}
# The entries of arrows: a smaller budget may suffice; a larger one may be needed; no budget that
# was run reaches the reconstruction, and another may.
FEWER, MORE, UNKNOWN = "or fewer", "or more", "not reached"
Row = Mapping[str, str]


@dataclass(frozen=True)
class Ratio:
    """The numbers of a row.

    Attributes:
        tokens: Tokens that the reconstruction sees.
        smallest, largest: The range of budgets that were run.
        known_from: A ratio up to this may be any smaller one.
        value: The ratio; beyond the largest, it may be any between the two, and NaN if nothing is
            known.
        low, high: Its interval.
    """

    tokens: float
    smallest: float
    known_from: float
    largest: float
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, row: Row) -> "Ratio":
        """Return the numbers of a row."""
        amounts = ("reference_tokens", "smallest", "known_from", "largest")
        return cls(*(float(row[key]) for key in (*amounts, "ratio", "low", "high")))

    @property
    def ends(self) -> tuple[float, float]:
        """Return the ends of what is known: of the interval or, where it is open, of the range."""
        # The value comes first: a comparison with NaN, as of an end that is not there, is false.
        low, high = min(self.value, self.low), max(self.value, self.high)
        return (
            min(low, self.largest) if low > 0 else self.known_from,
            high if math.isfinite(high) else self.largest,
        )

    @property
    def arrows(self) -> dict[str, float]:
        """Return where arrows start, by what they mean."""
        if math.isnan(self.value):
            return {UNKNOWN: self.largest}
        low, high = self.ends
        fewer = {FEWER: low} if min(self.value, self.low) <= self.known_from else {}
        return fewer | ({MORE: high} if math.inf in (self.value, self.high) else {})


def draw(rows: Sequence[Row]) -> "drawn.Figure":
    """Return the figure: for each pruned model and unit of the budget, a line for each text."""
    if not rows:
        return empty("no reconstruction is compared with the retraining that the claims ask for")
    panels = grouped(rows, "model", "criterion", "pattern", "unit")
    figure, grid = stacked(len(panels), 1.0 + len(panels) * PANEL_INCHES)
    last = None
    for axes, here in zip(grid, panels.values(), strict=True):
        _panel(axes, here)
        axes.set_ylabel(f"retraining's {UNITS[here[0]['unit']]}\n/ reconstruction's")
        axes.set_xlabel("tokens that the reconstruction sees")
        if (model := pruned_model_label(here[0])) != last:
            seeds = seeds_label({int(row["seeds"]) for row in here})
            axes.set_title(f"{model}\n{seeds}", loc="left")
        last = model
    legend_below(figure, _handles(rows), "bars: 95 % intervals; pale: budgets that were run")
    return figure


def _panel(axes: "Axes", rows: Sequence[Row]) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter("{x:g}")
    threshold = float(rows[0]["threshold"])
    axes.axhline(threshold, **THRESHOLD, zorder=1)
    by_text = grouped(rows, "metric")
    for number, (metric, here) in enumerate(by_text.items()):
        shift = APART ** (2 * number - (len(by_text) - 1))
        ratios = sorted(map(Ratio.of, here), key=lambda ratio: ratio.tokens)
        for ratio in ratios:
            _draw_range(axes, shift * ratio.tokens, ratio, LOOKS[metric].colour)
        # Each number is joined to the next one that is a number.
        values = [ratio.value if ratio.value <= ratio.largest else math.nan for ratio in ratios]
        look = {**LOOKS[metric].points, "linestyle": LOOKS[metric].line, "linewidth": 0.8}
        axes.plot([shift * ratio.tokens for ratio in ratios], values, **look, zorder=3)
    ratios = [Ratio.of(row) for row in rows]
    known = [ratio.ends for ratio in ratios if not math.isnan(ratio.value)]
    ends = [*known, *((ratio.smallest, ratio.largest) for ratio in ratios)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    axes.set_ylim(min(low, threshold) / ARROW**1.5, max(high, threshold) * ARROW**1.5)
    tokens = [ratio.tokens for ratio in ratios]
    axes.set_xlim(min(tokens) / 1.5, 1.5 * max(tokens))


def _draw_range(axes: "Axes", x: float, ratio: Ratio, colour: str) -> None:
    """Draw the budgets that were run, the interval, and arrows where it is not bounded."""
    run = [ratio.smallest, ratio.largest]
    axes.plot([x, x], run, color=PALE, linewidth=5, alpha=0.5, zorder=1)
    bar: dict[str, Any] = {"color": colour, "linewidth": 1.1, "zorder": 2}
    if not math.isnan(ratio.value):
        axes.plot([x, x], ratio.ends, **bar)
    for meaning, start in ratio.arrows.items():
        end = start / ARROW if meaning == FEWER else start * ARROW
        axes.plot([x, x], [start, end], **bar)
        axes.plot([x], [end], **_head(meaning, colour), zorder=3)


def _head(meaning: str, colour: str) -> dict[str, Any]:
    return {
        "marker": "v" if meaning == FEWER else "^",
        "markeredgecolor": colour,
        "markerfacecolor": "white" if meaning == UNKNOWN else colour,
        "linestyle": "none",
    }


def _handles(rows: Sequence[Row]) -> list[Any]:
    """Return the entries of the legend: texts, the threshold, and the arrows that there are."""
    from matplotlib.lines import Line2D

    texts = {row["metric"]: row["text"] for row in rows}
    threshold = f"the claim: more than {float(rows[0]['threshold']):g}"
    arrows = {meaning for row in rows for meaning in Ratio.of(row).arrows}
    return [
        *(line_handle(LOOKS[each], LOOKS[each].label.format(of)) for each, of in texts.items()),
        Line2D([], [], **THRESHOLD, label=threshold),
        *(
            Line2D([], [], **_head(meaning, INK), label=meaning)
            for meaning in (FEWER, MORE, UNKNOWN)
            if meaning in arrows
        ),
    ]


def _caption(study: Study) -> str:
    return f"""\
The budget that the best way of retraining needs to reach a reconstruction, divided by the
reconstruction's own budget, in tokens and in operations, against the tokens that the reconstruction
sees. A line for the loss on ``{study.perplexity.text}``, and one for that on held-out text of
``{study.calibration.text}``. The claim holds above the dotted line. The verdict comes
from these numbers, and all of them have to agree.

Bars are 95 % intervals, and wide pale bars the range of budgets that were run. An arrow down: a
smaller budget may also reach the reconstruction. A filled arrow up: more than the
largest budget is needed, or may be. An open arrow up: no budget that was run reaches the
reconstruction, but one that was not run may.
"""


def _rows(results: Results) -> Rows:
    # Planning imports this module, and must not wait for numpy and scipy.
    from freelunch.audit.claim_rows import ratio_rows

    return ratio_rows(results)


FIGURE = Figure(
    name="budget_ratios",
    title="budget at which retraining reaches reconstruction",
    caption=_caption,
    alternative=(
        "Two charts, for tokens and for operations: how many times the reconstruction's budget "
        "retraining needs, against the reconstruction's tokens, with a line for each text and one "
        "for the threshold of ten times."
    ),
    claims=("C1",),
    wanted=lambda study: study.comparisons.of_budgets,
    settings=lambda _: {},
    data="budget at which retraining reaches each reconstruction",
    data_caption=lambda _: (
        """\
A row for each reconstruction (``reference``), text and ``unit`` of the budget: the smallest budget
with which retraining reaches it, divided by its own (``ratio``), with the 95 % interval from
``low`` to ``high``. ``smallest`` is the smallest budget that any way was run with, and ``largest``
the largest that all ways were run with. A ratio up to ``known_from``, the smallest budget of the
way that starts last, may be any smaller one; ``inf`` is more than ``largest``. ``nan``: not
reached, but a budget that was not run may suffice. The numbers are those of the audit, which has
the verdicts.
"""
    ),
    columns=(
        *("model", "criterion", "pattern", "reference", "reference_tokens", "claim"),
        *("metric", "text", "unit", "seeds", "smallest", "known_from", "largest"),
        *("ratio", "low", "high", "ratio_in_words", "threshold"),
    ),
    rows=_rows,
    drawing=__name__,
)
