"""Measures of reconstruction beside retraining: on equal budgets, and the budget with which
retraining reaches it.

A reconstruction is compared with the best of several `methods` of retraining, for each budget that
it was run with and each kind of its inputs. The first method has to be in the study, and decides
which seeds are compared: three or more if possible. The others count where they ran with these
seeds, and no others count. They leave a pruned model, and learn from the text, or from the dense
model if `distilled`. Of equal budgets of a way, such as with different learning rates, the best
counts. What diverged does not count as run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from freelunch.analysis.budget_effect import (
    DISTINCT_TOKENS,
    UNITS,
    Adapted,
    BudgetComparison,
    Ways,
    by_amount,
    excess_on,
    on_shared_seeds,
    reached_at,
)
from freelunch.analysis.intervals import Means, Numbers
from freelunch.audit.evidence import Evidence
from freelunch.audit.measures.measure import (
    Absent,
    Asked,
    Measure,
    Measurement,
    Settings,
    ask,
    lost_beside,
)
from freelunch.reporting.formatting import significant
from freelunch.study.cell import NONE, pruned_model
from freelunch.study.methods import METHODS

# The adaptations of one way of retraining by their budgets, rising.
Curve = Mapping[float, Sequence[str]]
# Budgets that differ by at most this share are equal.
EQUAL = 0.05


def equal_budget_difference(evidence: Evidence, settings: Settings) -> Asked:
    """How much less a reconstruction lowers the loss than the best of some `methods` of retraining
    on as many tokens, seen equally often, as a share of what retraining does; below 0, it lowers
    the loss more. Budgets that the first method was not run with are not compared.
    """
    for comparison in evidence.comparisons:
        ways = _ways(evidence, comparison, settings)
        if isinstance(ways, Absent):
            yield ways
            continue
        references = comparison.curves[comparison.reference.series]
        first, others = ways
        equal = [(each, _equal_to(each, first), _equal_to(each, others)) for each in references]
        if not any(first for _, first, _ in equal):
            reason = "no retraining saw as many tokens, equally often"
            yield Absent(_against(comparison.reference), reason)
        for reference, first, others in equal:
            compared = on_shared_seeds(reference, first, others)
            if compared is None:
                yield Absent(_against(reference), _no_seed(reference, first))
            elif first:
                yield _lost(evidence, settings, comparison, *compared)


def budget_ratio(evidence: Evidence, settings: Settings) -> Asked:
    """The smallest budget, in `unit`, with which any of some `methods` of retraining reaches a
    reconstruction, divided by the reconstruction's own budget. In distinct tokens, only
    reconstructions count that saw their text several times, if the first method also did. The loss
    is interpolated linearly in the logarithm of the budget between budgets that are at most `apart`
    times apart; budgets beyond a larger step do not count. A number that is no larger than the
    smallest budget of every way is "at most" that budget. Beyond the largest budget of the first
    method, the number is only known to be more than that, and at most that of the way that reaches
    the reconstruction, if one does. Where none does, the number counts only if the first method was
    also run with no more than the reconstruction's budget and a larger budget did not make it
    worse; otherwise a smaller budget may suffice. If three seeds leave a part undecided, the seeds
    count that were run with the most budgets.
    """
    for comparison in evidence.comparisons:
        ways = _ways(evidence, comparison, settings)
        if isinstance(ways, Absent):
            yield ways
            continue
        references = comparison.curves[comparison.reference.series]
        if settings["unit"] == DISTINCT_TOKENS:
            references = [each for each in references if each.repeats > 1]
            if not references or all(each.repeats < 2 for way in ways[0].values() for each in way):
                reason = "one of the two saw no text several times"
                yield Absent(_against(comparison.reference), reason)
                continue
        for reference in references:
            compared = on_shared_seeds(reference, *ways)
            if compared is None:
                yield Absent(_against(reference), _no_seed(reference, ways[0]))
                continue
            found = _ratio(evidence, settings, *compared, first=ways[0])
            most = on_shared_seeds(reference, *ways, enough=1)
            if isinstance(found, Measurement) and most and most[0].seeds != compared[0].seeds:
                instead = _ratio(evidence, settings, *most, first=ways[0])
                found = replace(
                    found, instead=instead if isinstance(instead, Measurement) else None
                )
            yield found
            if isinstance(found, Absent):
                # The metric was not measured: it would be absent beside other references, too.
                break


def _ways(
    evidence: Evidence, comparison: BudgetComparison, settings: Settings
) -> tuple[Ways, Ways] | Absent:
    """Return the ways of retraining by the first method, and those by the others."""
    methods = settings["methods"]
    ways = {
        series: members
        for series, members in comparison.curves.items()
        if (entry := members[0].settings).method in methods
        and not entry.becomes_dense
        and entry.distils == settings["distilled"]
    }
    finite = {
        series: [each for each in way if not evidence.diverged(each.cells, settings["metric"])]
        for series, way in ways.items()
    }
    first = {name for name, way in ways.items() if way[0].settings.method == methods[0]}
    if not first:
        return Absent(_against(comparison.reference), f"{methods[0]} was not run")
    if lacking := [name for name in first if not finite[name]]:
        diverged = f"retraining that diverged: {', '.join(lacking)}"
        return Absent(_against(comparison.reference), diverged)
    others = {name: way for name, way in finite.items() if way and name not in first}
    return {name: way for name, way in finite.items() if name in first}, others


def _against(reference: Adapted) -> str:
    return f"{pruned_model(reference.cells[0])}, retraining against {reference.name}"


def _no_seed(reference: Adapted, ways: Ways) -> str:
    return f"no seed was run with all of {', '.join([reference.name, *ways])}"


def _equal_to(reference: Adapted, ways: Ways) -> Ways:
    """Return what saw as many tokens as a reconstruction, and as many distinct ones."""

    def is_equal(each: Adapted) -> bool:
        ratios = (each.amount(unit) / reference.amount(unit) for unit in UNITS[:2])
        return all(abs(ratio - 1) <= EQUAL for ratio in ratios)

    equal = {series: [each for each in way if is_equal(each)] for series, way in ways.items()}
    return {series: way for series, way in equal.items() if way}


def _lost(
    evidence: Evidence,
    settings: Settings,
    comparison: BudgetComparison,
    reference: Adapted,
    ways: Ways,
) -> Measurement | Absent:
    """Return how much less a reconstruction gains than the best of retraining."""
    used = [each for way in ways.values() for each in way]
    unadapted = [comparison.unadapted[cell.seed] for cell in reference.cells]
    return ask(
        evidence,
        settings,
        f"{pruned_model(unadapted[0])}, beside {', '.join(each.name for each in used)}",
        [lost_beside(reference.name, each.name) for each in used],
        {NONE: unadapted, **{each.name: each.cells for each in (reference, *used)}},
        about=reference.name,
        pick=max,
    )


def _ratio(
    evidence: Evidence, settings: Settings, reference: Adapted, ways: Ways, first: Ways
) -> Measurement | Absent:
    """Return the budget with which one of some ways of retraining reaches a reconstruction."""
    own = reference.amount(settings["unit"])
    curves = {
        series: _without_gaps(
            {each.name: each.amount(settings["unit"]) / own for each in way}, settings["apart"]
        )
        for series, way in ways.items()
    }
    used = sorted({name for curve in curves.values() for names in curve.values() for name in names})
    cells = {each.name: each.cells for way in ways.values() for each in way}
    # What the others were not run with says nothing: a way that is missing does not count either.
    required = [curves[series] for series in first]
    least, most = max(map(min, required)), min(map(max, required))
    ends = dict.fromkeys(significant(end) for end in (min(map(min, required)), most))
    subject = f"{pruned_model(reference.cells[0])}, {', '.join(ways)}"
    return ask(
        evidence,
        settings,
        f"{subject}, {' to '.join(ends)} times the reconstruction's budget",
        [
            partial(_reached, curve, reference.name, series in first)
            for series, curve in curves.items()
        ],
        {**{name: cells[name] for name in used}, reference.name: reference.cells},
        about=reference.name,
        bounds=(least, most),
        without="not reached",
        undefined="it may be that no way reaches it; then a budget that was not run may still "
        "suffice, as one of them was run only with larger budgets than the reconstruction's or got "
        "worse with more",
    )


def _without_gaps(amounts: Mapping[str, float], apart: float) -> Curve:
    """Return the budgets of a way of retraining before the first step that is too large."""
    found: dict[float, list[str]] = {}
    for amount, names in by_amount(amounts).items():
        if found and amount > apart * max(found):
            break
        found[amount] = names
    return found


def _reached(curve: Curve, reference: str, is_first: bool, means: Means) -> Numbers:
    """Return the budget with which a way of retraining reaches the reconstruction.

    It is infinite where no budget that was run does, NaN where a smaller one of the first method
    may.
    """
    budgets, excess = list(curve), excess_on(curve, reference, means)
    reached = reached_at(budgets, excess)
    made_worse = len(excess) > 1 and excess[-1] > excess[-2]
    unknown = is_first & ((budgets[0] > 1) | made_worse)
    return np.where(np.isinf(reached) & unknown, np.nan, reached)


METHODS_TO_BEAT: dict[str, Settings] = {
    "methods": {"type": "array", "minItems": 1, "items": {"enum": list(METHODS)}},
    "distilled": {"type": "boolean"},
}
MEASURES = (
    Measure(
        equal_budget_difference,
        "improvement lost, as a share of retraining's",
        METHODS_TO_BEAT,
        agree=True,
    ),
    Measure(
        budget_ratio,
        "budget of retraining, relative to reconstruction's",
        {
            **METHODS_TO_BEAT,
            "unit": {"enum": list(UNITS)},
            "apart": {"type": "number", "exclusiveMinimum": 1},
        },
        unit="times",
        agree=True,
    ),
)
