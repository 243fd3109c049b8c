"""Perplexity by criterion, without and with adaptation, beside the dense model."""

from freelunch.reporting.cells import CRITERIA_COLUMNS
from freelunch.reporting.figures import Figure
from freelunch.study.study import Study


def _caption(study: Study) -> str:
    perplexity, calibration = study.perplexity, study.calibration
    windows = perplexity.windows or "all"
    length, stride = perplexity.length, perplexity.stride
    overlap = "without overlap" if stride in (None, length) else f"one every {stride} tokens"
    return f"""\
Perplexity by pruning criterion, without and with adaptation; the dashed line is the dense model.
Lower is better. Measured on {windows} windows of {study.window_text} tokens of
``{perplexity.text}``, {overlap}; calibrated on {calibration.samples} sequences of
{study.sequence_text} tokens of ``{calibration.text}``.

Bars, and the band of the dense model, are one standard error over windows; a bar shorter than its
mark is hidden. All cells of a model are measured on the same windows, so their differences are more
certain than the bars suggest: see ``loss_minus_dense_standard_error`` in the summary table, and
``gaps.csv``. Where there are several seeds, the mark is their mean and the wide pale bar their
standard deviation. The numbers are in ``criteria.csv``.
"""


def _wanted(study: Study) -> bool:
    """Return whether a study compares criteria, or nothing: then this figure shows its cells."""
    others = (
        study.comparisons.of_windows or study.comparisons.of_budgets or study.comparisons.of_sizes
    )
    return study.comparisons.of_criteria or not others


def _data_caption(study: Study) -> str:
    return f"""\
For each model, criterion and pattern, and each adaptation that several criteria have, the mean
perplexity on ``{study.perplexity.text}`` over ``seeds`` seeds, its standard error over windows and
its standard deviation over seeds (empty for one seed). ``nan`` is a perplexity that is not finite.
"""


FIGURE = Figure(
    name="criteria",
    title="perplexity by criterion",
    caption=_caption,
    alternative=(
        "A chart for each model and pattern: the perplexity of each pruning criterion without and "
        "with the reconstruction, above a line for the dense model."
    ),
    claims=("C3", "C3b"),
    wanted=_wanted,
    settings=lambda study: {
        # All adaptations of the config, shown or not: each looks the same in all figures.
        "adaptations": study.as_json()["adaptations"],
        "text": study.perplexity.text,
        "selected_on_evaluation": study.comparisons.selected_on_evaluation,
    },
    data="perplexity by criterion",
    data_caption=_data_caption,
    columns=CRITERIA_COLUMNS,
    rows=lambda results: results.criteria,
)
