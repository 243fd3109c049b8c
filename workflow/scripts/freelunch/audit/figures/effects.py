"""The main effects with paired intervals, and the thresholds of the claims: a forest plot."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from freelunch.analysis.pairing import Rows
from freelunch.reporting.drawing.adaptation_looks import INK, NEUTRAL, PALE, Mark, Registered, marks
from freelunch.reporting.drawing.style import (
    CHOSEN,
    DAGGER,
    SMALL,
    empty,
    grouped,
    write_at,
    write_beside,
)
from freelunch.reporting.figures import Figure
from freelunch.reporting.labels import criterion_label, pattern_label
from freelunch.reporting.results import Results
from freelunch.study.cell import NONE
from freelunch.study.study import Study

if TYPE_CHECKING:
    from matplotlib import figure as drawn
    from matplotlib.axes import Axes

# The figure is laid out in inches, so that all of its rows are equally high.
ROW_INCHES, TITLE_INCHES = 0.16, 0.22
# The numbers of an axis, and the room below them.
AXIS_INCHES = 0.34
LEGEND_INCHES = 0.56
PLOT_INCHES = 1.8
# The room between columns, and before the lines below a heading.
GAP_INCHES = 0.1
# How far an interval may widen its axis, in times the distance between the outermost estimates and
# thresholds. An arrow ends what goes further, so that one interval does not hide the others.
MOST_SPANS = 2.0
# What stands above the numbers.
HEAD = "value (95 % interval)"
# Thresholds are small and this many rows above their row's interval, which would hide them.
ABOVE = 0.24
THRESHOLD: dict[str, Any] = {
    **{"markersize": 4.5, "color": PALE, "linestyle": ""},
    **{"clip_on": False, "zorder": 4},
}
# The marker of a threshold, whose flat side is at the threshold, by where the claim holds: what
# matplotlib calls CARETRIGHTBASE and CARETLEFTBASE.
SIDES: dict[str, Any] = {"above": 9, "below": 8}
# A claim that holds within a range holds above its lower end and below its upper one.
ENDS = {"above": {"above": 1.0}, "below": {"below": 1.0}, "within": {"above": -1.0, "below": 1.0}}
# The line of an interval, and what it means.
SEEDS, ONE_SEED = ("-", "several seeds"), ((0, (2, 1)), "one seed: others may differ")
# What a number is multiplied by to be drawn, and the name of its unit, by its unit.
UNITS = {
    "share": (100, "%"),
    "points": (100, "percentage points"),
    "times": (1, "times"),
    "nats": (1, "nats per token"),
    "perplexity": (1, ""),
}
DECIMALS = {"share": 1, "points": 1, "times": 2, "nats": 3, "perplexity": 2}
Row = Mapping[str, str]


@dataclass(frozen=True)
class Line:
    """A line of a panel: a heading, or a row with its label."""

    text: str
    row: Row | None = None
    indent_inches: float = 0.0


def draw(
    rows: Sequence[Row],
    adaptations: Registered,
    selected_on_evaluation: Sequence[str] = (),
) -> "drawn.Figure":
    """Return the figure: a panel for each quantity, a line for each effect.

    Args:
        rows: Rows of effects.csv.
        adaptations: All adaptations of the study's config; they decide the looks.
        selected_on_evaluation: The adaptations whose settings were chosen on the evaluation text;
            they are marked.
    """
    from matplotlib.figure import Figure as Drawn
    from matplotlib.layout_engine import PlaceHolderLayoutEngine

    if not rows:
        return empty(
            "no effect of this study has a finite interval; each compares an adapted model\n"
            "with the same model without adaptation"
        )
    # An effect of several adaptations names none.
    looks = {**marks(adaptations), "": NEUTRAL}
    for name in selected_on_evaluation:
        looks[name] = replace(looks[name], label=f"{looks[name].label} {DAGGER}")
    chosen = [row["adaptation"] in selected_on_evaluation for row in rows]
    rows = [
        {**row, "effect": f"{row['effect']} {DAGGER}"} if is_chosen else row
        for row, is_chosen in zip(rows, chosen, strict=True)
    ]
    several = len({row["model"] for row in rows} - {""}) > 1
    panels = {
        f"{quantity} ({UNITS[unit][1]})" if UNITS[unit][1] else quantity: _lines(
            here, looks, several
        )
        for (quantity, unit), here in grouped(rows, "quantity", "unit").items()
    }
    numbers = max(map(_inches, [HEAD, *map(column_text, rows)]))
    labels = max(_inches(line.text, line.row is None) for its in panels.values() for line in its)
    left = 3 * GAP_INCHES + labels
    width = left + PLOT_INCHES + GAP_INCHES + numbers + GAP_INCHES
    heights = [ROW_INCHES * len(lines) for lines in panels.values()]
    top = height = LEGEND_INCHES + sum(heights) + len(panels) * (TITLE_INCHES + AXIS_INCHES)
    figure = Drawn(figsize=(width, height), layout=PlaceHolderLayoutEngine(False, False))

    def write(x_inches: float, text: str, **look: Any) -> None:
        y_inches = top - 0.6 * TITLE_INCHES
        figure.text(x_inches / width, y_inches / height, text, va="center", **look)

    write(width - GAP_INCHES - numbers, HEAD, fontsize=SMALL)
    for (title, lines), panel_inches in zip(panels.items(), heights, strict=True):
        write(GAP_INCHES, title[0].upper() + title[1:], fontweight="bold")
        top -= TITLE_INCHES + panel_inches
        place = (left / width, top / height, PLOT_INCHES / width, panel_inches / height)
        _panel(figure.add_axes(place), lines, left - GAP_INCHES, looks)
        top -= AXIS_INCHES
    figure.legend(
        handles=_handles(rows),
        loc="center",
        bbox_to_anchor=(0.5, 0.5 * LEGEND_INCHES / height),
        ncols=2,
        title="bars: 95 % intervals" + (f"; {CHOSEN}" if any(chosen) else ""),
        title_fontsize=SMALL,
        fontsize=SMALL,
        borderpad=0.0,
    )
    return figure


def column_text(row: Row) -> str:
    """Return the number of a row and its interval, without words and units, and with the decimals
    that all numbers of its unit have.
    """
    from freelunch.analysis.intervals import Estimate
    from freelunch.audit.numbers import Notation, estimate_text

    # The head of the column says what a number and its interval are, and the panel's title its
    # unit.
    notation = Notation(
        at_most="\N{LESS-THAN OR EQUAL TO}",
        more_than=">",
        interval="",
        open_end="no upper end",
        suffixes={},
        decimals=DECIMALS,
    )
    value, low, high = (_number(row, key, math.nan) for key in ("value", "low", "high"))
    number = Estimate(value, low, high, ())
    return _signed(estimate_text(number, row["unit"], _known(row), notation))


def _number(row: Row, key: str, without: float) -> float:
    return float(row[key]) if row[key] else without


def _known(row: Row) -> tuple[float, float]:
    """Return the ends of what is known of a number."""
    return _number(row, "known_from", -math.inf), _number(row, "known_to", math.inf)


def _signed(text: str) -> str:
    """Return text whose minus signs are as wide as plus signs."""
    return text.replace("-", "\N{MINUS SIGN}")


def _handles(rows: Sequence[Row]) -> list[Any]:
    """Return the entries of the legend: bars and thresholds."""
    from matplotlib.lines import Line2D

    lines = dict.fromkeys(_line(row) for row in rows if row["low"])
    ends = {end for row in rows for end in _thresholds(row)}
    return [
        *(Line2D([], [], color=INK, linestyle=line, label=label) for line, label in lines),
        *(
            Line2D([], [], color=PALE, marker=marker, linestyle="", label=f"a claim holds {end}")
            for end, marker in SIDES.items()
            if end in ends
        ),
    ]


def _inches(text: str, is_heading: bool = False) -> float:
    """Return how wide a text is."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    # Not from the outline of its letters (TextPath), which takes twenty times as long.
    font = FontProperties(style="oblique" if is_heading else "normal", size=SMALL)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


def _lines(rows: Sequence[Row], looks: Mapping[str, Mark], several: bool) -> list[Line]:
    """Return the lines of a panel: a pruned model with several adaptations is a group of its own,
    and the other rows are grouped by adaptation; or by effect, if there is only one adaptation.

    Args:
        rows: The effects of one quantity.
        looks: The look of each adaptation.
        several: Whether the figure shows several models, so that their names are needed.
    """
    places = [_place(row, several) for row in rows]
    if len({row["adaptation"] for row in rows}) == 1:
        named = [(row["effect"], place, row) for row, place in zip(rows, places, strict=True)]
        return _headed(named, always=len({*places}) > 1)
    of_place = Counter(places)
    of_one = Counter((place, row["adaptation"]) for row, place in zip(rows, places, strict=True))
    order, patterns = list(looks), list(dict.fromkeys(row["pattern"] for row in rows))

    def rank(row: Row) -> tuple[bool, int]:
        if of_place[_place(row, several)] > 1:
            return False, order.index(row["adaptation"])
        return True, patterns.index(row["pattern"])

    named = []
    for row in sorted(rows, key=rank):
        place, label = _place(row, several), looks[row["adaptation"]].label
        if of_place[place] == 1:
            named.append((label, place, row))
        elif of_one[place, row["adaptation"]] == 1:
            named.append((place, label, row))
        else:
            # Effects of one adaptation, such as of every two criteria, differ in their names.
            alone = sum(count > 1 for count in of_place.values()) == 1
            named.append((label if alone else f"{label}, {place}", row["effect"], row))
    return _headed(named, always=True)


def _headed(named: Iterable[tuple[str, str, Row]], always: bool) -> list[Line]:
    """Return rows with their labels below their headings; a row alone is named by its heading,
    unless `always`.
    """
    groups: dict[str, list[tuple[str, Row]]] = {}
    for heading, label, row in named:
        groups.setdefault(heading, []).append((label, row))
    lines = []
    for heading, its in groups.items():
        if len(its) == 1 and not always:
            lines.append(Line(heading, its[0][1]))
        else:
            lines += [Line(heading), *(Line(label, row, GAP_INCHES) for label, row in its)]
    return lines


def _place(row: Row, several: bool) -> str:
    """Return in words what an effect was measured on."""
    words = [row["model"]] if several else []
    words += [criterion_label(row["criterion"])]
    words += [pattern_label(row["pattern"])] if row["pattern"] else []
    return ", ".join(filter(None, words))


def _panel(
    axes: "Axes", lines: Sequence[Line], left_inches: float, looks: Mapping[str, Mark]
) -> None:
    """Draw the lines of one quantity, with their labels from `left_inches` left of the axes."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    rows = [line.row for line in lines if line.row is not None]
    unit = rows[0]["unit"]
    low, high = _range(rows)
    if unit == "times":
        axes.set_xscale("log")
        axes.set_xlim(low / 1.4, high * 1.4)
        subs = (1.0,) if high > 20 * low else (1.0, 2.0, 5.0)
        # Near 1, these are too few.
        few = high < 3 * low
        axes.xaxis.set_major_locator(MaxNLocator(4) if few else LogLocator(subs=subs))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        points = _range(rows, ("value",))
        wide = MOST_SPANS * (points[1] - points[0])
        if wide and len(rows) > 1:
            low, high = max(low, points[0] - wide), min(high, points[1] + wide)
        room = 0.04 * (high - low or abs(high) or 1.0)
        axes.set_xlim(low - room, high + room)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _signed(f"{value:g}")))
    for at, line in enumerate(lines):
        look = {"va": "center", "fontstyle": "oblique" if line.row is None else "normal"}
        offset = (72 * (line.indent_inches - left_inches), 0)
        write_at(axes, line.text, (0.0, at), offset, xycoords=axes.get_yaxis_transform(), **look)
        if line.row is not None:
            _draw_row(axes, at, line.row, looks[line.row["adaptation"]])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_yticks([])
    axes.grid(axis="x")
    axes.tick_params(axis="x", labelsize=SMALL, pad=2)
    axes.spines["left"].set_visible(False)


def _range(
    rows: Sequence[Row], keys: Sequence[str] = ("value", "low", "high")
) -> tuple[float, float]:
    """Return the least and the largest finite number of some rows, their thresholds included."""
    scale, _ = UNITS[rows[0]["unit"]]
    shown = [scale * float(row[key]) for row in rows for key in keys if row[key]]
    shown += [at for row in rows for at in _thresholds(row).values()]
    finite = [value for value in shown if math.isfinite(value)]
    return min(finite, default=1.0), max(finite, default=1.0)


def _draw_row(axes: "Axes", at: int, row: Row, look: Mark) -> None:
    """Draw an estimate, its interval, its threshold, and its number to the right."""
    scale, _ = UNITS[row["unit"]]
    least, most = axes.get_xlim()
    numbers = [scale * float(row[key]) for key in ("value", "low", "high") if row[key]]
    value, *ends = (min(max(number, least), most) for number in numbers)
    if ends:
        line, _ = _line(row)
        axes.plot(ends, [at, at], color=look.colour, linestyle=line, linewidth=1.1, zorder=2)
    axes.plot([value], [at], **look.points, linestyle="none", zorder=3)
    # An interval also goes on beyond what is known.
    known = [scale * end for end in _known(row)]
    if min(numbers) < least or min(numbers[1:], default=math.inf) <= known[0]:
        axes.plot([min(value, *ends)], [at], "<", color=look.colour, clip_on=False, zorder=3)
    if max(numbers) > most or max(numbers[1:], default=-math.inf) >= known[1]:
        axes.plot([max(value, *ends)], [at], ">", color=look.colour, clip_on=False, zorder=3)
    for end, threshold in _thresholds(row).items():
        axes.plot([threshold], [at - ABOVE], marker=SIDES[end], **THRESHOLD)
    write_beside(axes, at, column_text(row), INK, gap=72 * GAP_INCHES)


def _thresholds(row: Row) -> dict[str, float]:
    """Return the thresholds of a row, each by the side of it on which the claim holds."""
    if not row["threshold"]:
        return {}
    scaled = UNITS[row["unit"]][0] * float(row["threshold"])
    return {end: sign * scaled for end, sign in ENDS[row["side"]].items()}


def _line(row: Row) -> tuple[Any, str]:
    """Return the line of the interval of a row, and what it means."""
    return ONE_SEED if row["seeds"] == "1" else SEEDS


def _caption(study: Study) -> str:
    return f"""\
The main effects that this study measures, with 95 % intervals. All cells of a model are measured on
the same windows of ``{study.perplexity.text}`` (or the same documents), so the intervals are those
of paired differences. A dashed interval comes from one seed and says nothing of other calibration
samples and training orders. A triangle is the threshold of a claim and points to where the claim
holds; a claim that holds within a range has one at each end. An arrow ends an interval that goes
beyond the axis, or beyond the budgets that were run.

If adaptations differ only in their amount of text, their loss or their inputs, the figure shows the
first one in the config; the summary table has all of them. ``effects.csv`` has the numbers, and the
claims that they belong to.
"""


def _rows(results: Results) -> Rows:
    # Planning imports this module, and must not wait for numpy and scipy.
    from freelunch.audit.claim_rows import effect_rows

    return effect_rows(results)


FIGURE = Figure(
    name="effects",
    title="the main effects with their intervals",
    caption=_caption,
    alternative=(
        "A forest plot: a row for each effect with its estimate and its 95 % interval, in panels "
        "for the recovered loss, the windows, the criteria and the budgets of retraining."
    ),
    claims=(),
    sums_up=True,
    wanted=lambda study: any(cell.adaptation != NONE for cell in study.cells),
    # All adaptations of the config, shown or not: each looks the same in all figures.
    settings=lambda study: {
        "adaptations": study.as_json()["adaptations"],
        "selected_on_evaluation": study.comparisons.selected_on_evaluation,
    },
    data="the main effects with their intervals",
    data_caption=lambda _: (
        """\
A row for each effect. ``value`` with its 95 % interval from ``low`` to ``high``, as a number and,
rounded, as ``text``; a ``unit`` of ``share`` is a fraction of 1. A number is known from
``known_from`` to ``known_to``: outside, it is only a bound. ``measure`` and ``metric`` are
those of the audit. Where a claim is about the effect, ``claim``, ``threshold``, ``side`` (on which
the claim holds; ``within`` is on both sides of 0) and ``verdict`` say so. ``model``,
``criterion``, ``pattern`` and ``adaptation`` are empty where the effect compares several.
"""
    ),
    columns=(
        *("quantity", "effect", "model", "criterion", "pattern", "adaptation", "seeds"),
        *("measure", "metric", "unit", "value", "low", "high"),
        *("known_from", "known_to", "text"),
        *("claim", "threshold", "side", "verdict"),
    ),
    rows=_rows,
    drawing=__name__,
)
