"""The effect of the window size: the adaptations of one pruned model that differ in their window
and see the same amount of text.

The gain of an adaptation is the mean loss without it minus that with it, nats per token. How much
less an adaptation gains than the best one, as a share of the best gain, shows whether the window
matters. Both are measured on the same windows of text, so the error comes from paired differences.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from freelunch.analysis import pairing
from freelunch.analysis.pairing import (
    Records,
    Row,
    Rows,
    error_columns,
    with_errors,
)
from freelunch.records.record import adaptation_facts
from freelunch.study.adaptations import LeastSquares, Local
from freelunch.study.cell import NONE, Cell, pruned_model
from freelunch.study.retraining import read_adaptation
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.study import Study
from freelunch.study.windows import window_size

# How much less an adaptation improves the loss than the best one, as a share of that.
LOST = "improvement_lost"
WINDOW_COLUMNS = (
    *("model", "criterion", "pattern", "adaptation", "seeds"),
    *("tokens", "window", "exact", "inputs", "targets", "selected_on"),
    *error_columns("perplexity"),
    *error_columns("gain"),
    "best",
    *error_columns(LOST)[:2],
    *("adaptation_flops", "adaptation_wall_s", "adaptation_peak_bytes"),
    *("perplexity_pruned", "perplexity_dense"),
)


@dataclass(frozen=True)
class AdaptedCells:
    """The cells, by seed, of one adaptation of a pruned model; the tokens of text that it sees; the
    window that was adapted together; and the text on which its learning rate was chosen, where
    several were listed.
    """

    name: str
    cells: Mapping[int, Cell]
    settings: Local
    tokens: int
    window: int | str
    selected_on: str | None

    @property
    def kind(self) -> tuple[object, ...]:
        """Return what tells compared windows apart: windows are compared, not losses or precisions.
        What was chosen on the evaluation text is a kind of its own, shown beside the usual one.
        """
        settings = self.settings
        return settings.method, self.window, settings.inputs, self.targets, self.favoured

    @property
    def favoured(self) -> bool:
        """Return whether its settings were chosen on the evaluation text itself."""
        return self.selected_on == "evaluation"

    @property
    def targets(self) -> str:
        """Return the targets, and which other quirks of the paper's code are switched on."""
        return ", ".join([self.settings.targets, *self.settings.quirks])


def window_rows(records: Records, study: Study) -> list[Row]:
    """Return a row, with WINDOW_COLUMNS, for each reconstruction of a model that was also
    reconstructed with the same amount of text and another window, or other inputs or targets,
    and with the same settings otherwise (`Comparisons.window_group`); of those with the same
    window, inputs and targets, for the first in the config. All are compared over the seeds that
    they share with the unadapted model. What was chosen on the evaluation text is the best only
    where nothing else is finite.
    """
    rows = []
    for cells in pairing.pruned_models(records):
        by_name = pairing.by_adaptation(cells)
        unadapted = by_name.get(NONE, {})
        compared = study.comparisons.window_group(cells[0])
        adapted = [
            _adapted(name, of_seeds, records, study)
            for name, of_seeds in by_name.items()
            if name in compared
        ]
        for tokens in sorted({each.tokens for each in adapted}):
            here = [each for each in adapted if each.tokens == tokens]
            rows += _compared(here, unadapted, records)
    return rows


def compared_together(rows: Rows) -> Iterator[tuple[str, str, list[Row]]]:
    """Yield the rows that are compared with each other, those of one pruned model and one amount of
    text, behind the name of the model and, if it has several, the amount in words.
    """
    models: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        models.setdefault(pruned_model(row), {}).setdefault(row["tokens"], []).append(row)
    for name, amounts in models.items():
        for tokens, here in amounts.items():
            yield name, "" if len(amounts) == 1 else f"{tokens:,} tokens", here


def usual_windows(rows: Rows) -> list[Row]:
    """Return the rows that differ in their window alone: those with dense inputs and targets, whose
    settings were not chosen on the evaluation text.
    """
    return [
        row
        for row in rows
        if (row["inputs"], row["targets"]) == ("dense", "dense")
        and row["selected_on"] != "evaluation"
    ]


def _compared(
    adapted: Sequence[AdaptedCells], unadapted: Mapping[int, Cell], records: Records
) -> list[Row]:
    shared = pairing.most_shared(unadapted, [each.cells for each in adapted])
    kinds: dict[tuple[object, ...], AdaptedCells] = {}
    for each in adapted:
        if shared in each.cells:
            kinds.setdefault(each.kind, each)
    firsts = list(kinds.values())
    if len(firsts) < 2:
        return []
    common = sorted(set(unadapted).intersection(*(each.cells for each in firsts)))

    def rank(each: AdaptedCells) -> tuple[bool, bool, float]:
        gain, _, _ = pairing.over_units_and_seeds(
            pairing.loss_differences(unadapted, each.cells, common, records)
        )
        return not math.isnan(gain), not each.favoured, gain

    best = max(firsts, key=rank)
    return [_row(each, best, unadapted, records) for each in sorted(firsts, key=_size)]


def _row(
    adapted: AdaptedCells, best: AdaptedCells, unadapted: Mapping[int, Cell], records: Records
) -> Row:
    seeds = sorted({*unadapted} & {*adapted.cells} & {*best.cells})
    gains, best_gains = (
        pairing.loss_differences(unadapted, each.cells, seeds, records) for each in (adapted, best)
    )
    gained, error, spread = pairing.share_of(gains, best_gains)
    cells = [adapted.cells[seed] for seed in seeds]
    one, settings = cells[0], adapted.settings
    before, _, _ = pairing.perplexity_over_seeds([unadapted[seed] for seed in seeds], records)
    dense, _, _ = pairing.perplexity_over_seeds([Cell.dense(one.model)], records)
    costs = [records[cell]["cost"][RECONSTRUCT_WINDOW] for cell in cells]
    return {
        **{key: getattr(one, key) for key in WINDOW_COLUMNS[:4]},
        "seeds": len(seeds),
        "tokens": adapted.tokens,
        "window": adapted.window,
        "exact": int(isinstance(settings, LeastSquares)),
        "inputs": settings.inputs,
        "targets": adapted.targets,
        "selected_on": adapted.selected_on,
        **with_errors("perplexity", *pairing.perplexity_over_seeds(cells, records)),
        **with_errors("gain", *pairing.over_units_and_seeds(gains)),
        "best": best.name,
        **with_errors(LOST, 1 - gained, pairing.total_error(error, spread, len(seeds))),
        "adaptation_flops": fmean(map(pairing.operations, costs)),
        "adaptation_wall_s": fmean(cost["wall_s"] for cost in costs),
        "adaptation_peak_bytes": max(cost["peak_bytes"] for cost in costs),
        "perplexity_pruned": before,
        "perplexity_dense": dense,
    }


def _adapted(
    name: str, by_seed: Mapping[int, Cell], records: Records, study: Study
) -> AdaptedCells:
    cell = next(iter(by_seed.values()))
    settings = read_adaptation(records[cell]["spec"]["adaptation"] or {})
    tokens = study.comparisons.sequences[name] * study.calibration_of(cell.model).length
    facts = adaptation_facts(records[cell])
    return AdaptedCells(
        name, by_seed, settings, tokens, facts["window"], pairing.selected_on(facts)
    )


def _size(adapted: AdaptedCells) -> tuple[object, ...]:
    sparse, size = adapted.settings.is_sequential, window_size(adapted.window)
    return sparse, size, isinstance(adapted.settings, LeastSquares), adapted.name
