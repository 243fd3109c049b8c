"""Drift of activations against depth, by window."""

from freelunch.analysis.drift import DRIFT_COLUMNS
from freelunch.reporting.figures import Figure
from freelunch.study.study import Study


def _caption(study: Study) -> str:
    same = "The adaptations have the same masks"
    if study.comparisons.of_windows:
        same += ", and those of windows have dense inputs and targets"
    return f"""\
How far the output of each block is from the dense model's: ||y - y_dense|| / ||y_dense|| of a
token, averaged over the tokens of held-out sequences of ``{study.calibration.text}``.
Accumulated: each block sees the output of the checkpoint's own blocks before it. Local: each block
sees the dense model's activations, so the error is its own. The model without adaptation and up to
four adaptations are named, windows from the smallest to the largest; the others are grey. {same}.
If there are many blocks, every fifth is marked.
"""


FIGURE = Figure(
    name="drift",
    title="drift by depth",
    caption=_caption,
    alternative=(
        "Charts of the relative error of each block's output against its depth in the model, "
        "accumulated and local: a line for each window or other adaptation."
    ),
    claims=("C2", "C2b", "C2v1"),
    wanted=lambda study: study.drift is not None,
    # All adaptations of the config, shown or not: each looks the same in all figures.
    settings=lambda study: {"adaptations": study.as_json()["adaptations"]},
    data="activations against depth",
    data_caption=lambda _: (
        """\
Relative errors of activations on tokens of held-out calibration text: a row for each block, kind
(``accumulated``, ``local``) and output. The output is that of the ``block``, or all of its
``matrices`` together: ``mean`` and ``median`` are then averaged over them, ``max`` is the largest.
``compared`` is 1 for what the figure shows. The numbers of each matrix are in the records.
"""
    ),
    columns=DRIFT_COLUMNS,
    rows=lambda results: results.drift,
)
