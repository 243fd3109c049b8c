"""Draw effects with their paired intervals: a forest plot."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.markers import CARETLEFTBASE, CARETRIGHTBASE, MarkerStyle
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from freelunch.audit.drawing.numbers import UNITS, column_text, signed
from freelunch.audit.numbers import SCALES
from freelunch.core.errors import first_of
from freelunch.reporting.drawing.adaptation_looks import INK, NEUTRAL, PALE, Mark, Registered, marks
from freelunch.reporting.drawing.style import CHOSEN, DAGGER, SMALL, empty, write_beside
from freelunch.reporting.labels import criterion_label, pattern_label, pruning_label

# The figure is laid out in inches, so that all of its rows are equally high.
ROW_INCHES = 0.16
TITLE_INCHES = 0.22
# How far an interval may widen its axis, in times the distance between the outermost estimates and
# thresholds. An arrow ends what goes further, so that one interval does not hide the others.
MOST_SPANS = 2.0
# The numbers of an axis, and the room below them.
AXIS_INCHES = 0.34
LEGEND_INCHES = 0.56
PLOT_INCHES = 1.8
GAP_INCHES = 0.1
INDENT_INCHES = 0.1
# What stands above the numbers.
HEAD = "value (95 % interval)"
# Missing cells that an empty figure names.
NAMED = 8
# Thresholds are small and this many rows above their row's interval, which would hide them.
THRESHOLD_POINTS, ABOVE = 4.5, 0.24
# The marker of a threshold, whose flat side is at the threshold, by where the claim holds.
SIDES = {"above": MarkerStyle(CARETRIGHTBASE), "below": MarkerStyle(CARETLEFTBASE)}
# A claim that holds within a range holds above its lower end and below its upper one.
ENDS = {"above": {"above": 1.0}, "below": {"below": 1.0}, "within": {"above": -1.0, "below": 1.0}}
# The line of an interval, and what it means.
SEEDS, ONE_SEED = ("-", "several seeds"), ((0, (2, 1)), "one seed: others may differ")
# The columns of the ends of what is known of a number, and what is known where they are empty.
KNOWN = {"known_from": -math.inf, "known_to": math.inf}
Row = Mapping[str, str]


@dataclass(frozen=True)
class Line:
    """A line of a panel: a heading, or a row with its label."""

    text: str
    row: Row | None = None
    indented: bool = False

    @property
    def style(self) -> Literal["normal", "oblique"]:
        """Return the style of its text."""
        return "oblique" if self.row is None else "normal"


def draw(
    rows: Sequence[Row],
    adaptations: Registered,
    missing: Sequence[str] = (),
    selected_on_evaluation: Sequence[str] = (),
) -> Figure:
    """Return the figure: a panel for each quantity, a line for each effect.

    Args:
        rows: Rows of effects.csv.
        adaptations: All adaptations of the study's config; they decide the looks.
        missing: The cells without adaptation that adapted cells lack; an empty figure names them.
        selected_on_evaluation: The adaptations whose settings were chosen on the evaluation text;
            they are marked.
    """
    if not rows:
        return empty(_why_empty(missing))
    # An effect of several adaptations names none.
    looks = {**marks(adaptations), "": NEUTRAL}
    looks |= {
        name: replace(looks[name], label=f"{looks[name].label} {DAGGER}")
        for name in selected_on_evaluation
    }
    rows = [
        {**row, "effect": f"{row['effect']} {DAGGER}"}
        if row["adaptation"] in selected_on_evaluation
        else row
        for row in rows
    ]
    several = len({row["model"] for row in rows} - {""}) > 1
    panels: dict[str, list[Row]] = {}
    for row in rows:
        unit = UNITS[row["unit"]]
        title = f"{row['quantity']} ({unit})" if unit else row["quantity"]
        panels.setdefault(title, []).append(row)
    lines = {title: _lines(here, looks, several) for title, here in panels.items()}
    figure = Figure(layout=PlaceHolderLayoutEngine(False, False))
    labels = max(_inches(line.text, line.style) for its in lines.values() for line in its)
    numbers = max(map(_inches, [HEAD, *map(column_text, rows)]))
    left = GAP_INCHES + INDENT_INCHES + labels + GAP_INCHES
    width = left + PLOT_INCHES + GAP_INCHES + numbers + GAP_INCHES
    height = LEGEND_INCHES + sum(
        TITLE_INCHES + ROW_INCHES * len(its) + AXIS_INCHES for its in lines.values()
    )
    figure.set_size_inches(width, height)
    top = height
    figure.text(
        (width - GAP_INCHES - numbers) / width,
        (top - 0.6 * TITLE_INCHES) / height,
        HEAD,
        fontsize=SMALL,
        va="center",
    )
    for title, its in lines.items():
        figure.text(
            GAP_INCHES / width,
            (top - 0.6 * TITLE_INCHES) / height,
            title[0].upper() + title[1:],
            fontweight="bold",
            va="center",
        )
        top -= TITLE_INCHES + ROW_INCHES * len(its)
        place = (left / width, top / height, PLOT_INCHES / width, ROW_INCHES * len(its) / height)
        _panel(figure.add_axes(place), its, left - GAP_INCHES, looks)
        top -= AXIS_INCHES
    marked = any(row["adaptation"] in selected_on_evaluation for row in rows)
    _legend(figure, rows, height, marked)
    return figure


def _why_empty(missing: Sequence[str]) -> str:
    """Return why there is no effect."""
    if not missing:
        return "no effect of this study has a finite interval"
    return "\n".join(
        [
            "An effect compares an adapted model with the same model without adaptation.",
            "These cells are missing:",
            "",
            *first_of(missing, NAMED),
        ]
    )


def _legend(figure: Figure, rows: Sequence[Row], height: float, on_evaluation: bool) -> None:
    """Explain bars, thresholds and, if there is one, the dagger at the bottom."""
    lines = dict.fromkeys(_line(row) for row in rows if row["low"])
    ends = {end for row in rows for end in _thresholds(row)}
    handles = [Line2D([], [], color=INK, linestyle=line, label=label) for line, label in lines]
    handles += [
        Line2D([], [], color=PALE, marker=marker, linestyle="none", label=f"a claim holds {end}")
        for end, marker in SIDES.items()
        if end in ends
    ]
    figure.legend(
        handles=handles,
        loc="center",
        bbox_to_anchor=(0.5, 0.5 * LEGEND_INCHES / height),
        ncols=2,
        title="bars: 95 % intervals" + (f"; {CHOSEN}" if on_evaluation else ""),
        title_fontsize=SMALL,
        fontsize=SMALL,
        borderpad=0.0,
    )


def _inches(text: str, style: Literal["normal", "oblique"] = "normal") -> float:
    """Return how wide a text is."""
    # Not from the outline of its letters (TextPath), which takes twenty times as long.
    font = FontProperties(style=style, size=SMALL)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


def _lines(rows: Sequence[Row], looks: Mapping[str, Mark], several: bool) -> list[Line]:
    """Return the lines of a panel.

    Args:
        rows: The effects of one quantity.
        looks: The look of each adaptation.
        several: Whether the figure shows several models, so that their names are needed.
    """
    if len({row["adaptation"] for row in rows}) == 1:
        groups = _grouped((row["effect"], _place(row, several), row) for row in rows)
        headed = len({_place(row, several) for row in rows}) > 1
        return [line for effect, its in groups.items() for line in _group(effect, its, headed)]
    # A pruned model with several adaptations is a group of its own. The other rows are grouped by
    # adaptation.
    counts: dict[str, int] = {}
    for row in rows:
        counts[_place(row, several)] = counts.get(_place(row, several), 0) + 1
    by_model = [row for row in rows if counts[_place(row, several)] > 1]
    by_adaptation = [row for row in rows if counts[_place(row, several)] == 1]
    order = list(looks)
    by_model.sort(key=lambda row: order.index(row["adaptation"]))
    patterns = list(dict.fromkeys(row["pattern"] for row in rows))
    by_adaptation.sort(key=lambda row: patterns.index(row["pattern"]))
    places = {_place(row, several) for row in by_model}
    of_one = Counter((_place(row, several), row["adaptation"]) for row in by_model)
    named = []
    for row in by_model:
        place, label = _place(row, several), looks[row["adaptation"]].label
        if of_one[place, row["adaptation"]] == 1:
            named.append((place, label, row))
        else:
            # Effects of one adaptation, such as of every two criteria, differ in their names.
            named.append((label if len(places) == 1 else f"{label}, {place}", row["effect"], row))
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
    return [Line(title), *(replace(line, indented=True) for line in lines)]


def _place(row: Row, several: bool) -> str:
    """Return in words what an effect was measured on."""
    words = [row["model"]] if several and row["model"] else []
    if row["criterion"] and row["pattern"]:
        return ", ".join([*words, pruning_label(row)])
    words += [criterion_label(row["criterion"])] if row["criterion"] else []
    words += [pattern_label(row["pattern"])] if row["pattern"] else []
    return ", ".join(words)


def _panel(
    axes: Axes, lines: Sequence[Line], left_inches: float, looks: Mapping[str, Mark]
) -> None:
    """Draw the lines of one quantity, with their labels from `left_inches` left of the axes."""
    rows = [line.row for line in lines if line.row is not None]
    unit = rows[0]["unit"]
    scale = SCALES.get(unit, 1)
    low, high = _range(rows, scale)
    if unit == "times":
        axes.set_xscale("log")
        axes.set_xlim(low / 1.4, high * 1.4)
        subs = (1.0,) if high > 20 * low else (1.0, 2.0, 5.0)
        # Near 1, these are too few.
        few = high < 3 * low
        axes.xaxis.set_major_locator(MaxNLocator(4) if few else LogLocator(subs=subs))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        points = _range(rows, scale, ("value",))
        wide = MOST_SPANS * (points[1] - points[0])
        if wide and len(rows) > 1:
            low, high = max(low, points[0] - wide), min(high, points[1] + wide)
        room = 0.04 * (high - low or abs(high) or 1.0)
        axes.set_xlim(low - room, high + room)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(f"{value:g}")))
    for at, line in enumerate(lines):
        if line.row is not None:
            _draw_row(axes, at, line.row, scale, looks[line.row["adaptation"]])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_yticks([])
    for at, line in enumerate(lines):
        indent = INDENT_INCHES if line.indented else 0.0
        axes.annotate(
            line.text,
            (0.0, at),
            xycoords=axes.get_yaxis_transform(),
            xytext=(72 * (indent - left_inches), 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            fontstyle=line.style,
        )
    axes.grid(axis="x")
    axes.tick_params(axis="x", labelsize=SMALL, pad=2)
    axes.spines["left"].set_visible(False)


def _range(
    rows: Sequence[Row], scale: float, keys: Sequence[str] = ("value", "low", "high")
) -> tuple[float, float]:
    """Return the least and the largest finite number of some rows, their thresholds included."""
    shown = [scale * float(row[key]) for row in rows for key in keys if row[key]]
    shown += [scale * at for row in rows for at in _thresholds(row).values()]
    finite = [value for value in shown if math.isfinite(value)]
    return min(finite, default=1.0), max(finite, default=1.0)


def _draw_row(axes: Axes, at: int, row: Row, scale: float, look: Mark) -> None:
    """Draw an estimate, its interval, its threshold, and its number to the right."""
    least, most = axes.get_xlim()
    numbers = [scale * float(row[key]) for key in ("value", "low", "high") if row[key]]
    value, *ends = (min(max(number, least), most) for number in numbers)
    if ends:
        line, _ = _line(row)
        axes.plot(ends, [at, at], color=look.colour, linestyle=line, linewidth=1.1, zorder=2)
    axes.plot([value], [at], **look.points, linestyle="none", zorder=3)
    # An interval also goes on beyond what is known.
    known = [scale * float(row[key] or end) for key, end in KNOWN.items()]
    beyond = (
        (min(numbers) < least or min(numbers[1:], default=math.inf) <= known[0], "<", min),
        (max(numbers) > most or max(numbers[1:], default=-math.inf) >= known[1], ">", max),
    )
    for is_beyond, arrow, outermost in beyond:
        if is_beyond:
            edge = outermost([value, *ends])
            axes.plot([edge], [at], arrow, color=look.colour, clip_on=False, zorder=3)
    for end, threshold in _thresholds(row).items():
        axes.plot(
            [scale * threshold],
            [at - ABOVE],
            marker=SIDES[end],
            markersize=THRESHOLD_POINTS,
            color=PALE,
            linestyle="none",
            clip_on=False,
            zorder=4,
        )
    write_beside(axes, at, column_text(row), INK, gap=72 * GAP_INCHES)


def _thresholds(row: Row) -> dict[str, float]:
    """Return the thresholds of a row, each by the side of it on which the claim holds."""
    if not row["threshold"]:
        return {}
    return {end: sign * float(row["threshold"]) for end, sign in ENDS[row["side"]].items()}


def _line(row: Row) -> tuple[Any, str]:
    """Return the line of the interval of a row, and what it means."""
    return ONE_SEED if row["seeds"] == "1" else SEEDS
