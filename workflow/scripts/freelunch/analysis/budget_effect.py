"""Compare retraining with reconstruction by their budgets: the first result of the paper.

The adaptations of one pruned model that differ only in their budget form a series. Each
retraining series is compared with one reconstruction, the reference (`Comparisons.references`).
`analysis.reach` finds the budget at which a series reaches the reference.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TypeVar

from freelunch.analysis.pairing import (
    ENOUGH_SEEDS,
    Records,
    Row,
    by_adaptation,
    error_columns,
    operations,
    paired_difference,
    paired_losses,
    perplexity_over_seeds,
    pruned_models,
    selected_on,
    window_means,
    with_errors,
)
from freelunch.records.record import CostFacts, adaptation_facts
from freelunch.study.adaptations import Adaptation
from freelunch.study.cell import NONE, Cell
from freelunch.study.search import chosen_of
from freelunch.study.steps import SEARCH
from freelunch.study.study import Study

BUDGET_COLUMNS = (
    *("model", "criterion", "pattern", "adaptation", "seeds"),
    *("series", "method", "loss", "reference", "learning_rate", "epochs", "selected_on"),
    *("tokens", "distinct_tokens", "steps", "trained_parameters"),
    *("flops", "wall_s", "cpu_s", "peak_bytes", "search_flops"),
    *error_columns("perplexity"),
    *error_columns("loss_minus_reference")[:2],
    "perplexity_error_beside_reference",
    *("perplexity_unadapted", "perplexity_dense"),
)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Run:
    """An adaptation of a pruned model with one seed: the mean loss of each window of text, in nats
    per token, and its amounts (see `Adapted`).
    """

    cell: Cell
    losses: Sequence[float]
    tokens: float
    distinct_tokens: float
    flops: float


@dataclass(frozen=True)
class Adapted:
    """An adaptation of a pruned model with some seeds; amounts are means over them.

    Attributes:
        name: Name of the adaptation.
        series: Name of the series, whose members differ only in their budget.
        settings: Settings of the adaptation.
        runs: One for each seed, in the order of the seeds; at least one.
    """

    name: str
    series: str
    settings: Adaptation
    runs: Sequence[Run]

    @property
    def cells(self) -> list[Cell]:
        """Return the cell of each seed."""
        return [run.cell for run in self.runs]

    @property
    def seeds(self) -> frozenset[int]:
        """Return its seeds."""
        return frozenset(cell.seed for cell in self.cells)

    @property
    def losses(self) -> list[Sequence[float]]:
        """Return the mean loss of each window of text, nats per token: (seeds, windows)."""
        return [run.losses for run in self.runs]

    @property
    def mean_losses(self) -> list[float]:
        """Return the loss of each window of text, averaged over seeds."""
        return window_means(self.losses)

    @property
    def tokens(self) -> float:
        """Return the tokens seen, counting repeats."""
        return fmean(run.tokens for run in self.runs)

    @property
    def distinct_tokens(self) -> float:
        """Return the tokens of the text that were seen at least once."""
        return fmean(run.distinct_tokens for run in self.runs)

    @property
    def flops(self) -> float:
        """Return the operations, including those of the dense pass that made the targets."""
        return fmean(run.flops for run in self.runs)

    @property
    def finite(self) -> bool:
        """Return whether all losses are finite."""
        return all(math.isfinite(loss) for of_seed in self.losses for loss in of_seed)

    def with_seeds(self, seeds: Collection[int]) -> "Adapted":
        """Return the adaptation with some of its seeds."""
        return replace(self, runs=[run for run in self.runs if run.cell.seed in seeds])


@dataclass(frozen=True)
class BudgetComparison:
    """The reconstructions and retrainings of one pruned model. They may have different seeds.

    Attributes:
        unadapted: The cells of the pruned model without adaptation, by seed.
        reference: The reconstruction that retraining is compared with.
        series: Each series by its name, its members sorted by the tokens they see.
        curves: The same without members whose settings were chosen on the evaluation text, unless
            all were; of reconstructions, only one for each amount of text.
    """

    unadapted: Mapping[int, Cell]
    reference: Adapted
    series: Mapping[str, Sequence[Adapted]]
    curves: Mapping[str, Sequence[Adapted]]


def budget_comparisons(records: Records, study: Study) -> list[BudgetComparison]:
    """Return a comparison for each pruned model that was both reconstructed and retrained.

    It holds all retrainings, and the reconstructions in the series of the reference, with those of
    their seeds that the unadapted model has. What shares no seed with the reference is left out.
    """
    comparisons = []
    series, entries = study.comparisons.series, study.config.adaptations
    for cells in pruned_models(records):
        by_name = by_adaptation(cells)
        unadapted = by_name.pop(NONE, {})
        local = [name for name in study.comparisons.references if name in by_name]
        retrained = [name for name in by_name if entries[name].is_retraining]
        if not local or not retrained or not unadapted.keys() & by_name[local[0]].keys():
            continue
        reference = local[0]
        names = [name for name in local if series[name] == series[reference]] + retrained
        adapted: dict[str, Adapted] = {}
        for name in names:
            seeds = unadapted.keys() & by_name[name].keys()
            if seeds & by_name[reference].keys():
                runs = [_run(by_name[name][seed], entries[name], records) for seed in sorted(seeds)]
                adapted[name] = Adapted(name, series[name], entries[name], runs)
        members: dict[str, list[Adapted]] = {}
        curves = {}
        for each in adapted.values():
            members.setdefault(each.series, []).append(each)
        for name, of_series in members.items():
            on_curve = {each.name for each in of_series}
            if name == series[reference]:
                on_curve = {*study.comparisons.budgets_of(reference, on_curve)}
            else:
                on_curve = on_curve - {*study.comparisons.selected_on_evaluation} or on_curve
            of_series.sort(key=lambda each: each.tokens)
            curves[name] = [each for each in of_series if each.name in on_curve]
        comparisons.append(BudgetComparison(unadapted, adapted[reference], members, curves))
    return comparisons


def on_shared_seeds(
    reference: Adapted, ways: Mapping[str, Sequence[Adapted]]
) -> tuple[Adapted, dict[str, list[Adapted]]] | None:
    """Return a reconstruction and ways of retraining with the seeds on which they are compared.

    Every way has a budget with these seeds; budgets that lack one of them are left out. Large
    budgets often have fewer seeds than small ones. So there are at least ENOUGH_SEEDS if that is
    possible. Then they leave out the fewest budgets, then they are the most, then the lowest.

    Args:
        reference: The reconstruction.
        ways: The budgets of each way of retraining.

    Returns:
        None if there is no seed with which the reconstruction and every way were run.
    """
    budgets = [each for way in ways.values() for each in way]
    candidates = {reference.seeds}
    for each in budgets:
        candidates |= {seeds & each.seeds for seeds in candidates}
    shared = [
        seeds
        for seeds in candidates
        if seeds and all(any(seeds <= each.seeds for each in way) for way in ways.values())
    ]
    if not shared:
        return None
    chosen = max(
        shared,
        key=lambda seeds: (
            len(seeds) >= ENOUGH_SEEDS,
            sum(seeds <= each.seeds for each in budgets),
            len(seeds),
            sorted(-seed for seed in seeds),
        ),
    )
    compared = {
        name: [each.with_seeds(chosen) for each in way if chosen <= each.seeds]
        for name, way in ways.items()
    }
    return reference.with_seeds(chosen), compared


def budget_rows(records: Records, study: Study) -> list[Row]:
    """Return a row, with BUDGET_COLUMNS, for each member of each series of each comparison.

    A row is over the seeds that the member shares with the reference.
    """
    return [
        _row(each, comparison, records)
        for comparison in budget_comparisons(records, study)
        for members in comparison.series.values()
        for each in members
    ]


def _run(cell: Cell, settings: Adaptation, records: Records) -> Run:
    cost = _cost(cell, settings, records)
    distinct_tokens = adaptation_facts(records[cell])["distinct_tokens"]
    losses, _ = paired_losses(cell, records)
    return Run(cell, losses, cost["tokens"], distinct_tokens, operations(cost))


def _cost(cell: Cell, settings: Adaptation, records: Records) -> CostFacts:
    return records[cell]["cost"][settings.rule]


def _row(adapted: Adapted, comparison: BudgetComparison, records: Records) -> Row:
    adapted = adapted.with_seeds(comparison.reference.seeds)
    reference = comparison.reference.with_seeds(adapted.seeds)
    cells, settings = adapted.cells, adapted.settings
    facts, written = [adaptation_facts(records[cell]) for cell in cells], settings.as_json()
    chosen = [chosen_of(each["choice"], written) for each in facts]
    costs = [_cost(cell, settings, records) for cell in cells]
    searches = [records[cell]["cost"].get(SEARCH, {"flops": 0})["flops"] for cell in cells]
    perplexity = perplexity_over_seeds(cells, records)
    unadapted = [comparison.unadapted[cell.seed] for cell in cells]
    difference, error = paired_difference(adapted.mean_losses, reference.mean_losses)
    return {
        **{key: getattr(cells[0], key) for key in BUDGET_COLUMNS[:4]},
        "seeds": len(cells),
        "series": adapted.series,
        "method": settings.method,
        "loss": written["loss"],
        "reference": reference.name,
        "learning_rate": _shared(each["learning_rate"] for each in chosen),
        "epochs": _shared(each["epochs"] for each in chosen),
        "selected_on": _shared(map(selected_on, facts)),
        "tokens": adapted.tokens,
        "distinct_tokens": adapted.distinct_tokens,
        "steps": _shared(each["steps"] for each in facts),
        "trained_parameters": round(fmean(each["trained_parameters"] for each in facts)),
        "flops": adapted.flops,
        "wall_s": fmean(cost["wall_s"] for cost in costs),
        "cpu_s": fmean(cost["cpu_s"] for cost in costs),
        "peak_bytes": max(cost["peak_bytes"] for cost in costs),
        "search_flops": fmean(searches),
        **with_errors("perplexity", *perplexity),
        **with_errors("loss_minus_reference", difference, error),
        # To first order the error of a perplexity is the perplexity times the error of the loss.
        "perplexity_error_beside_reference": perplexity[0] * error,
        "perplexity_unadapted": perplexity_over_seeds(unadapted, records)[0],
        "perplexity_dense": perplexity_over_seeds([Cell.dense(cells[0].model)], records)[0],
    }


def _shared(values: Iterable[Value]) -> Value | None:
    """Return the value that all seeds share; None where seeds differ."""
    first, *others = values
    return first if all(value == first for value in others) else None
