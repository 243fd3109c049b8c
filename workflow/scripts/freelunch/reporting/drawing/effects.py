"""Draw every effect with its paired interval: a forest plot."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETLEFTBASE, CARETRIGHTBASE
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from freelunch.reporting.drawing.marks import INK, NEUTRAL, PALE, QUIET, Mark, Registered, marks
from freelunch.reporting.drawing.style import SMALL, WIDTH_INCHES, empty, legend_below
from freelunch.reporting.labels import criterion_label, pattern_label, pruning_label

ROW_INCHES = 0.165
# The axis of a panel with its numbers and its name.
AXIS_INCHES = 0.56
LEGEND_INCHES = 0.45
# What a number is multiplied by to be shown, and its unit.
UNITS = {
    "share": (100.0, "%"),
    "points": (100.0, "percentage points"),
    "times": (1.0, "times"),
    "nats": (1.0, "nats per token"),
    "perplexity": (1.0, ""),
}
Row = Mapping[str, str]


@dataclass(frozen=True)
class Line:
    """A line of a panel: a heading, or a row with its label."""

    text: str
    row: Row | None = None


def draw(rows: Sequence[Row], adaptations: Registered) -> Figure:
    """Return the figure: a panel for each quantity, a line for each effect.

    Args:
        rows: Rows of effects.csv.
        adaptations: All adaptations of the study's config; they decide the looks.
    """
    if not rows:
        return empty("this study measures no effect that has an interval")
    looks = marks(adaptations)
    several = len({row["model"] for row in rows} - {""}) > 1
    panels: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        panels.setdefault((row["quantity"], row["unit"]), []).append(row)
    lines = {panel: _lines(here, looks, several) for panel, here in panels.items()}
    heights = [AXIS_INCHES + ROW_INCHES * len(its) for its in lines.values()]
    figure = Figure()
    figure.set_size_inches(WIDTH_INCHES, sum(heights) + LEGEND_INCHES)
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, ((quantity, unit), its) in zip(grid, lines.items(), strict=True):
        _panel(axes, its, unit, looks)
        word = UNITS[unit][1]
        axes.set_xlabel(f"{quantity} ({word})" if word else quantity)
    handles = [
        Line2D([], [], color=PALE, marker=marker, linestyle="none", label=text)
        for marker, text in (
            (CARETRIGHTBASE, "claim: above this"),
            (CARETLEFTBASE, "claim: below this"),
        )
        if any(_threshold(row) == marker for row in rows)
    ]
    legend_below(figure, handles, "bars: 95 % intervals of paired differences")
    return figure


def _lines(rows: Sequence[Row], looks: Mapping[str, Mark], several: bool) -> list[Line]:
    """Return the lines of a panel.

    Args:
        rows: The effects of one quantity.
        looks: The look of each adaptation.
        several: Whether the figure shows several models, so that their names are needed.
    """
    if len({row["adaptation"] for row in rows}) == 1:
        groups = _grouped((row["effect"], _place(row, several), row) for row in rows)
        return [line for effect, its in groups.items() for line in _group(effect, its)]
    # Adaptations are compared on one pruned model; pruned models have one adaptation in common.
    counts: dict[str, int] = {}
    for row in rows:
        counts[_place(row, several)] = counts.get(_place(row, several), 0) + 1
    by_model = [row for row in rows if counts[_place(row, several)] > 1]
    by_adaptation = [row for row in rows if counts[_place(row, several)] == 1]
    order = list(looks)
    by_model.sort(key=lambda row: order.index(row["adaptation"]))
    named = [(_place(row, several), looks[row["adaptation"]].label, row) for row in by_model]
    named += [(looks[row["adaptation"]].label, _place(row, several), row) for row in by_adaptation]
    return [line for title, its in _grouped(named).items() for line in _group(title, its, True)]


def _grouped(named: Iterable[tuple[str, str, Row]]) -> dict[str, list[Line]]:
    groups: dict[str, list[Line]] = {}
    for title, label, row in named:
        groups.setdefault(title, []).append(Line(label, row))
    return groups


def _group(title: str, lines: Sequence[Line], headed: bool = False) -> list[Line]:
    """Return lines below their heading; a line alone is named by the heading unless `headed`."""
    if len(lines) == 1 and not headed:
        return [Line(title, lines[0].row)]
    return [Line(title), *lines]


def _place(row: Row, several: bool) -> str:
    """Return in words what an effect was measured on."""
    words = [row["model"]] if several and row["model"] else []
    if row["criterion"] and row["pattern"]:
        return ", ".join([*words, pruning_label(row)])
    words += [criterion_label(row["criterion"])] if row["criterion"] else []
    words += [pattern_label(row["pattern"])] if row["pattern"] else []
    return ", ".join(words)


def _panel(axes: Axes, lines: Sequence[Line], unit: str, looks: Mapping[str, Mark]) -> None:
    scale = UNITS[unit][0]
    rows = [line.row for line in lines if line.row is not None]
    shown = [
        scale * float(row[key]) for row in rows for key in ("value", "low", "high", "threshold")
        if row[key]
    ]
    finite = [value for value in shown if math.isfinite(value)]
    low, high = min(finite), max(finite)
    if unit == "times":
        axes.set_xscale("log")
        axes.set_xlim(low / 1.4, high * 1.4)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        room = 0.04 * (high - low or abs(high) or 1.0)
        axes.set_xlim(low - room, high + room)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _signed(f"{value:g}")))
    for at, line in enumerate(lines):
        if line.row is not None:
            _draw_row(axes, at, line.row, scale, looks.get(line.row["adaptation"], NEUTRAL))
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_yticks(range(len(lines)), [line.text for line in lines])
    for line, label in zip(lines, axes.get_yticklabels(), strict=True):
        label.set_fontsize(SMALL)
        label.set_fontweight("bold" if line.row is None else "normal")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _draw_row(axes: Axes, at: int, row: Row, scale: float, look: Mark) -> None:
    """Draw an estimate, its interval, its threshold, and its number to the right."""
    edges = axes.get_xlim()
    value, low, high = (
        min(max(scale * float(row[key]), edges[0]), edges[1]) for key in ("value", "low", "high")
    )
    axes.plot([low, high], [at, at], color=look.colour, linewidth=1.1, zorder=2)
    axes.plot([value], [at], **look.points, linestyle="none", zorder=3)
    if math.isinf(float(row["high"])):
        axes.plot([edges[1]], [at], ">", color=look.colour, clip_on=False, zorder=3)
    if (marker := _threshold(row)) is not None:
        axes.plot(
            [scale * float(row["threshold"])],
            [at],
            marker=marker,
            color=PALE,
            linestyle="none",
            clip_on=False,
            zorder=1.5,
        )
    axes.annotate(
        _number(row["text"]),
        (1.0, at),
        xycoords=axes.get_yaxis_transform(),
        xytext=(6, 0),
        textcoords="offset points",
        ha="left",
        va="center",
        fontsize=SMALL,
        color=INK if row["threshold"] else QUIET,
    )


def _threshold(row: Row) -> int | None:
    """Return the marker of the threshold of a row, which points to where the claim holds."""
    if not row["threshold"]:
        return None
    return CARETRIGHTBASE if row["side"] == "above" else CARETLEFTBASE


def _number(text: str) -> str:
    """Return a number and its interval as the audit writes them, without words and units."""
    for word, sign in (
        *(("at most ", "\N{LESS-THAN OR EQUAL TO}"), ("more than ", ">")),
        *(("(95 %: ", "("), (" %", ""), (" times", ""), (" points", ""), (" nats", "")),
    ):
        text = text.replace(word, sign)
    return _signed(text)


def _signed(text: str) -> str:
    """Return text whose minus signs are as wide as plus signs."""
    return text.replace("-", "\N{MINUS SIGN}")
