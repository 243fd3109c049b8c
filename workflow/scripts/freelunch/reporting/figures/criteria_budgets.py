"""Perplexity by criterion, against the tokens that an adaptation sees."""

from freelunch.reporting.cells import CRITERIA_BUDGET_COLUMNS
from freelunch.reporting.figures import Figure
from freelunch.study.study import Study


def _caption(study: Study) -> str:
    perplexity, calibration = study.perplexity, study.calibration
    return f"""\
Perplexity against the tokens that an adaptation sees, with a line for each pruning criterion. Lower
is better; the dashed line is the dense model, and the marks on the left are the pruned models
without adaptation. Masks are chosen on {calibration.samples} sequences of {study.sequence_text}
tokens of ``{calibration.text}``, whatever the budget. Perplexity is on ``{perplexity.text}``,
windows of {study.window_text} tokens.

Bars are one standard error over windows; a bar shorter than its mark is hidden. All cells are
measured on the same windows, so their differences are more certain than the bars suggest. Where
there are several seeds, the mark is their mean and the wide pale bar their standard deviation. If
budgets have different seeds, a line may bend for this reason alone.
"""


FIGURE = Figure(
    name="criteria_budgets",
    title="perplexity by criterion and budget",
    caption=_caption,
    alternative=(
        "A chart for each model and pattern: perplexity against the tokens seen, a line for each "
        "pruning criterion, above a line for the dense model."
    ),
    claims=("C3", "C3b"),
    wanted=lambda study: bool(study.comparisons.criteria_budgets),
    settings=lambda study: {
        # All adaptations of the config, shown or not: each is called the same in all figures.
        "adaptations": study.as_json()["adaptations"],
        "text": study.perplexity.text,
    },
    data="perplexity by criterion and budget",
    data_caption=lambda study: (
        f"""\
For each model, criterion, pattern and budget, the mean perplexity on ``{study.perplexity.text}``
over ``seeds`` seeds, its standard error over windows and its standard deviation over seeds (empty
for one seed). ``tokens``: the tokens that the adaptation sees; empty without adaptation.
``series``: the first of the adaptations that differ only in their budget. ``nan`` is a perplexity
that is not finite.
"""
    ),
    columns=CRITERIA_BUDGET_COLUMNS,
    rows=lambda results: results.criteria_budgets,
)
