"""Compare retraining with reconstruction by their budgets: the first result of the paper.

The adaptations of one pruned model that differ only in their budget form a series. Each retraining
series is compared with one reconstruction, the reference (`Comparisons.references`). Its loss is
interpolated linearly in the logarithm of the budget. The budget at which it comes down to the
reconstruction's loss, divided by the reconstruction's own budget, is the series' reach.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from freelunch.analysis import pairing
from freelunch.analysis.pairing import ENOUGH_SEEDS, Records, Row, error_columns, with_errors
from freelunch.records.record import adaptation_facts
from freelunch.study.adaptations import Adaptation
from freelunch.study.cell import NONE, Cell
from freelunch.study.search import chosen_of
from freelunch.study.steps import SEARCH
from freelunch.study.study import Study

# Planning reads the columns of this module, and must not wait for numpy and scipy.
if TYPE_CHECKING:
    from freelunch.analysis.intervals import Means, Numbers

BUDGET_COLUMNS = (
    *("model", "criterion", "pattern", "adaptation", "seeds"),
    *("series", "method", "loss", "reference", "learning_rate", "epochs", "selected_on"),
    *("tokens", "distinct_tokens", "steps", "trained_parameters"),
    *("flops", "wall_s", "cpu_s", "peak_bytes", "search_flops"),
    *error_columns("perplexity"),
    *error_columns("loss_minus_reference")[:2],
    "perplexity_error_beside_reference",
    *("perplexity_pruned", "perplexity_dense"),
)
# The units of a budget: all tokens seen, the distinct ones among them (the data), operations.
DISTINCT_TOKENS = "distinct_tokens"
UNITS = ("tokens", DISTINCT_TOKENS, "flops")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Run:
    """An adaptation of a pruned model with one seed: the mean loss of each window of text, in nats
    per token; the tokens seen, counting repeats, and those that were seen at least once; and the
    operations, including those of the dense pass that made the targets.
    """

    cell: Cell
    losses: Sequence[float]
    tokens: float
    distinct_tokens: float
    flops: float


@dataclass(frozen=True)
class Adapted:
    """An adaptation of a pruned model, with a run for each of its seeds, in their order; the
    members of its series differ only in their budget.
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

    def amount(self, unit: str) -> float:
        """Return the mean over seeds of its budget in one of UNITS."""
        return fmean(getattr(run, unit) for run in self.runs)

    @property
    def repeats(self) -> int:
        """Return how often it saw its text, of which draws may overlap in part."""
        return int(self.amount("tokens") / self.amount(DISTINCT_TOKENS) + 0.05)

    def with_seeds(self, seeds: Collection[int]) -> "Adapted":
        """Return the adaptation with some of its seeds."""
        return replace(self, runs=[run for run in self.runs if run.cell.seed in seeds])


# Ways of retraining, each with its budgets, by the names of their series.
Ways = Mapping[str, Sequence[Adapted]]


@dataclass(frozen=True)
class BudgetComparison:
    """The reconstructions and retrainings of one pruned model, which may have different seeds: its
    cells without adaptation, by seed; the reconstruction that retraining is compared with; each
    series by its name, its members sorted by the tokens they see; and the same without members
    whose settings were chosen on the evaluation text, unless all were, and of reconstructions that
    saw the same text equally often, only the first (`curves`).
    """

    unadapted: Mapping[int, Cell]
    reference: Adapted
    series: Ways
    curves: Ways


def budget_comparisons(
    records: Records, study: Study, inputs: str | None = None
) -> list[BudgetComparison]:
    """Return a comparison for each pruned model that was both reconstructed, on these inputs if
    given, and retrained: all retrainings, and the reconstructions in the series of the reference,
    with those of their seeds that the unadapted model has. What shares no seed with the reference
    is left out.
    """
    comparisons = []
    series, entries = study.comparisons.series, study.config.adaptations
    for cells in pairing.pruned_models(records):
        by_name = pairing.by_adaptation(cells)
        unadapted = by_name.pop(NONE, {})
        local = [
            name
            for name in study.comparisons.references
            if name in by_name and inputs in (None, entries[name].as_json()["inputs"])
        ]
        retrained = [name for name in by_name if name in study.comparisons.retrainings]
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
        favoured = study.comparisons.selected_on_evaluation
        for name, of_series in members.items():
            on_curve = [each for each in of_series if each.name not in favoured] or of_series
            if name == series[reference]:
                sequences = study.comparisons.sequences
                # The reference comes first, and of equal ones, the first stays.
                first = {(sequences[each.name], each.repeats): each for each in on_curve[::-1]}
                on_curve = list(first.values())
            of_series.sort(key=lambda each: each.amount("tokens"))
            curves[name] = [each for each in of_series if each in on_curve]
        comparisons.append(BudgetComparison(unadapted, adapted[reference], members, curves))
    return comparisons


def on_shared_seeds(
    reference: Adapted, ways: Ways, beside: Ways, enough: int = ENOUGH_SEEDS
) -> tuple[Adapted, Ways] | None:
    """Return a reconstruction and ways of retraining, each with its budgets, with the seeds on
    which they are compared; None if there is no seed with which the reconstruction and every way
    were run. Ways `beside` them count where they were run with these seeds.

    Every way has a budget with these seeds; budgets that lack one of them are left out. Large
    budgets often have fewer seeds than small ones. So there are `enough` of them if that is
    possible. Then they leave out the fewest budgets, then they are the most, then the lowest.
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
            len(seeds) >= enough,
            sum(seeds <= each.seeds for each in budgets),
            len(seeds),
            sorted(-seed for seed in seeds),
        ),
    )
    compared = {
        name: [each.with_seeds(chosen) for each in way if chosen <= each.seeds]
        for name, way in {**ways, **beside}.items()
    }
    return reference.with_seeds(chosen), {name: way for name, way in compared.items() if way}


def budget_rows(records: Records, study: Study) -> list[Row]:
    """Return a row, with BUDGET_COLUMNS, for each member of each series of each comparison, over
    the seeds that the member shares with the reference.
    """
    return [
        _row(each, comparison, records)
        for comparison in budget_comparisons(records, study)
        for members in comparison.series.values()
        for each in members
    ]


def _run(cell: Cell, settings: Adaptation, records: Records) -> Run:
    cost = records[cell]["cost"][settings.rule]
    distinct_tokens = adaptation_facts(records[cell])["distinct_tokens"]
    losses, _ = pairing.paired_losses(cell, records)
    return Run(cell, losses, cost["tokens"], distinct_tokens, pairing.operations(cost))


def _row(adapted: Adapted, comparison: BudgetComparison, records: Records) -> Row:
    adapted = adapted.with_seeds(comparison.reference.seeds)
    reference = comparison.reference.with_seeds(adapted.seeds)
    cells, settings = adapted.cells, adapted.settings
    facts, written = [adaptation_facts(records[cell]) for cell in cells], settings.as_json()
    chosen = [chosen_of(each["choice"], written) for each in facts]
    costs = [records[cell]["cost"][settings.rule] for cell in cells]
    searches = [records[cell]["cost"].get(SEARCH, {"flops": 0})["flops"] for cell in cells]
    perplexity = pairing.perplexity_over_seeds(cells, records)
    unadapted = [comparison.unadapted[cell.seed] for cell in cells]
    windows = (pairing.window_means(each.losses) for each in (adapted, reference))
    difference, error = pairing.paired_difference(*windows)
    return {
        **{key: getattr(cells[0], key) for key in BUDGET_COLUMNS[:4]},
        "seeds": len(cells),
        "series": adapted.series,
        "method": settings.method,
        "loss": written["loss"],
        "reference": reference.name,
        "learning_rate": _shared(each["learning_rate"] for each in chosen),
        "epochs": _shared(each["epochs"] for each in chosen),
        "selected_on": _shared(map(pairing.selected_on, facts)),
        "tokens": adapted.amount("tokens"),
        "distinct_tokens": adapted.amount("distinct_tokens"),
        "steps": _shared(each["steps"] for each in facts),
        "trained_parameters": round(fmean(each["trained_parameters"] for each in facts)),
        "flops": adapted.amount("flops"),
        "wall_s": fmean(cost["wall_s"] for cost in costs),
        "cpu_s": fmean(cost["cpu_s"] for cost in costs),
        "peak_bytes": max(cost["peak_bytes"] for cost in costs),
        "search_flops": fmean(searches),
        **with_errors("perplexity", *perplexity),
        **with_errors("loss_minus_reference", difference, error),
        # To first order the error of a perplexity is the perplexity times the error of the loss.
        "perplexity_error_beside_reference": perplexity[0] * error,
        "perplexity_pruned": pairing.perplexity_over_seeds(unadapted, records)[0],
        "perplexity_dense": pairing.perplexity_over_seeds([Cell.dense(cells[0].model)], records)[0],
    }


def _shared(values: Iterable[Value]) -> Value | None:
    """Return the value that all seeds share; None where seeds differ."""
    first, *others = values
    return first if all(value == first for value in others) else None


def by_amount(amounts: Mapping[str, float]) -> dict[float, list[str]]:
    """Return adaptations by their amounts, rising: what saw more tokens, in more epochs, may have
    seen fewer distinct ones.
    """
    curve: dict[float, list[str]] = {}
    for name in sorted(amounts, key=amounts.__getitem__):
        curve.setdefault(amounts[name], []).append(name)
    return curve


def excess_on(
    curve: Mapping[float, Sequence[str]], reference: str, means: "Means"
) -> "list[Numbers]":
    """Return the mean loss at each amount minus the reference's. Of several adaptations with equal
    amounts, such as with different learning rates, the best counts.
    """
    import numpy as np

    best = (np.min([means[name] for name in names], axis=0) for names in curve.values())
    return [of_amount - means[reference] for of_amount in best]


def reached_at(amounts: Sequence[float], excess: "Sequence[Numbers]") -> "Numbers":
    """Return the first amount at which an excess loss, the finite loss at each amount minus the one
    to be reached, comes down to 0; the smallest amount if its excess is 0 or less; infinity if
    none reaches it. Between the positive, rising amounts the excess is interpolated linearly in
    their logarithm.
    """
    import numpy as np

    reached = np.full_like(excess[0], math.inf)
    # From the last amount to the first, so that the first one that reaches it stays.
    for at in range(len(amounts) - 1, 0, -1):
        before, after = excess[at - 1], excess[at]
        crosses = (before > 0) & (after <= 0)
        share = np.divide(before, before - after, out=np.zeros_like(reached), where=crosses)
        low, high = math.log(amounts[at - 1]), math.log(amounts[at])
        reached = np.where(after <= 0, np.exp(low + share * (high - low)), reached)
    return np.where(excess[0] <= 0, amounts[0], reached)
