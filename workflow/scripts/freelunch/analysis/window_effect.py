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
from typing import Any

from freelunch.analysis.pairing import (
    Records,
    Row,
    mean_over_seeds,
    measured_perplexity,
    most_shared,
    operations,
    paired_losses,
    pruned_models,
    spread_over_seeds,
    standard_error,
    window_means,
)
from freelunch.records.record import adaptation_facts
from freelunch.study.adaptations import LeastSquares, Local
from freelunch.study.cell import NONE, Cell, pruned_model
from freelunch.study.retraining import read_adaptation
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.study import Study
from freelunch.study.windows import window_size

WINDOW_COLUMNS = (
    *("model", "criterion", "pattern", "adaptation", "seeds"),
    *("tokens", "window", "exact", "inputs", "targets", "selected_on"),
    *("perplexity", "perplexity_standard_error", "perplexity_standard_deviation_over_seeds"),
    *("gain", "gain_standard_error", "gain_standard_deviation_over_seeds"),
    *("best", "gain_missed", "gain_missed_standard_error"),
    *("adaptation_flops", "adaptation_wall_s", "adaptation_peak_bytes"),
    *("perplexity_unadapted", "perplexity_dense"),
)


@dataclass(frozen=True)
class AdaptedCells:
    """The cells of one adaptation of a pruned model.

    Attributes:
        name: Name of the adaptation.
        cells: Its cells by seed.
        settings: Its settings.
        tokens: The tokens of text that it sees.
        window: The window that was adapted together.
        selected_on: The text on which its learning rate was chosen, where several were listed.
    """

    name: str
    cells: Mapping[int, Cell]
    settings: Local
    tokens: int
    window: int | str
    selected_on: str | None

    @property
    def kind(self) -> tuple[object, ...]:
        """Return the settings that tell compared windows apart."""
        return self.settings.method, self.window, self.settings.inputs, self.targets

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
    reconstructed with the same amount of text and another window, or other inputs or targets, and
    with the same settings otherwise (`Comparisons.window_group`).

    Among reconstructions with the same window, inputs and targets, only the first in the config has
    a row. All are compared over the seeds that they share with the unadapted model. What was chosen
    on the evaluation text is the best only where nothing else is finite.
    """
    return [row for cells in pruned_models(records) for row in _rows_of(cells, records, study)]


def compared_together(
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, str, list[Mapping[str, Any]]]]:
    """Yield the rows that are compared with each other: those of one pruned model and one amount of
    text. Before them come the name of the model and, if it has several, the amount in words.
    """
    models: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    for row in rows:
        models.setdefault(pruned_model(row), {}).setdefault(row["tokens"], []).append(row)
    for name, amounts in models.items():
        for tokens, here in amounts.items():
            yield name, "" if len(amounts) == 1 else f"{tokens:,} tokens", here


def usual_windows(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows that differ in their window alone: those with dense inputs and targets.

    What was chosen on the evaluation text is shown in the table of windows, and not compared.
    """
    return [
        row
        for row in rows
        if (row["inputs"], row["targets"]) == ("dense", "dense")
        and row["selected_on"] != "evaluation"
    ]


def _rows_of(cells: Sequence[Cell], records: Records, study: Study) -> list[Row]:
    unadapted = {cell.seed: cell for cell in cells if cell.adaptation == NONE}
    adapted = [
        _adapted(name, [cell for cell in cells if cell.adaptation == name], records, study)
        for name in dict.fromkeys(cell.adaptation for cell in cells)
        if name in study.comparisons.window_group(cells[0])
    ]
    return [
        row
        for tokens in sorted({each.tokens for each in adapted})
        for row in _compared([it for it in adapted if it.tokens == tokens], unadapted, records)
    ]


def _compared(
    adapted: Sequence[AdaptedCells], unadapted: Mapping[int, Cell], records: Records
) -> list[Row]:
    """Return the rows of adaptations that see the same amount of text."""
    shared = most_shared(unadapted, [each.cells for each in adapted])
    adapted = _one_of_a_kind([each for each in adapted if shared in each.cells])
    if len(adapted) < 2:
        return []
    common = sorted(set(unadapted).intersection(*(each.cells for each in adapted)))
    whole = {each.name: _mean(_gains(each, unadapted, common, records)) for each in adapted}

    def rank(each: AdaptedCells) -> tuple[bool, bool, float]:
        gain = whole[each.name]
        return not math.isnan(gain), not each.favoured, gain

    best = max(adapted, key=rank)
    return [_row(each, best, unadapted, records) for each in sorted(adapted, key=_size)]


def _one_of_a_kind(adapted: Sequence[AdaptedCells]) -> list[AdaptedCells]:
    """Return the first adaptation of each kind: windows are compared, not losses or precisions.

    An adaptation chosen on the evaluation text is a kind of its own, shown beside the usual one.
    """
    found: dict[tuple[object, ...], AdaptedCells] = {}
    for each in adapted:
        found.setdefault((each.kind, each.favoured), each)
    return list(found.values())


def _row(
    adapted: AdaptedCells, best: AdaptedCells, unadapted: Mapping[int, Cell], records: Records
) -> Row:
    seeds = sorted({*unadapted} & {*adapted.cells} & {*best.cells})
    gains, best_gains = (_gains(each, unadapted, seeds, records) for each in (adapted, best))
    cells = [adapted.cells[seed] for seed in seeds]
    one = cells[0]
    perplexity = mean_over_seeds([measured_perplexity(records[cell]) for cell in cells])
    before = mean_over_seeds([measured_perplexity(records[unadapted[seed]]) for seed in seeds])
    costs = [records[cell]["cost"][RECONSTRUCT_WINDOW] for cell in cells]
    missed, missed_error = _missed(gains, best_gains)
    return {
        **{key: getattr(one, key) for key in ("model", "criterion", "pattern", "adaptation")},
        "seeds": len(seeds),
        "tokens": adapted.tokens,
        "window": adapted.window,
        "exact": int(isinstance(adapted.settings, LeastSquares)),
        "inputs": adapted.settings.inputs,
        "targets": adapted.targets,
        "selected_on": adapted.selected_on,
        "perplexity": perplexity[0],
        "perplexity_standard_error": perplexity[1],
        "perplexity_standard_deviation_over_seeds": perplexity[2],
        "gain": _mean(gains),
        "gain_standard_error": standard_error(window_means(gains)),
        "gain_standard_deviation_over_seeds": spread_over_seeds([fmean(of) for of in gains]),
        "best": best.name,
        "gain_missed": missed,
        "gain_missed_standard_error": missed_error,
        "adaptation_flops": fmean(map(operations, costs)),
        "adaptation_wall_s": fmean(cost["wall_s"] for cost in costs),
        "adaptation_peak_bytes": max(cost["peak_bytes"] for cost in costs),
        "perplexity_unadapted": before[0],
        "perplexity_dense": measured_perplexity(records[Cell.dense(one.model)])[0],
    }


def _missed(
    gains: Sequence[Sequence[float]], best: Sequence[Sequence[float]]
) -> tuple[float, float]:
    """Return 1 - gain / best gain and its standard error.

    To first order it changes with window w by ((1 - missed) best_w - gain_w) / best. The error over
    seeds, where there are several, adds to that over windows in quadrature.
    """
    whole = _mean(best)
    if not whole > 0:
        return math.nan, math.nan
    kept = _mean(gains) / whole

    def moves(of_gain: Sequence[float], of_best: Sequence[float]) -> list[float]:
        return [(kept * top - gain) / whole for gain, top in zip(of_gain, of_best, strict=True)]

    error = standard_error(moves(window_means(gains), window_means(best)))
    spread = spread_over_seeds(moves([fmean(of) for of in gains], [fmean(of) for of in best]))
    return 1 - kept, math.hypot(error, (spread or 0.0) / math.sqrt(len(gains)))


def _adapted(name: str, cells: Sequence[Cell], records: Records, study: Study) -> AdaptedCells:
    record = records[cells[0]]
    settings = read_adaptation(record["spec"]["adaptation"] or {})
    tokens = study.comparisons.sequences[name] * study.calibration_of(cells[0].model).length
    facts = adaptation_facts(record)
    selected_on = facts["choice"]["selected_on"] if facts["choice"] else None
    by_seed = {cell.seed: cell for cell in cells}
    return AdaptedCells(name, by_seed, settings, tokens, facts["window"], selected_on)


def _size(adapted: AdaptedCells) -> tuple[object, ...]:
    """Return the key that sorts windows from small to large, those with dense inputs first."""
    sparse, size = adapted.settings.is_sequential, window_size(adapted.window)
    return sparse, size, isinstance(adapted.settings, LeastSquares), adapted.name


def _gains(
    adapted: AdaptedCells, unadapted: Mapping[int, Cell], seeds: Sequence[int], records: Records
) -> list[list[float]]:
    """Return the gain of an adaptation with each seed, window by window."""
    return [_differences(unadapted[seed], adapted.cells[seed], records) for seed in seeds]


def _differences(one: Cell, other: Cell, records: Records) -> list[float]:
    """Return the loss of a cell minus that of another, window by window."""
    pair = [paired_losses(cell, records)[0] for cell in (one, other)]
    return [loss - other_loss for loss, other_loss in zip(*pair, strict=True)]


def _mean(losses: Sequence[Sequence[float]]) -> float:
    return fmean(window_means(losses))
