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

from freelunch.analysis import pairing
from freelunch.analysis.pairing import Measured, Records, Row, error_columns, with_errors
from freelunch.study.cell import NONE, Cell

LEFT_COLUMNS = error_columns("gap_left")
# The sentences about it also need these.
_LEFT_IN_WORDS = ("gap_left_seeds", "gap_left_error")
GAP_COLUMNS = (
    *("model", "pattern", "adaptation", "criteria", "left_out", "seeds"),
    *("best", "worst", "perplexity_best", "perplexity_worst"),
    *error_columns("loss_gap"),
    *LEFT_COLUMNS,
)
PAIR_COLUMNS = (
    *("model", "pattern", "adaptation", "criterion", "other", "seeds"),
    *error_columns("loss_difference"),
)
# Cells of one model, pattern and adaptation, by criterion and then by seed.
Cells = Mapping[str, Mapping[int, Cell]]


@dataclass(frozen=True)
class Gap:
    """The gap between some criteria, over the seeds that all of them have: the criteria with the
    smallest and the largest mean loss, or with one that is not finite, and the loss of the worst
    minus that of the best, nats per token: (seeds, windows).
    """

    best: str
    worst: str
    seeds: Sequence[int]
    losses: Measured


def gap_rows(records: Records) -> list[Row]:
    """Return the gaps of all models, patterns and adaptations, with GAP_COLUMNS and a few more,
    where at least two criteria have cells, all of which share a seed.

    One bad criterion makes most of a gap, so three or more criteria get a second row that leaves
    out (`left_out`) the one that is worst without the adaptation. `gap_left` compares only the
    criteria and seeds that exist both with and without the adaptation, so where these differ it is
    not the quotient of two rows.
    """
    groups, rows = _groups(records), []
    for (model, pattern, adaptation), cells in groups.items():
        pruned = groups.get((model, pattern, NONE), {})
        reference = criteria_gap(pruned or cells, records)
        worst = reference.worst if reference is not None else None
        for left_out in (None, worst) if worst in cells and len(cells) > 2 else (None,):
            here, unadapted = (
                {name: of_seed for name, of_seed in one.items() if name != left_out}
                for one in (cells, pruned)
            )
            gap = criteria_gap(here, records)
            if gap is not None:
                row: Row = {"model": model, "pattern": pattern, "adaptation": adaptation}
                row |= {"criteria": len(here), "left_out": left_out}
                row |= _gap_facts(gap, here, records)
                compared = {} if adaptation == NONE else unadapted
                rows.append(row | _left_facts(here, compared, records))
    return rows


def pair_rows(records: Records) -> list[Row]:
    """Return the differences of every two criteria that share a seed, with PAIR_COLUMNS."""
    rows = []
    for (model, pattern, adaptation), cells in _groups(records).items():
        for criterion, other in combinations(cells, 2):
            seeds = _shared_seeds([cells[criterion], cells[other]])
            if seeds:
                losses = pairing.loss_differences(cells[criterion], cells[other], seeds, records)
                row: Row = {"model": model, "pattern": pattern, "adaptation": adaptation}
                row |= {"criterion": criterion, "other": other, "seeds": len(seeds)}
                rows.append(
                    row | with_errors("loss_difference", *pairing.over_units_and_seeds(losses))
                )
    return rows


def criteria_gap(cells: Cells, records: Records) -> Gap | None:
    """Return the gap between the criteria of some cells; None unless two or more share a seed."""
    seeds = _shared_seeds(cells.values())
    if len(cells) < 2 or not seeds:
        return None
    losses = {
        criterion: fmean(fmean(pairing.paired_losses(of_seed[seed], records)[0]) for seed in seeds)
        for criterion, of_seed in cells.items()
    }
    ranked = sorted(losses, key=lambda name: (math.isnan(losses[name]), losses[name]))
    best, worst = ranked[0], ranked[-1]
    return Gap(
        best, worst, seeds, pairing.loss_differences(cells[worst], cells[best], seeds, records)
    )


def _left_facts(adapted: Cells, pruned: Cells, records: Records) -> Row:
    """Return the gap with an adaptation over that without, on the same windows and seeds, its
    errors and its spread: None where fewer than two criteria share a seed in both, and NaN where
    a loss is not finite, or where there was no gap.
    """
    after = criteria_gap(_also_in(pruned, adapted), records)
    before = criteria_gap(_also_in(adapted, pruned), records)
    if after is None or before is None:
        return dict.fromkeys((*LEFT_COLUMNS, *_LEFT_IN_WORDS))
    left, error, spread = pairing.share_of(after.losses, before.losses)
    seeds = len(after.seeds)
    return with_errors("gap_left", left, error, spread) | {
        "gap_left_seeds": seeds,
        "gap_left_error": pairing.total_error(error, spread, seeds),
    }


def _groups(records: Records) -> dict[tuple[str, str, str], dict[str, dict[int, Cell]]]:
    """Return the pruned cells by model, pattern and adaptation, pattern by pattern."""
    patterns: dict[tuple[str, str], dict[str, dict[str, dict[int, Cell]]]] = {}
    for cells in pairing.seed_groups(records):
        one = cells[0]
        if one.is_pruned:
            of_pattern = patterns.setdefault((one.model, one.pattern), {})
            of_adaptation = of_pattern.setdefault(one.adaptation, {})
            of_adaptation[one.criterion] = {cell.seed: cell for cell in cells}
    return {
        (*pattern, adaptation): cells
        for pattern, of_pattern in patterns.items()
        for adaptation, cells in of_pattern.items()
    }


def _gap_facts(gap: Gap, cells: Cells, records: Records) -> Row:
    facts: Row = {"seeds": len(gap.seeds), "best": gap.best, "worst": gap.worst}
    for which, criterion in (("best", gap.best), ("worst", gap.worst)):
        of_seeds = [cells[criterion][seed] for seed in gap.seeds]
        value, error, _ = pairing.perplexity_over_seeds(of_seeds, records)
        facts |= with_errors(f"perplexity_{which}", value, error)
    windows = pairing.window_means(gap.losses)
    ratio = pairing.exp(fmean(windows))
    facts |= with_errors("worst_over_best", ratio, ratio * pairing.standard_error(windows))
    return facts | with_errors("loss_gap", *pairing.over_units_and_seeds(gap.losses))


def _shared_seeds(criteria: Iterable[Mapping[int, Cell]]) -> list[int]:
    sets = [set(of_seed) for of_seed in criteria]
    return sorted(set.intersection(*sets)) if sets else []


def _also_in(others: Cells, cells: Cells) -> Cells:
    kept = {
        criterion: {
            seed: cell for seed, cell in of_seed.items() if seed in others.get(criterion, {})
        }
        for criterion, of_seed in cells.items()
    }
    return {criterion: of_seed for criterion, of_seed in kept.items() if of_seed}
