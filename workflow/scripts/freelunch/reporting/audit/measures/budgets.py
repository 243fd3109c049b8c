"""The measure of the budget at which retraining reaches the reconstruction."""

import math
from collections.abc import Mapping, Sequence

from freelunch.analysis.bootstrap import Means
from freelunch.analysis.reach import UNITS, reached_at
from freelunch.reporting.audit.evidence import Evidence
from freelunch.reporting.audit.measures.measure import (
    Absent,
    Asked,
    Measure,
    Settings,
    ask,
    only,
)
from freelunch.study.methods import METHODS
from freelunch.study.naming import pruned_model


def budget_ratio(evidence: Evidence, settings: Settings) -> Asked:
    """The smallest budget, in `unit`, with which any way of retraining on text reaches the
    reconstruction, divided by the reconstruction's own budget. All `methods` have to be in the
    study, and no others count. The loss is interpolated linearly in the logarithm of the budget
    between budgets that are at most `apart` times apart; budgets beyond a larger step do not count.
    A number that is no larger than the smallest budget of every way is "at most" that budget. Where
    no way reaches the reconstruction, the number is "more than" the largest budget that all ways
    were run with. That counts only if each way was also run with no more than the reconstruction's
    budget and a larger budget did not make it worse; otherwise a smaller budget may suffice.
    """
    unit, apart = settings["unit"], settings["apart"]
    for comparison in evidence.comparisons:
        reference = comparison.reference
        ways = {
            series: members
            for series, members in comparison.series.items()
            if members[0].settings.method in settings["methods"] and not members[0].settings.distils
        }
        subject = f"{pruned_model(reference.cells[0])}, {', '.join(ways)} against {reference.name}"
        there = {members[0].settings.method for members in ways.values()}
        if missing := [name for name in settings["methods"] if name not in there]:
            place = f"{pruned_model(reference.cells[0])}, retraining against {reference.name}"
            yield Absent(place, f"retraining that was not run: {', '.join(missing)}")
            continue
        amounts = {
            each.name: getattr(each, unit) / getattr(reference, unit)
            for members in ways.values()
            for each in members
        }
        of_ways = [
            _without_gaps({each.name: amounts[each.name] for each in way}, apart)
            for way in ways.values()
        ]

        def statistic(
            means: Means,
            of_ways: Sequence[Mapping[str, float]] = of_ways,
            reference: str = reference.name,
        ) -> float:
            found = [_reached(way, means, reference) for way in of_ways]
            reached = [value for value in found if math.isfinite(value)]
            return min(reached) if reached else max(found, key=math.isnan)

        used = {name for way in of_ways for name in way}
        cells = {each.name: each.cells for way in ways.values() for each in way}
        least, most = (
            pick(choose(way.values()) for way in of_ways)
            for pick, choose in ((max, min), (min, max))
        )
        yield ask(
            evidence,
            settings,
            subject,
            statistic,
            {**only(cells, sorted(used)), reference.name: reference.cells},
            (least, most),
            "in at least some draws no way reaches it, and one of them was run only with larger "
            "budgets than the reconstruction's or got worse with more: a smaller one may suffice",
        )


def _without_gaps(way: Mapping[str, float], apart: float) -> dict[str, float]:
    """Return the budgets of a way of retraining before the first step that is too large."""
    found: dict[str, float] = {}
    last = math.inf
    for name, amount in way.items():
        if found and amount > apart * last:
            break
        found[name] = last = amount
    return found


def _reached(way: Mapping[str, float], means: Means, reference: str) -> float:
    """Return the budget with which a way of retraining reaches the reconstruction.

    It is infinite where no budget that was run does, NaN where a smaller one may.
    """
    budgets, excess = list(way.values()), [means[name] - means[reference] for name in way]
    reached = reached_at(budgets, excess)
    made_worse = len(excess) > 1 and excess[-1] > excess[-2]
    unknown = math.isinf(reached) and (budgets[0] > 1 or made_worse)
    return math.nan if unknown else reached


MEASURES = (
    Measure(
        budget_ratio,
        "budget of retraining, relative to reconstruction's",
        {
            "unit": {"enum": list(UNITS)},
            "methods": {"type": "array", "minItems": 1, "items": {"enum": list(METHODS)}},
            "apart": {"type": "number", "exclusiveMinimum": 1},
        },
        unit="times",
    ),
)
