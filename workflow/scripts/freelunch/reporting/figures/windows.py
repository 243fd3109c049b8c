"""The share of the best gain that each window misses, and its memory."""

from freelunch.analysis.window_effect import WINDOW_COLUMNS
from freelunch.reporting.figures import Figure
from freelunch.study.study import Study


def _caption(study: Study) -> str:
    perplexity, calibration = study.perplexity, study.calibration
    return f"""\
The share of the best gain that each window misses, the memory that it takes, and the perplexity
that it reaches. A window is the part of the model that is adapted together: a single matrix,
attention and MLP separately (half blocks), a number of consecutive blocks, or the whole model. The
masks are the same for all windows. Each window is compared with the best of those that see the same
amount of text, over the seeds that the two share, so perplexities may be means over different
seeds.

The gain is the loss without the adaptation minus that with it. Bars are one standard error of the
paired difference from the best window, over windows of text. Perplexity is on
``{perplexity.text}``, windows of {study.window_text} tokens. Masks are chosen on
{calibration.samples} sequences of {study.sequence_text} tokens of ``{calibration.text}``, and
windows see as many tokens as their title says. Memory is the peak resident set of a job.
"""


FIGURE = Figure(
    name="windows",
    title="quality and memory by window",
    caption=_caption,
    alternative=(
        "Two charts with a row for each window, from single matrices to the whole model: how much "
        "of the best gain it misses, with the error, and the peak memory of a job; beside them, "
        "its perplexity."
    ),
    claims=("C2", "C2b", "C2v1"),
    wanted=lambda study: study.comparisons.of_windows,
    settings=lambda study: {
        # All adaptations of the config, shown or not: each looks the same in all figures.
        "adaptations": study.as_json()["adaptations"],
        "text": study.perplexity.text,
    },
    data="effect of the window size",
    data_caption=lambda _: (
        """\
``gain``: the mean loss without the adaptation minus that with it, nats per token. ``gain_missed``:
how much less an adaptation gains than the best one on as many ``tokens`` (``best``), as a share of
the best gain, with the standard error of the paired differences over windows of text (and over
seeds, where there are several). What was chosen on the evaluation text is not the best. ``exact``:
1 for a window that was solved by least squares and not trained. ``targets`` also names the quirks
of the paper's code that are switched on.
"""
    ),
    columns=WINDOW_COLUMNS,
    rows=lambda results: results.windows,
)
