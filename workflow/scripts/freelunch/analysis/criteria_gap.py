"""The gap between the best and the worst criterion, and how much of it remains after an adaptation.

The gap is the mean loss of the worst criterion minus that of the best, in nats per token: the
logarithm of the ratio of their perplexities. Best and worst are chosen by the same measurements,
and errors take the choice as given, so a gap between almost equal criteria is slightly
overestimated.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from freelunch.analysis.pairing import (
    Records,
    Row,
    exp,
    mean_over_seeds,
    measured_perplexity,
    paired_losses,
    parameters_by_model,
    seed_groups,
    spread_over_seeds,
    standard_error,
    window_means,
)
from freelunch.study.cell import NONE, Cell

LEFT_COLUMNS = ("gap_left", "gap_left_standard_error", "gap_left_standard_deviation_over_seeds")
# The sentences about it also need these.
_LEFT_IN_WORDS = ("gap_left_seeds", "gap_left_error")
GAP_COLUMNS = (
    *("model", "pattern", "adaptation", "criteria", "left_out", "seeds"),
    *("best", "worst", "perplexity_best", "perplexity_worst"),
    *("loss_gap", "loss_gap_standard_error", "loss_gap_standard_deviation_over_seeds"),
    *LEFT_COLUMNS,
)
SIZE_COLUMNS = (
    *("model", "parameters", "pattern", "adaptation", "criteria", "seeds"),
    *("loss_gap", "loss_gap_standard_error"),
)
PAIR_COLUMNS = (
    *("model", "pattern", "adaptation", "criterion", "other", "seeds"),
    *("loss_difference", "loss_difference_standard_error"),
    "loss_difference_standard_deviation_over_seeds",
)
# Cells of one model, pattern and adaptation, by criterion and then by seed.
Cells = Mapping[str, Mapping[int, Cell]]


@dataclass(frozen=True)
class Gap:
    """The gap between some criteria, over the seeds that all of them have.

    Attributes:
        best: The criterion with the smallest mean loss.
        worst: The criterion with the largest mean loss, or with one that is not finite.
        seeds: The seeds that all criteria share.
        losses: Loss of the worst minus that of the best, nats per token: (seeds, windows).
    """

    best: str
    worst: str
    seeds: Sequence[int]
    losses: Sequence[Sequence[float]]

    @property
    def windows(self) -> list[float]:
        """Return the gap on each window, averaged over seeds."""
        return window_means(self.losses)

    @property
    def of_each_seed(self) -> list[float]:
        """Return the gap of each seed, averaged over windows."""
        return [fmean(windows) for windows in self.losses]


def gap_rows(records: Records) -> list[Row]:
    """Return the gaps of all models, patterns and adaptations, with GAP_COLUMNS and a few more.

    There is a row where at least two criteria have cells, all of which share a seed. One bad
    criterion makes most of a gap, so three or more criteria get a second row that leaves out
    (`left_out`) the one that is worst without the adaptation.

    `gap_left` compares only the criteria and seeds that exist both with and without the adaptation,
    so where these differ it is not the quotient of two rows.
    """
    groups, rows = _groups(records), []
    for (model, pattern, adaptation), cells in groups.items():
        pruned = groups.get((model, pattern, NONE), {})
        reference = criteria_gap(pruned or cells, records)
        worst = reference.worst if reference is not None else None
        for left_out in (None, worst) if worst in cells and len(cells) > 2 else (None,):
            here, unadapted = (_without(left_out, one) for one in (cells, pruned))
            gap = criteria_gap(here, records)
            if gap is not None:
                row: Row = {"model": model, "pattern": pattern, "adaptation": adaptation}
                row |= {"criteria": len(here), "left_out": left_out}
                row |= _gap_facts(gap, here, records)
                compared = {} if adaptation == NONE else unadapted
                rows.append(row | _left_facts(here, compared, records))
    return rows


def size_rows(gaps: Iterable[Mapping[str, Any]], records: Records) -> list[Row]:
    """Return the gaps between all criteria beside the size of their model, with SIZE_COLUMNS.

    Args:
        gaps: As `gap_rows` returns them.
        records: The records of the study.
    """
    sizes = parameters_by_model(records)
    return [
        {**gap, "parameters": sizes[str(gap["model"])]} for gap in gaps if gap["left_out"] is None
    ]


def pair_rows(records: Records) -> list[Row]:
    """Return the differences of every two criteria that share a seed, with PAIR_COLUMNS."""
    rows = []
    for (model, pattern, adaptation), cells in _groups(records).items():
        for criterion, other in combinations(cells, 2):
            seeds = _shared_seeds([cells[criterion], cells[other]])
            if seeds:
                row: Row = {"model": model, "pattern": pattern, "adaptation": adaptation}
                row |= {"criterion": criterion, "other": other, "seeds": len(seeds)}
                losses = _differences(cells[criterion], cells[other], seeds, records)
                rows.append(row | _mean_facts("loss_difference", losses))
    return rows


def criteria_gap(cells: Cells, records: Records) -> Gap | None:
    """Return the gap between the criteria of some cells; None unless two or more share a seed."""
    seeds = _shared_seeds(cells.values())
    if len(cells) < 2 or not seeds:
        return None
    losses = {
        criterion: fmean(fmean(paired_losses(of_seed[seed], records)[0]) for seed in seeds)
        for criterion, of_seed in cells.items()
    }
    ranked = sorted(losses, key=lambda name: (math.isnan(losses[name]), losses[name]))
    best, worst = ranked[0], ranked[-1]
    return Gap(best, worst, seeds, _differences(cells[worst], cells[best], seeds, records))


def _left_facts(adapted: Cells, pruned: Cells, records: Records) -> Row:
    """Return the gap with an adaptation over that without, its errors and its spread.

    Both are measured on the same windows and seeds. To first order, left = after / before changes
    with window or seed x by (after_x - left * before_x) / before. The error over windows and the
    error over seeds add in quadrature.

    Args:
        adapted: The cells with the adaptation.
        pruned: The cells without it, of the same model and pattern.
        records: The records of all these cells.

    Returns:
        None where fewer than two criteria share a seed in both; NaN where a loss is not finite, or
        where there was no gap. The spread is None for one seed.
    """
    after = criteria_gap(_also_in(pruned, adapted), records)
    before = criteria_gap(_also_in(adapted, pruned), records)
    if after is None or before is None:
        return dict.fromkeys((*LEFT_COLUMNS, *_LEFT_IN_WORDS))
    whole = fmean(before.windows)
    left = fmean(after.windows) / whole if whole > 0 else math.nan

    def moves(of_after: Sequence[float], of_before: Sequence[float]) -> list[float]:
        pairs = zip(of_after, of_before, strict=True)
        return [(one - left * other) / whole if whole > 0 else math.nan for one, other in pairs]

    seeds = len(after.seeds)
    error = standard_error(moves(after.windows, before.windows))
    spread = spread_over_seeds(moves(after.of_each_seed, before.of_each_seed))
    whole_error = math.hypot(error, (spread or 0.0) / math.sqrt(seeds))
    return {
        "gap_left": left,
        "gap_left_standard_error": error,
        "gap_left_standard_deviation_over_seeds": spread,
        "gap_left_seeds": seeds,
        "gap_left_error": whole_error,
    }


def _groups(records: Records) -> dict[tuple[str, str, str], dict[str, dict[int, Cell]]]:
    """Return the pruned cells by model, pattern and adaptation, pattern by pattern."""
    patterns: dict[tuple[str, str], dict[str, dict[str, dict[int, Cell]]]] = {}
    for cells in seed_groups(records):
        one = cells[0]
        if not one.is_dense:
            of_pattern = patterns.setdefault((one.model, one.pattern), {})
            of_adaptation = of_pattern.setdefault(one.adaptation, {})
            of_adaptation[one.criterion] = {cell.seed: cell for cell in cells}
    return {
        (*pattern, adaptation): cells
        for pattern, of_pattern in patterns.items()
        for adaptation, cells in of_pattern.items()
    }


def _gap_facts(gap: Gap, cells: Cells, records: Records) -> Row:
    """Return the columns of a row that describe a gap; perplexities are means over its seeds."""
    facts: Row = {"seeds": len(gap.seeds), "best": gap.best, "worst": gap.worst}
    for which, criterion in (("best", gap.best), ("worst", gap.worst)):
        seeds = [measured_perplexity(records[cells[criterion][seed]]) for seed in gap.seeds]
        facts[f"perplexity_{which}"], facts[f"perplexity_{which}_standard_error"], _ = (
            mean_over_seeds(seeds)
        )
    ratio = exp(fmean(gap.windows))
    facts["worst_over_best"] = ratio
    facts["worst_over_best_standard_error"] = ratio * standard_error(gap.windows)
    return facts | _mean_facts("loss_gap", gap.losses)


def _mean_facts(name: str, losses: Sequence[Sequence[float]]) -> Row:
    """Return the mean of (seeds, windows), its error over windows and its spread over seeds."""
    windows = window_means(losses)
    return {
        name: fmean(windows),
        f"{name}_standard_error": standard_error(windows),
        f"{name}_standard_deviation_over_seeds": spread_over_seeds([fmean(of) for of in losses]),
    }


def _differences(
    one: Mapping[int, Cell], other: Mapping[int, Cell], seeds: Iterable[int], records: Records
) -> list[list[float]]:
    """Return the loss of one criterion minus that of another: (seeds, windows)."""
    pairs = (
        [paired_losses(of_seed[seed], records)[0] for of_seed in (one, other)] for seed in seeds
    )
    return [[loss - other_loss for loss, other_loss in zip(*pair, strict=True)] for pair in pairs]


def _shared_seeds(criteria: Iterable[Mapping[int, Cell]]) -> list[int]:
    """Return the seeds that all criteria have, in order."""
    sets = [set(of_seed) for of_seed in criteria]
    return sorted(set.intersection(*sets)) if sets else []


def _without(criterion: str | None, cells: Cells) -> Cells:
    return {name: of_seed for name, of_seed in cells.items() if name != criterion}


def _also_in(others: Cells, cells: Cells) -> Cells:
    """Return the cells whose criterion and seed the others also have."""
    kept = {
        criterion: {
            seed: cell for seed, cell in of_seed.items() if seed in others.get(criterion, {})
        }
        for criterion, of_seed in cells.items()
    }
    return {criterion: of_seed for criterion, of_seed in kept.items() if of_seed}
