"""The numbers of the claims with paired intervals and thresholds, a forest plot; and all figures of
a study, of which the others are in `reporting`.

Planning imports the declaration, and must not wait for numpy, scipy and matplotlib.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from freelunch.analysis.pairing import Row
from freelunch.reporting import figures as of_results
from freelunch.reporting.drawing import style
from freelunch.reporting.drawing.adaptation_looks import (
    INK,
    NEUTRAL,
    PALE,
    Mark,
    Registered,
    adaptation_labels,
    marks,
)
from freelunch.reporting.figures import Figure
from freelunch.reporting.formatting import criterion_label, pattern_label
from freelunch.reporting.results import Results
from freelunch.study.cell import NONE, Cell
from freelunch.study.study import Study

if TYPE_CHECKING:
    from matplotlib import figure as drawn
    from matplotlib.axes import Axes

# The figure is laid out in inches, so that all of its rows are equally high.
ROW_INCHES, TITLE_INCHES = 0.16, 0.38
# The numbers of an axis, and the room below them.
AXIS_INCHES = 0.34
LEGEND_INCHES = 0.56
PLOT_INCHES = 1.8
# The room between columns.
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
    "share": (100, " (%)"),
    "points": (100, " (percentage points)"),
    "times": (1, " (times)"),
    "nats": (1, " (nats per token)"),
    "perplexity": (1, ""),
}
# Signs in place of words of a number, and what its head and its panel's title say.
SHORT = {"at most ": "\N{LESS-THAN OR EQUAL TO}", "more than ": ">", "-": "\N{MINUS SIGN}"}
MINUS = ("-", SHORT["-"])
SAID = re.compile("95 %: | %| times| points| nats")
# A row of effects.csv.
Effect = Mapping[str, str]
Labelled = tuple[str, Effect]


def draw(
    rows: Sequence[Effect],
    adaptations: Registered,
    selected_on_evaluation: Sequence[str] = (),
) -> "drawn.Figure":
    """Return the figure: a panel for each claim and quantity, a line for each effect. All
    adaptations of the config decide the looks; those chosen on the evaluation text are marked.
    """
    from matplotlib.figure import Figure as Drawn
    from matplotlib.layout_engine import PlaceHolderLayoutEngine

    if not rows:
        return style.empty(
            "no number of a claim is finite here; each compares an adapted model\n"
            "with the same model without adaptation"
        )
    # An effect of several adaptations names none.
    looks = {**marks(adaptations), "": NEUTRAL}
    for name in selected_on_evaluation:
        looks[name] = replace(looks[name], label=f"{looks[name].label} {style.DAGGER}")
    chosen = any(row["adaptation"] in selected_on_evaluation for row in rows)
    panels = {
        f"{claim}: {quantity}{UNITS[unit][1]}": _labelled(here, looks)
        for (claim, quantity, unit), here in style.grouped(
            rows, "claim", "quantity", "unit"
        ).items()
    }
    numbers = max(map(_inches, [HEAD, *map(short_text, rows)]))
    labels = max(_inches(label) for _, here in panels.values() for label, _ in here)
    left = 3 * GAP_INCHES + labels
    width = left + PLOT_INCHES + GAP_INCHES + numbers + GAP_INCHES
    heights = [ROW_INCHES * len(here) for _, here in panels.values()]
    top = height = LEGEND_INCHES + sum(heights) + len(panels) * (TITLE_INCHES + AXIS_INCHES)
    figure = Drawn(figsize=(width, height), layout=PlaceHolderLayoutEngine(False, False))

    def write(x_inches: float, text: str, line: int = 0, **look: Any) -> None:
        y_inches = top - (0.85 + line) * ROW_INCHES
        figure.text(x_inches / width, y_inches / height, text, va="center", **look)

    write(width - GAP_INCHES - numbers, HEAD, fontsize=style.SMALL)
    for (title, (shared, here)), panel_inches in zip(panels.items(), heights, strict=True):
        write(GAP_INCHES, title, fontweight="bold")
        write(GAP_INCHES, shared, line=1, fontsize=style.SMALL, fontstyle="oblique")
        top -= TITLE_INCHES + panel_inches
        place = (left / width, top / height, PLOT_INCHES / width, panel_inches / height)
        _panel(figure.add_axes(place), here, left - GAP_INCHES, looks)
        top -= AXIS_INCHES
    figure.legend(
        handles=_handles(rows),
        loc="center",
        bbox_to_anchor=(0.5, 0.5 * LEGEND_INCHES / height),
        ncols=2,
        title="bars: 95 % intervals" + (f"; {style.CHOSEN}" if chosen else ""),
        title_fontsize=style.SMALL,
        fontsize=style.SMALL,
        borderpad=0.0,
    )
    return figure


def short_text(row: Effect) -> str:
    """Return the number of a row and its interval, without words and units."""
    text = SAID.sub("", row["text"])
    for words, sign in SHORT.items():
        text = text.replace(words, sign)
    return text


def _labelled(rows: Sequence[Effect], looks: Mapping[str, Mark]) -> tuple[str, list[Labelled]]:
    """Return what all rows of a panel share, and each with what tells it from others."""
    words = [
        (
            row["effect"],
            row["model"],
            criterion_label(row["criterion"]),
            pattern_label(row["pattern"]) if row["pattern"] else "",
            looks[row["adaptation"]].label if row["adaptation"] else "",
        )
        for row in rows
    ]
    shared = [each[0] for each in zip(*words, strict=True) if len({*each}) == 1]
    labels = [", ".join(word for word in each if word and word not in shared) for each in words]
    return ", ".join(filter(None, shared)), list(zip(labels, rows, strict=True))


def _handles(rows: Sequence[Effect]) -> list[Any]:
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


def _inches(text: str) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    # Not from the outline of its letters (TextPath), which takes twenty times as long.
    font = FontProperties(size=style.SMALL)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


def _panel(
    axes: "Axes", labelled: Sequence[Labelled], left_inches: float, looks: Mapping[str, Mark]
) -> None:
    """Draw the rows of a panel, with their labels from `left_inches` left of the axes."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    rows = [row for _, row in labelled]
    low, high = _range(rows)
    if rows[0]["unit"] == "times":
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
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace(*MINUS)))
    beside: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "va": "center"}
    for at, (label, row) in enumerate(labelled):
        style.write_at(axes, label, (0.0, at), (-72 * left_inches, 0), **beside)
        _draw_row(axes, at, row, looks[row["adaptation"]])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks([])
    axes.grid(axis="x")
    axes.tick_params(axis="x", labelsize=style.SMALL, pad=2)
    axes.spines["left"].set_visible(False)


def _range(
    rows: Sequence[Effect], keys: Sequence[str] = ("value", "low", "high")
) -> tuple[float, float]:
    """Return the least and the largest finite number of some rows, their thresholds included."""
    scale, _ = UNITS[rows[0]["unit"]]
    shown = [scale * float(row[key]) for row in rows for key in keys if row[key]]
    shown += [at for row in rows for at in _thresholds(row).values()]
    finite = [value for value in shown if math.isfinite(value)]
    return min(finite, default=1.0), max(finite, default=1.0)


def _draw_row(axes: "Axes", at: int, row: Effect, look: Mark) -> None:
    scale, _ = UNITS[row["unit"]]
    least, most = axes.get_xlim()
    numbers = [scale * float(row[key]) for key in ("value", "low", "high") if row[key]]
    value, *ends = (min(max(number, least), most) for number in numbers)
    if ends:
        line, _ = _line(row)
        axes.plot(ends, [at, at], color=look.colour, linestyle=line, linewidth=1.1, zorder=2)
    axes.plot([value], [at], **look.points, linestyle="none", zorder=3)
    # An interval also goes on beyond what is known.
    known = [
        scale * float(row[key] or end)
        for key, end in (("known_from", -math.inf), ("known_to", math.inf))
    ]
    if min(numbers) < least or min(numbers[1:], default=math.inf) <= known[0]:
        axes.plot([min(value, *ends)], [at], "<", color=look.colour, clip_on=False, zorder=3)
    if max(numbers) > most or max(numbers[1:], default=-math.inf) >= known[1]:
        axes.plot([max(value, *ends)], [at], ">", color=look.colour, clip_on=False, zorder=3)
    for end, threshold in _thresholds(row).items():
        axes.plot([threshold], [at - ABOVE], marker=SIDES[end], **THRESHOLD)
    style.write_beside(axes, at, short_text(row), INK, gap=72 * GAP_INCHES)


def _thresholds(row: Effect) -> dict[str, float]:
    """Return the thresholds of a row, each by the side of it on which the claim holds."""
    if not row["threshold"]:
        return {}
    scaled = UNITS[row["unit"]][0] * float(row["threshold"])
    return {end: sign * scaled for end, sign in ENDS[row["side"]].items()}


def _line(row: Effect) -> tuple[Any, str]:
    return ONE_SEED if row["seeds"] == "1" else SEEDS


def _caption(study: Study) -> str:
    return f"""\
The numbers of the claims that this study tests, with 95 % intervals, in panels for each claim. All
cells of a model are measured on the same windows of ``{study.perplexity.text}`` (or the same
documents), so the intervals are those of paired differences. A dashed interval comes from one seed
and says nothing of other calibration samples and training orders. A triangle is the threshold of a
claim and points to where the claim holds; a claim that holds within a range has one at each end. An
arrow ends an interval that goes beyond the axis, or beyond the budgets that were run.
``effects.csv`` has the numbers.
"""


def effect_rows(results: Results) -> list[Row]:
    """Return the numbers of claims, with their intervals, thresholds and verdicts.

    What is not finite, and what the study cannot test, is left out. A number without an interval
    has neither end.
    """
    from freelunch.audit.claim_verdicts import audit_claims
    from freelunch.audit.claims import load_claims
    from freelunch.audit.evidence import Evidence
    from freelunch.audit.measures import MEASURES
    from freelunch.audit.verdicts import Number

    evidence = Evidence(results.study, results.records, results.folder)
    labels = adaptation_labels(results.study.as_json()["adaptations"])
    claims = load_claims()
    rows = []
    # What verdicts say of the paper is not shown.
    for claim, verdict in zip(claims, audit_claims(evidence, claims, {}), strict=True):
        for question, part in zip(claim.parts, verdict.parts, strict=True):
            asked = MEASURES[question.measure]
            for finding in part.findings:
                if finding.value is None:
                    continue
                effect, about = question.effect or question.says, finding.about
                if about in labels:
                    effect += f": {labels[about].removeprefix('reconstruction: ')}"
                elif about:
                    effect += f", {about}"
                row: Row = {
                    **_shared([*map(Cell.parse, finding.cells)]),
                    "measure": question.measure,
                    "metric": question.metric,
                    "unit": asked.unit_for(question.metric),
                    "quantity": asked.quantity,
                    **{key.name: getattr(finding, key.name) for key in fields(Number)},
                    "claim": claim.id,
                    "effect": effect,
                    "seeds": finding.seeds,
                    "verdict": finding.verdict,
                    "threshold": question.threshold.value,
                    "side": question.threshold.side,
                }
                rows.append(row)
    return rows


def _shared(cells: Sequence[Cell]) -> Row:
    """Return what all cells of an effect have in common; empty where they differ. The adaptation is
    that of the adapted cells.
    """
    pruned = [cell for cell in cells if cell.is_pruned]
    adapted = [cell for cell in pruned if cell.adaptation != NONE]
    row: Row = {}
    for key in ("model", "criterion", "pattern", "adaptation"):
        values = {getattr(cell, key) for cell in (adapted if key == "adaptation" else pruned)}
        row[key] = values.pop() if len(values) == 1 else ""
    return row


FIGURE = Figure(
    name="effects",
    title="the numbers of the claims with their intervals",
    caption=_caption,
    alternative=(
        "A forest plot: a row for each number of a claim with its estimate and its 95 % interval, "
        "in panels for the recovered loss, the windows, the criteria and the budgets of retraining."
    ),
    claims=(),
    wanted=lambda study: any(cell.adaptation != NONE for cell in study.cells),
    # All adaptations of the config, shown or not: each looks the same in all figures.
    settings=lambda study: {
        "adaptations": study.as_json()["adaptations"],
        "selected_on_evaluation": study.comparisons.selected_on_evaluation,
    },
    data="the numbers of the claims with their intervals",
    data_caption=lambda _: (
        """\
A row for each effect. ``value`` with its 95 % interval from ``low`` to ``high``, as a number and,
rounded, as ``text``; a ``unit`` of ``share`` is a fraction of 1. A number is known from
``known_from`` to ``known_to``: outside, it is only a bound. ``measure`` and ``metric`` are
those of the audit. ``claim`` holds on the ``side`` of the ``threshold`` (``within`` is on both
sides of 0), and ``verdict`` is that on the number. ``model``, ``criterion``, ``pattern`` and
``adaptation`` are empty where the effect compares several.
"""
    ),
    columns=(
        *("quantity", "effect", "model", "criterion", "pattern", "adaptation", "seeds"),
        *("measure", "metric", "unit", "value", "low", "high"),
        *("known_from", "known_to", "text"),
        *("claim", "threshold", "side", "verdict"),
    ),
    rows=effect_rows,
    drawing=__name__,
)
# What it draws.
TABLES_OF_CLAIMS = (FIGURE.table,)


def figures() -> dict[str, Figure]:
    """Return all figures by name, in the order of their names."""
    return dict(sorted({**of_results.figures(), FIGURE.name: FIGURE}.items()))


def figures_of(study: Study) -> list[Figure]:
    """Return the figures that a study has."""
    return [figure for figure in figures().values() if figure.wanted(study)]
