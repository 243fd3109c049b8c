"""Perplexity against tokens, operations and memory: reconstruction beside retraining."""

from freelunch.analysis.budget_effect import BUDGET_COLUMNS
from freelunch.reporting.figures import Figure
from freelunch.study.study import Study


def _caption(study: Study) -> str:
    perplexity = study.perplexity
    return f"""\
Perplexity against the tokens that an adaptation sees, its operations, and the peak memory of its
job, for the reconstruction and each way of retraining the same pruned model. Perplexity on
``{perplexity.text}``, windows of {study.window_text} tokens. A line joins the budgets of one
method. Filled marks are reconstructions, and open marks are retrainings; half-filled marks are
variants of either with other settings. The vertical axes span the data. The title gives the
perplexities of the pruned model without adaptation and of the dense model; an arrow beside one of
them says that it lies above or below the axes.

Bars are one standard error, over windows of text, of the difference from the reconstruction that
the others are compared with. ``reach.csv`` has the budget at which each retraining reaches that
reconstruction.
"""


FIGURE = Figure(
    name="budgets",
    title="quality by tokens, operations and memory",
    caption=_caption,
    alternative=(
        "Three charts of perplexity, against the tokens seen, the operations and the peak memory: "
        "a line for the reconstruction and one for each way of retraining."
    ),
    claims=("C1",),
    wanted=lambda study: study.comparisons.of_budgets,
    settings=lambda study: {
        # All adaptations of the config, shown or not: each looks the same in all figures.
        "adaptations": study.as_json()["adaptations"],
        "series": study.comparisons.series,
        "text": study.perplexity.text,
    },
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
)
