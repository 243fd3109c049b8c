"""Perplexity and memory against the window size."""

from freelunch.analysis.window_effect import WINDOW_COLUMNS
from freelunch.reporting.figures import Figure
from freelunch.study.study import Study


def _caption(study: Study) -> str:
    perplexity, calibration = study.perplexity, study.calibration
    return f"""\
Perplexity and memory against the window size, the part of the model that is adapted together: a
single matrix, attention and MLP separately, a number of consecutive blocks, or all blocks. The
masks are the same for all windows.
Perplexity on ``{perplexity.text}``, windows of {perplexity.length} tokens;
calibrated on {calibration.samples} sequences of {calibration.length} tokens of
``{calibration.text}``. Bars are one standard error over windows of text; all cells are
measured on the same text, so their differences are more certain than the bars suggest: see
``gain_missed`` in ``windows.csv``. Memory is the peak resident set of a job.
"""


FIGURE = Figure(
    name="windows",
    title="quality and memory by window",
    caption=_caption,
    alternative=(
        "Two charts over the size of the window, from single matrices to the whole model: "
        "perplexity with its error, between the pruned and the dense model's, and the peak memory "
        "of a job."
    ),
    claims=("C2", "C2b", "C2v1"),
    wanted=lambda study: study.compares_windows,
    settings=lambda study: {"text": study.perplexity.text},
    data="effect of the window size",
    data_caption=lambda _: (
        """\
``gain``: the mean loss without the adaptation minus that with it, nats per token. ``gain_missed``:
how much less an adaptation gains than the best one (``best``), as a share of the best gain, with
the standard error of the paired differences over windows of text (and over seeds, where there are
several). ``exact``: 1 for a window that was solved by least squares and not trained.
"""
    ),
    columns=WINDOW_COLUMNS,
    rows=lambda results: results.windows,
)
