"""Compare retraining with reconstruction by their budgets: the first result of the paper.

The adaptations of one pruned model that differ only in their budget form a series. Each
retraining series is compared with one reconstruction, the reference (`Study.references`).
`analysis.reach` finds the budget at which a series reaches the reference.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from freelunch.analysis.pairing import (
    Records,
    Row,
    by_adaptation,
    mean_over_seeds,
    measured_perplexity,
    most_shared,
    operations,
    paired_difference,
    paired_losses,
    pruned_models,
    window_means,
)
from freelunch.study.adaptations import Adaptation
from freelunch.study.cell import NONE, Cell
from freelunch.study.search import chosen_of
from freelunch.study.study import Study

BUDGET_COLUMNS = (
    *("model", "criterion", "pattern", "adaptation", "seeds"),
    *("series", "method", "loss", "reference", "learning_rate", "epochs", "selected_on"),
    *("tokens", "distinct_tokens", "steps", "trained_parameters"),
    *("flops", "wall_s", "cpu_s", "peak_bytes", "search_flops"),
    *("perplexity", "perplexity_standard_error", "perplexity_standard_deviation_over_seeds"),
    *("loss_minus_reference", "loss_minus_reference_standard_error"),
    "perplexity_error_beside_reference",
    *("perplexity_unadapted", "perplexity_dense"),
)


@dataclass(frozen=True)
class Adapted:
    """The cells of one adaptation of a pruned model.

    Attributes:
        name: Name of the adaptation.
        cells: The cells that are compared, one per seed.
        series: Name of the series, whose members differ only in their budget.
        settings: Settings of the adaptation.
        losses: Mean loss of each window of text, nats per token: (seeds, windows).
        tokens: Tokens seen, counting repeats.
        distinct_tokens: Tokens of the text that were seen at least once.
        flops: Floating-point operations, including those of the dense pass that made the targets.
    """

    name: str
    cells: Sequence[Cell]
    series: str
    settings: Adaptation
    losses: Sequence[Sequence[float]]
    tokens: float
    distinct_tokens: float
    flops: float

    @property
    def mean_losses(self) -> list[float]:
        """Return the loss of each window of text, averaged over seeds."""
        return window_means(self.losses)

    @property
    def finite(self) -> bool:
        """Return whether all losses are finite."""
        return all(math.isfinite(loss) for of_seed in self.losses for loss in of_seed)


@dataclass(frozen=True)
class BudgetComparison:
    """The reconstructions and retrainings of one pruned model.

    Attributes:
        unadapted: The cells of the pruned model without adaptation, one per seed.
        reference: The reconstruction that retraining is compared with.
        series: Each series by its name, its members sorted by the tokens they see.
        curves: The same without members whose settings were chosen on the evaluation text, unless
            all were; of reconstructions, only one for each amount of text.
    """

    unadapted: Sequence[Cell]
    reference: Adapted
    series: Mapping[str, Sequence[Adapted]]
    curves: Mapping[str, Sequence[Adapted]]


def budget_comparisons(records: Records, study: Study) -> list[BudgetComparison]:
    """Return a comparison for each pruned model that was both reconstructed and retrained.

    It holds all retrainings, and the reconstructions in the series of the reference. All of them
    share their seeds with each other and with the unadapted model; an adaptation that lacks the
    seed which most of them have is left out.
    """
    found = []
    series = study.series
    for cells in pruned_models(records):
        by_name = by_adaptation(cells)
        unadapted = by_name.pop(NONE, {})
        local = [name for name in study.references if name in by_name]
        retrained = [name for name in by_name if study.config.adaptations[name].is_retraining]
        if not local or not retrained or not unadapted.keys() & by_name[local[0]].keys():
            continue
        reference = local[0]
        names = [name for name in local if series[name] == series[reference]] + retrained
        shared = most_shared(
            unadapted.keys() & by_name[reference].keys(), [by_name[name] for name in names]
        )
        names = [name for name in names if shared in by_name[name]]
        seeds = sorted(set(unadapted).intersection(*(by_name[name] for name in names)))
        members: dict[str, list[Adapted]] = {}
        for name in names:
            settings = study.config.adaptations[name]
            compared = [by_name[name][seed] for seed in seeds]
            members.setdefault(series[name], []).append(
                _adapted(compared, series[name], settings, records)
            )
        (of_reference,) = (it for it in members[series[reference]] if it.name == reference)
        curves = {}
        for name, of_series in members.items():
            kept = {each.name for each in of_series}
            if name == series[reference]:
                kept = {*study.budgets_of(reference, kept)}
            else:
                kept = kept - {*study.selected_on_evaluation} or kept
            of_series.sort(key=lambda each: each.tokens)
            curves[name] = [each for each in of_series if each.name in kept]
        before = [unadapted[seed] for seed in seeds]
        found.append(BudgetComparison(before, of_reference, members, curves))
    return found


def budget_rows(records: Records, study: Study) -> list[Row]:
    """Return a row, with BUDGET_COLUMNS, for each member of each series of each comparison."""
    return [
        _row(each, comparison, records)
        for comparison in budget_comparisons(records, study)
        for members in comparison.series.values()
        for each in members
    ]


def _adapted(cells: Sequence[Cell], series: str, settings: Adaptation, records: Records) -> Adapted:
    costs = [_cost(cell, settings, records) for cell in cells]
    return Adapted(
        cells[0].adaptation,
        cells,
        series,
        settings,
        [paired_losses(cell, records)[0] for cell in cells],
        fmean(cost["tokens"] for cost in costs),
        fmean(records[cell]["adaptation"]["distinct_tokens"] for cell in cells),
        fmean(map(operations, costs)),
    )


def _cost(cell: Cell, settings: Adaptation, records: Records) -> Mapping[str, Any]:
    cost: Mapping[str, Any] = records[cell]["cost"][settings.rule]
    return cost


def _row(adapted: Adapted, comparison: BudgetComparison, records: Records) -> Row:
    cells, one, reference = adapted.cells, adapted.cells[0], comparison.reference
    settings, found = adapted.settings, [records[cell]["adaptation"] for cell in cells]
    written = settings.as_json()
    chosen = [chosen_of(each["choice"], written) for each in found]
    costs = [_cost(cell, settings, records) for cell in cells]
    perplexity = mean_over_seeds([measured_perplexity(records[cell]) for cell in cells])
    before = mean_over_seeds([measured_perplexity(records[it]) for it in comparison.unadapted])
    searches = [records[cell]["cost"].get("search", {}).get("flops", 0) for cell in cells]
    difference, error = paired_difference(adapted.mean_losses, reference.mean_losses)
    return {
        **{key: getattr(one, key) for key in ("model", "criterion", "pattern", "adaptation")},
        "seeds": len(cells),
        "series": adapted.series,
        "method": settings.method,
        "loss": written["loss"],
        "reference": reference.name,
        "learning_rate": _shared(each["learning_rate"] for each in chosen),
        "epochs": _shared(each["epochs"] for each in chosen),
        "selected_on": _shared((each["choice"] or {}).get("selected_on") for each in found),
        "tokens": adapted.tokens,
        "distinct_tokens": adapted.distinct_tokens,
        "steps": _shared(each["steps"] for each in found),
        "trained_parameters": round(fmean(each["trained_parameters"] for each in found)),
        "flops": adapted.flops,
        "wall_s": fmean(cost["wall_s"] for cost in costs),
        "cpu_s": fmean(cost["cpu_s"] for cost in costs),
        "peak_bytes": max(cost["peak_bytes"] for cost in costs),
        "search_flops": fmean(searches),
        "perplexity": perplexity[0],
        "perplexity_standard_error": perplexity[1],
        "perplexity_standard_deviation_over_seeds": perplexity[2],
        "loss_minus_reference": difference,
        "loss_minus_reference_standard_error": error,
        # To first order the error of a perplexity is the perplexity times the error of the loss.
        "perplexity_error_beside_reference": perplexity[0] * error,
        "perplexity_unadapted": before[0],
        "perplexity_dense": measured_perplexity(records[Cell.dense(one.model)])[0],
    }


def _shared(values: Iterable[Any]) -> Any:
    """Return the value that all seeds share; None where seeds differ."""
    found = list(values)
    return found[0] if all(value == found[0] for value in found) else None
