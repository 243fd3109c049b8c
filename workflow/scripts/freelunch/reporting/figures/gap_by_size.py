"""The gap between criteria against the size of the model."""

from collections.abc import Sequence

from freelunch.analysis.criteria_gap import SIZE_COLUMNS
from freelunch.reporting.drawing import style
from freelunch.reporting.drawing.adaptation_looks import Registered, marks
from freelunch.reporting.figures import Figure
from freelunch.reporting.labels import pattern_label

PANEL_INCHES = 2.2


def draw(rows: Sequence[style.Row], adaptations: Registered) -> "style.Figure":
    """Return the figure: for each pattern a line for each adaptation that several models have."""
    looks = marks(adaptations)
    panels: dict[str, dict[str, list[style.Row]]] = {}
    for (pattern, name), here in style.grouped(rows, "pattern", "adaptation").items():
        if len(here) > 1:
            panels.setdefault(pattern, {})[name] = here
    if not panels:
        return style.empty("criteria were compared on only one model")
    figure, grid = style.stacked(len(panels), 0.8 + len(panels) * PANEL_INCHES, sharex=True)
    for axes, (pattern, series) in zip(grid, panels.items(), strict=True):
        axes.set(xscale="log", ylabel="worst minus best criterion\n(nats per token)")
        axes.set_title(pattern_label(pattern), loc="left")
        for name, here in series.items():
            known = style.finite_rows(here, "loss_gap")
            known.sort(key=lambda row: int(row["parameters"]))
            parameters, gaps, errors = (
                style.numbers(known, column)
                for column in ("parameters", "loss_gap", "loss_gap_standard_error")
            )
            style.draw_points(axes, parameters, gaps, errors, looks[name])
    grid[-1].set_xlabel("parameters of the model")
    shown = [name for name in looks if any(name in series for series in panels.values())]
    handles = [style.line_handle(looks[name], looks[name].label) for name in shown]
    style.legend_below(figure, handles, "bars: ± standard error over windows of text")
    return figure


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
    data="gap against the size of the model",
    data_caption=lambda _: (
        """\
The gap between all criteria of each model, pattern and adaptation, with the parameters of the
model. ``loss_gap``: the loss of the worst minus that of the best criterion, nats per token.
"""
    ),
    columns=SIZE_COLUMNS,
    rows=lambda results: results.sizes,
    drawing=__name__,
)
