"""What retraining takes to do as well as reconstruction: the first result of the paper.

Adaptations of one pruned model that differ in nothing but how much they see are a series. Each
retraining series is compared with a reconstruction (`Study.references`): where its loss, on a
straight line between its budgets over the logarithm of what they see, comes down to
reconstruction's, that is the budget which reaches it, with an interval (`analysis.bootstrap`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from freelunch.analysis.bootstrap import Means, Sample, estimate
from freelunch.analysis.pairing import (
    Records,
    Row,
    by_adaptation,
    mean_over_seeds,
    measured_perplexity,
    most_shared,
    paired_difference,
    paired_losses,
    pruned_models,
    window_means,
)
from freelunch.study.cell import NONE, Cell
from freelunch.study.methods import adapting_rule, is_retraining
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
REACH_COLUMNS = (
    *("model", "criterion", "pattern", "series", "reference", "budgets", "unit"),
    *("smallest_over_reference", "largest_over_reference"),
    *("reached_at_over_reference", "reached_at_low", "reached_at_high"),
)
# The currencies: tokens, those of them that are distinct, which is data, and operations.
UNITS = ("tokens", "distinct_tokens", "flops")


@dataclass(frozen=True)
class Adapted:
    """The cells of one adaptation of a pruned model.

    Attributes:
        name: The adaptation.
        cells: By seed, those that are compared.
        series: What those are called that differ in nothing but how much they see.
        settings: Its entry in the config.
        losses: Of each seed, that of each window of text.
        tokens: Seen, repetitions counted.
        distinct_tokens: Of the text that these were drawn from.
        flops: Operations, those of the dense pass included that made what it learns from.
    """

    name: str
    cells: Sequence[Cell]
    series: str
    settings: Mapping[str, Any]
    losses: Sequence[Sequence[float]]
    tokens: float
    distinct_tokens: float
    flops: float

    @property
    def mean_losses(self) -> list[float]:
        """Return the loss of each window of text, the mean over seeds."""
        return window_means(self.losses)

    @property
    def finite(self) -> bool:
        """Tell whether all losses are finite."""
        return all(math.isfinite(loss) for of_seed in self.losses for loss in of_seed)


@dataclass(frozen=True)
class Comparison:
    """A pruned model that was both reconstructed and retrained.

    Attributes:
        unadapted: Its cells that are not adapted.
        reference: The reconstruction that retraining is compared with.
        series: All that differ from each other in how much they see, by name; each by budget.
    """

    unadapted: Sequence[Cell]
    reference: Adapted
    series: Mapping[str, Sequence[Adapted]]


def comparisons(records: Records, study: Study) -> list[Comparison]:
    """Return what there is to compare: of each pruned model the retrainings, and of its
    reconstructions those that are a series with the reference.

    All by the seeds that these share with each other and with the model that is not adapted. One
    that was run by other seeds only than most is left out.
    """
    found = []
    series = study.series
    for cells in pruned_models(records):
        by_name = by_adaptation(cells)
        unadapted = by_name.pop(NONE, {})
        local = [name for name in study.references if name in by_name]
        retrained = [name for name in by_name if is_retraining(study.config["adaptations"][name])]
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
            settings = study.config["adaptations"][name]
            compared = [by_name[name][seed] for seed in seeds]
            members.setdefault(series[name], []).append(
                _adapted(compared, series[name], settings, records)
            )
        (of_reference,) = (it for it in members[series[reference]] if it.name == reference)
        for of_series in members.values():
            of_series.sort(key=lambda each: each.tokens)
        found.append(Comparison([unadapted[seed] for seed in seeds], of_reference, members))
    return found


def budget_rows(records: Records, study: Study) -> list[Row]:
    """Return a row, with BUDGET_COLUMNS, for each retraining of a model that was also reconstructed
    and of that reconstruction with every budget, by series and then by budget.
    """
    return [
        _row(each, comparison, records)
        for comparison in comparisons(records, study)
        for members in comparison.series.values()
        for each in members
    ]


def reach_rows(records: Records, study: Study) -> list[Row]:
    """Return a row, with REACH_COLUMNS, for each series and unit: which budget reaches the
    reconstruction, divided by its own. Infinity where none of those that were run does, NaN where
    the reconstruction diverged.
    """
    return [
        _reach(name, members, comparison.reference, unit)
        for comparison in comparisons(records, study)
        for name, members in comparison.series.items()
        if name != comparison.reference.series
        for unit in UNITS
    ]


def _adapted(
    cells: Sequence[Cell], series: str, settings: Mapping[str, Any], records: Records
) -> Adapted:
    costs = [_cost(cell, settings, records) for cell in cells]
    return Adapted(
        cells[0].adaptation,
        cells,
        series,
        settings,
        [paired_losses(cell, records)[0] for cell in cells],
        fmean(cost["tokens"] for cost in costs),
        fmean(records[cell]["adaptation"]["distinct_tokens"] for cell in cells),
        fmean(cost["flops"] + cost.get("dense_flops", 0) for cost in costs),
    )


def _cost(cell: Cell, settings: Mapping[str, Any], records: Records) -> Mapping[str, Any]:
    cost: Mapping[str, Any] = records[cell]["cost"][adapting_rule(settings)]
    return cost


def _row(adapted: Adapted, comparison: Comparison, records: Records) -> Row:
    cells, one, reference = adapted.cells, adapted.cells[0], comparison.reference
    settings, found = adapted.settings, [records[cell]["adaptation"] for cell in cells]
    chosen = [chosen_of(each["choice"], settings) for each in found]
    costs = [_cost(cell, settings, records) for cell in cells]
    perplexity = mean_over_seeds([measured_perplexity(records[cell]) for cell in cells])
    before = mean_over_seeds([measured_perplexity(records[it]) for it in comparison.unadapted])
    searches = [records[cell]["cost"].get("search", {}).get("flops", 0) for cell in cells]
    difference, error = paired_difference(adapted.mean_losses, reference.mean_losses)
    return {
        **{key: getattr(one, key) for key in ("model", "criterion", "pattern", "adaptation")},
        "seeds": len(cells),
        "series": adapted.series,
        "method": settings["method"],
        "loss": settings["loss"],
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
        # To first order, of a perplexity: itself times the error of the loss.
        "perplexity_error_beside_reference": perplexity[0] * error,
        "perplexity_unadapted": before[0],
        "perplexity_dense": measured_perplexity(records[Cell.dense(one.model)])[0],
    }


def _shared(values: Iterable[Any]) -> Any:
    """Return what all seeds have; None where they differ."""
    found = list(values)
    return found[0] if all(value == found[0] for value in found) else None


def _reach(name: str, members: Sequence[Adapted], reference: Adapted, unit: str) -> Row:
    amounts = {each.name: getattr(each, unit) / getattr(reference, unit) for each in members}
    # What diverged reaches nothing.
    finite = [each for each in members if each.finite]

    def crossing(means: Means) -> float:
        excess = [means[each.name] - means[reference.name] for each in finite]
        return reached_at([amounts[each.name] for each in finite], excess)

    compared = [reference, *finite]
    sample = Sample(
        [each.name for each in compared], [np.array([each.losses for each in compared])]
    )
    found = estimate(crossing, [sample])
    one = reference.cells[0]
    return {
        **{key: getattr(one, key) for key in ("model", "criterion", "pattern")},
        "series": name,
        "reference": reference.name,
        "budgets": len(members),
        "unit": unit,
        "smallest_over_reference": min(amounts.values()),
        "largest_over_reference": max(amounts.values()),
        "reached_at_over_reference": found.value,
        "reached_at_low": found.low,
        "reached_at_high": found.high,
    }


def reached_at(amounts: Sequence[float], excess: Sequence[float]) -> float:
    """Return the first amount at which an excess comes down to 0, on a straight line between those
    given over the logarithm of the amount.

    Args:
        amounts: Rising, positive.
        excess: Loss minus that which is to be reached, of each amount; finite.

    Returns:
        The smallest amount if it is reached there already; infinity if it is never reached.
    """
    if excess and excess[0] <= 0:
        return amounts[0]
    for at in range(1, len(amounts)):
        if excess[at] <= 0:
            share = excess[at - 1] / (excess[at - 1] - excess[at])
            logs = math.log(amounts[at - 1]), math.log(amounts[at])
            return math.exp(logs[0] + share * (logs[1] - logs[0]))
    return math.inf
