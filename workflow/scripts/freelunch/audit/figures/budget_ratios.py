"""The budget at which retraining reaches a reconstruction, against the reconstruction's budget."""

from freelunch.analysis.pairing import Rows
from freelunch.reporting.figures import Figure
from freelunch.reporting.results import Results
from freelunch.study.study import Study


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
    from freelunch.audit.budget_ratios import ratio_rows

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
    drawing="freelunch.audit.drawing.budget_ratios",
)
