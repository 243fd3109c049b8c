"""Draw the budget at which retraining reaches a reconstruction, against the latter's budget."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from freelunch.reporting.drawing.adaptation_looks import INK, PALE, QUIET, Mark
from freelunch.reporting.drawing.style import (
    WIDTH_INCHES,
    empty,
    legend_below,
    line_handle,
)
from freelunch.reporting.labels import pruned_model_label, seeds_label

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
    def is_unknown(self) -> bool:
        """Return whether no budget that was run reaches the reconstruction, and another may."""
        return math.isnan(self.value)

    # The value comes first, since a comparison with NaN, as of an end that is not there, is false.
    @property
    def may_be_fewer(self) -> bool:
        """Return whether a smaller budget than is known may suffice."""
        return not self.is_unknown and min(self.value, self.low) <= self.known_from

    @property
    def may_be_more(self) -> bool:
        """Return whether a larger budget than the largest may be needed."""
        return not self.is_unknown and math.inf in (self.value, self.high)

    @property
    def ends(self) -> tuple[float, float]:
        """Return the ends of what is known: of the interval or, where it is open, of the range."""
        low, high = min(self.value, self.low), max(self.value, self.high)
        return (
            min(low, self.largest) if low > 0 else self.known_from,
            high if math.isfinite(high) else self.largest,
        )


def draw(rows: Sequence[Row]) -> Figure:
    """Return the figure: for each pruned model and unit of the budget, a line for each text."""
    if not rows:
        return empty("no reconstruction is compared with the retraining that the claims ask for")
    panels: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        panels.setdefault((pruned_model_label(row), row["unit"]), []).append(row)
    figure = Figure()
    figure.set_size_inches(WIDTH_INCHES, 1.0 + len(panels) * PANEL_INCHES)
    grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    last = None
    for axes, ((model, unit), here) in zip(grid, panels.items(), strict=True):
        _panel(axes, here)
        axes.set_ylabel(f"retraining's {UNITS[unit]}\n/ reconstruction's")
        axes.set_xlabel("tokens that the reconstruction sees")
        if model != last:
            seeds = seeds_label({int(row["seeds"]) for row in here})
            axes.set_title(f"{model}\n{seeds}", loc="left")
        last = model
    legend_below(
        figure,
        [*_text_handles(rows), _threshold_handle(rows), *_range_handles(rows)],
        "bars: 95 % intervals; pale: budgets that were run",
    )
    return figure


def _panel(axes: Axes, rows: Sequence[Row]) -> None:
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter("{x:g}")
    threshold = float(rows[0]["threshold"])
    axes.axhline(threshold, **THRESHOLD, zorder=1)
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    for number, metric in enumerate(metrics):
        shift = APART ** (2 * number - (len(metrics) - 1))
        here = [Ratio.of(row) for row in rows if row["metric"] == metric]
        _line(axes, sorted(here, key=lambda ratio: ratio.tokens), LOOKS[metric], shift)
    ratios = [Ratio.of(row) for row in rows]
    low = min(min(it.smallest, it.ends[0]) for it in ratios)
    high = max(it.largest if it.is_unknown else max(it.largest, it.ends[1]) for it in ratios)
    axes.set_ylim(min(low, threshold) / ARROW**1.5, max(high, threshold) * ARROW**1.5)
    tokens = [it.tokens for it in ratios]
    axes.set_xlim(min(tokens) / 1.5, 1.5 * max(tokens))


def _line(axes: Axes, ratios: Sequence[Ratio], look: Mark, shift: float) -> None:
    """Draw the numbers of a text, each joined to the next one that is a number."""
    for ratio in ratios:
        _range(axes, shift * ratio.tokens, ratio, look)
    values = [ratio.value if ratio.value <= ratio.largest else math.nan for ratio in ratios]
    x = [shift * ratio.tokens for ratio in ratios]
    axes.plot(x, values, **look.points, linestyle=look.line, linewidth=0.8, zorder=3)


def _range(axes: Axes, x: float, ratio: Ratio, look: Mark) -> None:
    """Draw the budgets that were run, the interval, and arrows where it is not bounded."""
    axes.plot([x, x], [ratio.smallest, ratio.largest], color=PALE, linewidth=5, alpha=0.5, zorder=1)
    if ratio.is_unknown:
        _arrow(axes, x, ratio.largest, ARROW, look, is_open=True)
        return
    low, high = ratio.ends
    axes.plot([x, x], [low, high], color=look.colour, linewidth=1.1, zorder=2)
    if ratio.may_be_fewer:
        _arrow(axes, x, low, 1 / ARROW, look)
    if ratio.may_be_more:
        _arrow(axes, x, high, ARROW, look)


def _arrow(
    axes: Axes, x: float, start: float, factor: float, look: Mark, is_open: bool = False
) -> None:
    """Draw an arrow from the end of what is known."""
    axes.plot([x, x], [start, start * factor], color=look.colour, linewidth=1.1, zorder=2)
    axes.plot([x], [start * factor], **_head(look.colour, factor > 1, is_open), zorder=3)


def _head(colour: str, is_up: bool, is_open: bool) -> dict[str, Any]:
    return {
        "marker": "^" if is_up else "v",
        "markeredgecolor": colour,
        "markerfacecolor": "white" if is_open else colour,
        "linestyle": "none",
    }


def _text_handles(rows: Sequence[Row]) -> list[Line2D]:
    texts = {row["metric"]: row["text"] for row in rows}
    return [
        line_handle(LOOKS[metric], LOOKS[metric].label.format(text))
        for metric, text in texts.items()
    ]


def _threshold_handle(rows: Sequence[Row]) -> Line2D:
    threshold = float(rows[0]["threshold"])
    return Line2D([], [], **THRESHOLD, label=f"the claim: more than {threshold:g}")


def _range_handles(rows: Sequence[Row]) -> list[Line2D]:
    """Return the entries of the arrows that the figure has."""
    ratios = [Ratio.of(row) for row in rows]
    entries = {
        "or fewer": (any(it.may_be_fewer for it in ratios), _head(INK, False, False)),
        "or more": (any(it.may_be_more for it in ratios), _head(INK, True, False)),
        "not reached": (any(it.is_unknown for it in ratios), _head(INK, True, True)),
    }
    return [
        Line2D([], [], **head, label=label)
        for label, (is_there, head) in entries.items()
        if is_there
    ]
