"""Drift of activations against depth, by window."""

from collections.abc import Mapping, Sequence

from freelunch.analysis.window_effect import DRIFT_COLUMNS
from freelunch.reporting.drawing import style
from freelunch.reporting.drawing.adaptation_looks import PALE, Kind, Mark, Registered, marks
from freelunch.reporting.figures import Figure
from freelunch.reporting.formatting import pruned_model_label, seeds_label
from freelunch.study.cell import NONE
from freelunch.study.study import Study
from freelunch.study.windows import window_size

PANEL_INCHES = 2.35
# One block in this many is marked, a different one on each line, so that marks hide no lines.
MARKED = 5
# If there are no more adapted models, all are named. Of more, so many windows, and a retraining.
MOST_NAMED = 3
KINDS = {
    "accumulated": "with the errors of all blocks before it",
    "local": "each block sees the dense model's activations",
}


def draw(rows: Sequence[style.Row], adaptations: Registered) -> "style.Figure":
    """Return the figure: for each pruned model the error of block outputs against depth.

    It shows the pruned models with several of the adaptations that are compared, or else those with
    one, or else all. At most five lines are in colour and named; the others are in grey.
    """
    shown = [row for row in rows if row["compared"] == "1" and row["output"] == "block"]
    models = style.grouped(shown, "model", "criterion", "pattern").values()
    counts = [len({row["adaptation"] for row in here} - {NONE}) for here in models]
    least = min(max(counts, default=0), 2)
    drawn_models = [here for here, count in zip(models, counts, strict=True) if count >= least]
    if not drawn_models:
        return style.empty("no drift was measured")
    looks = marks(adaptations)
    # Local errors are much smaller than accumulated ones, so each panel has its own scale.
    panels = len(KINDS) * len(drawn_models)
    figure, grid = style.stacked(panels, 0.5 + panels * PANEL_INCHES)
    handles = []
    for number, here in enumerate(drawn_models):
        names = [name for name in looks if any(row["adaptation"] == name for row in here)]
        named = _named(names, adaptations)
        if len(named) < len(names):
            grey = Mark("others", "others", PALE, "", "full", "-")
            handles = [style.handle(grey, "other adaptations")]
        title = f"{pruned_model_label(here[0])}, {seeds_label({int(row['seeds']) for row in here})}"
        for axes, (kind, meaning) in zip(grid[len(KINDS) * number :], KINDS.items(), strict=False):
            of_kind = [row for row in here if row["kind"] == kind]
            _panel(axes, of_kind, {name: looks[name] for name in names}, named)
            axes.set_title(f"{title}\n{kind}: {meaning}", loc="left")
            axes.set(xlabel="block", ylabel="relative error of output")
    style.legend_below(figure, handles, "averaged over tokens of held-out calibration text")
    return figure


def _named(names: Sequence[str], adaptations: Registered) -> list[str]:
    """Return the lines that are named: not adapted, the smallest window, one block, the largest,
    and a retraining; fewer windows leave room for more retrainings.

    Of three adaptations or fewer, all are named. If no window is one block, or several are, that in
    the middle takes its place. Of equal windows, the first in the config is the smallest.
    """
    adapted = [name for name in names if name != NONE]
    unadapted = [name for name in names if name == NONE]
    if len(adapted) <= MOST_NAMED:
        return unadapted + adapted
    sizes = {
        name: window_size(window)
        for name in adapted
        if (window := Kind.of(adaptations[name]).window) is not None
    }
    retrained = [name for name in adapted if name not in sizes]
    windowed = sorted(sizes, key=sizes.__getitem__)
    if windowed:
        blocks = [name for name in windowed if sizes[name] == 1]
        middle = blocks[0] if len(blocks) == 1 else windowed[len(windowed) // 2]
        windowed = list(dict.fromkeys((windowed[0], middle, windowed[-1])))
    room = max(MOST_NAMED - len(windowed), 1)
    return unadapted + windowed + retrained[-room:]


def _panel(
    axes: "style.Axes", rows: Sequence[style.Row], looks: Mapping[str, Mark], named: Sequence[str]
) -> None:
    from matplotlib.ticker import MaxNLocator

    # A logarithmic scale has no 0.
    finite = [row for row in style.finite_rows(rows, "mean") if float(row["mean"])]
    style.log_scale(axes, style.numbers(finite, "mean"))
    ends: dict[str, tuple[float, float, str]] = {}
    for name, look in looks.items():
        here = [row for row in finite if row["adaptation"] == name]
        x, y = [int(row["block"]) for row in here], style.numbers(here, "mean")
        if name not in named:
            axes.plot(x, y, color=PALE, linewidth=0.7, zorder=1.5)
            continue
        every = (named.index(name) % MARKED, MARKED) if len(x) > 2 * MARKED else None
        axes.plot(x, y, **look.points, markevery=every, linestyle=look.line, linewidth=1.0)
        of_name = [row for row in rows if row["adaptation"] == name]
        known = style.finite_rows(of_name, "mean")
        if diverged := [row for row in of_name if row not in known]:
            style.mark_not_finite(axes, int(diverged[0]["block"]), look)
        elif y:
            ends[look.label.removeprefix("reconstruction: ")] = x[-1], y[-1], look.colour
    if finite:
        blocks = [int(row["block"]) for row in finite]
        axes.set_xlim(min(blocks) - 0.5, max(blocks) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    style.name_ends(axes, ends)


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
    drawing=__name__,
)
