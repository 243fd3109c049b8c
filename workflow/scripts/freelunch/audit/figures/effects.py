"""The main effects with paired intervals, and the thresholds of the claims: a forest plot."""

from dataclasses import replace

from freelunch.analysis.pairing import Rows
from freelunch.reporting.figures import Figure
from freelunch.reporting.results import Results
from freelunch.study.cell import NONE
from freelunch.study.study import Study


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


def _missing(study: Study) -> list[str]:
    """Return the cells without adaptation that adapted cells lack."""
    cells = set(study.cells)
    unadapted = (replace(cell, adaptation=NONE) for cell in study.cells)
    return sorted({str(cell) for cell in unadapted if cell not in cells})


def _rows(results: Results) -> Rows:
    # Planning imports this module, and must not wait for numpy and scipy.
    from freelunch.audit.effects import effect_rows

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
        "missing": _missing(study),
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
    drawing="freelunch.audit.drawing.effects",
)
