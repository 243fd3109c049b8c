"""Perplexity against memory, window by window: which window a memory affords, and what it costs."""

from collections.abc import Mapping, Sequence

from freelunch.analysis import pairing
from freelunch.analysis.pairing import Row, error_columns, with_errors
from freelunch.records.record import adaptation_facts
from freelunch.reporting.drawing import style
from freelunch.reporting.drawing.adaptation_looks import Registered, marks
from freelunch.reporting.figures import Figure, looks_and_text
from freelunch.reporting.formatting import pruned_model_label, seeds_label
from freelunch.reporting.results import Results
from freelunch.study.cell import NONE, Cell
from freelunch.study.steps import RECONSTRUCT_WINDOW

PANEL_INCHES, LEGEND_INCHES = 2.6, 0.2
ERROR = "perplexity_error_beside_first"


def draw(rows: Sequence[style.Row], adaptations: Registered, text: str) -> "style.Figure":
    """Return the figure: for each pruned model and amount of text perplexity against memory."""
    if not rows:
        return style.empty("no two windows to compare")
    looks = marks(adaptations)
    names = dict.fromkeys(row["adaptation"] for row in rows)
    # A window looks the same with every amount of text.
    shown = {looks[name].series.partition(": ")[2]: looks[name] for name in names}
    panels = style.grouped(rows, "model", "criterion", "pattern", "tokens").values()
    height = 0.5 + len(panels) * PANEL_INCHES + LEGEND_INCHES * -(-len(shown) // 2)
    figure, grid = style.stacked(len(panels), height)
    for axes, here in zip(grid, panels, strict=True):
        finite = style.finite_rows(here, "perplexity")
        for row in finite:
            style.draw_points(
                axes,
                [1e-9 * float(row["adaptation_peak_bytes"])],
                style.numbers([row], "perplexity"),
                style.numbers([row], ERROR),
                looks[row["adaptation"]],
                chosen=[row["selected_on"] == "evaluation"],
            )
        values, errors = (style.numbers(finite, key) for key in ("perplexity", ERROR))
        style.log_scale(axes, values, errors)
        style.widen(axes)
        unadapted = float(here[0]["perplexity_pruned"])
        level = style.draw_level(axes, unadapted, "pruned", ":", "dotted")
        seeds = seeds_label({int(row["seeds"]) for row in here})
        amount = f"{int(here[0]['tokens']):,} tokens, {seeds}; {level}"
        axes.set_title(f"{pruned_model_label(here[0])}\n{amount}", loc="left")
        axes.set(xlabel="peak memory of a job (GB)", ylabel=f"perplexity on {text}")
    style.legend_below(
        figure,
        [style.handle(look, series, line=False) for series, look in shown.items()],
        "bars: \N{PLUS-MINUS SIGN} standard error of the difference from the first",
        *style.chosen_note(rows),
    )
    return figure


def window_rows(results: Results) -> list[Row]:
    """Return a row for each window that others of the pruned model saw as much text as, over the
    seeds that it shares with the first of them, which is the reference if that is among them.
    """
    comparisons, rows = results.study.comparisons, []
    order = [*comparisons.references, *comparisons.adaptations]
    for cells in pairing.pruned_models(results.records):
        by_name = pairing.by_adaptation(cells)
        for names in comparisons.windows_of(cells[0]):
            here = sorted((name for name in names if name in by_name), key=order.index)
            rows += [_row(results, by_name, name, here[0]) for name in here if len(here) > 1]
    return [row for row in rows if row["seeds"]]


def _row(results: Results, by_name: Mapping[str, Mapping[int, Cell]], name: str, first: str) -> Row:
    study, records = results.study, results.records
    seeds = sorted(by_name[name].keys() & by_name[first].keys() & by_name.get(NONE, {}).keys())
    if not seeds:
        return {"seeds": 0}
    cells, unadapted = ([by_name[each][seed] for seed in seeds] for each in (name, NONE))
    one, facts = cells[0], adaptation_facts(records[cells[0]])
    differences = pairing.loss_differences(by_name[name], by_name[first], seeds, records)
    perplexity = pairing.perplexity_over_seeds(cells, records)
    difference = pairing.over_units_and_seeds(differences)
    tokens = study.comparisons.sequences[one.adaptation] * study.calibration_of(one.model).length
    peaks = [records[cell]["cost"][RECONSTRUCT_WINDOW]["peak_bytes"] for cell in cells]
    return {
        **{key: getattr(one, key) for key in ("model", "criterion", "pattern", "adaptation")},
        "seeds": len(cells),
        "tokens": tokens,
        "window": facts["window"],
        "selected_on": pairing.selected_on(facts),
        **with_errors("perplexity", *perplexity),
        "first": first,
        **with_errors("loss_minus_first", *difference),
        # To first order the error of a perplexity is the perplexity times the error of the loss.
        ERROR: perplexity[0] * difference[1],
        "adaptation_peak_bytes": max(peaks),
        "perplexity_pruned": pairing.perplexity_over_seeds(unadapted, records)[0],
    }


FIGURE = Figure(
    name="windows",
    title="perplexity by window and memory",
    caption=lambda study: (
        f"""\
What each window of a reconstruction reaches, and in how much memory: lower and further left is
better. The window's size hardly matters where points lie at one height, and memory may then choose
it. Perplexity on ``{study.perplexity.text}``, windows of {study.window_text} tokens. Behind the
same masks, all windows of a panel see as many tokens.

Bars are one standard error, over windows of text, of the difference from the reconstruction that
the others are compared with.
"""
    ),
    alternative=(
        "A chart of perplexity against the peak memory of a job, with a point for each window, "
        "from single matrices to the whole model."
    ),
    claims=("C2", "C2b", "C2m", "C2v1"),
    wanted=lambda study: study.comparisons.of_windows,
    data="windows of reconstructions",
    data_caption=lambda _: (
        """\
Windows by their perplexity and the peak memory of their largest job. ``loss_minus_first``: the mean
loss minus that of the reconstruction ``first``, nats per token, with the standard error of the
paired differences over windows of text.
"""
    ),
    columns=(
        *("model", "criterion", "pattern", "adaptation", "seeds", "tokens", "window"),
        "selected_on",
        *error_columns("perplexity"),
        "first",
        *error_columns("loss_minus_first"),
        ERROR,
        *("adaptation_peak_bytes", "perplexity_pruned"),
    ),
    rows=window_rows,
    drawing=__name__,
    settings=looks_and_text,
)
