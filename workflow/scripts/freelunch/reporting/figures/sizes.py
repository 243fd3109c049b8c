"""The gap between criteria against the size of the model."""

from freelunch.analysis.criteria_gap import SIZE_COLUMNS
from freelunch.reporting.figures import Figure

FIGURE = Figure(
    name="sizes",
    title="gap by size of the model",
    caption=lambda _: (
        """\
How far apart the worst and the best criterion are, in loss, against the number of parameters of
the model: without and with adaptations, for each pattern. Only criteria that were run both without
and with them count.
"""
    ),
    alternative=(
        "A chart for each pattern: the gap between the worst and the best criterion against the "
        "parameters of the model, a line for each adaptation."
    ),
    claims=("C3",),
    wanted=lambda study: study.comparisons.of_sizes,
    # All adaptations of the config, shown or not: each looks the same in all figures.
    settings=lambda study: {"adaptations": study.as_json()["adaptations"]},
    data="gap against the size of the model",
    data_caption=lambda _: (
        """\
The gap between all criteria of each model, pattern and adaptation, with the parameters of the
model. ``loss_gap``: the loss of the worst minus that of the best criterion, nats per token.
"""
    ),
    columns=SIZE_COLUMNS,
    rows=lambda results: results.sizes,
)
