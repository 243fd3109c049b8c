"""The measure of the budget at which retraining reaches the reconstruction."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from freelunch.analysis.budget_effect import (
    UNITS,
    Adapted,
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
)
from freelunch.reporting.formatting import significant
from freelunch.study.cell import pruned_model
from freelunch.study.methods import METHODS

# The adaptations of one way of retraining by their budgets, rising.
Curve = Mapping[float, Sequence[str]]


def budget_ratio(evidence: Evidence, settings: Settings) -> Asked:
    """The smallest budget, in `unit`, with which any way of retraining on text reaches a
    reconstruction, divided by the reconstruction's own budget, for each budget that the
    reconstruction was run with. All are compared on the same seeds: on three or more, if every way
    has a budget with these. Budgets that lack one of them do not count. All `methods` have to be in
    the study, and no others count. The loss is interpolated linearly in the logarithm of the budget
    between budgets that are at most `apart` times apart; budgets beyond a larger step do not count.
    A number that is no larger than the smallest budget of every way is "at most" that budget.
    Beyond the largest budget that all ways were run with, the number is only known to be more than
    that, and at most that of the way that reaches the reconstruction, if one does. Where no way
    does, the number counts only if each way was also run with no more than the reconstruction's
    budget and a larger budget did not make it worse; otherwise a smaller budget may suffice. Of
    equal budgets of a way, such as with different learning rates, the best counts. What diverged
    reaches nothing and does not count as run.
    """
    for comparison in evidence.comparisons:
        against = f"{pruned_model(comparison.reference.cells[0])}, retraining against"
        ways = {
            series: members
            for series, members in comparison.curves.items()
            if members[0].settings.method in settings["methods"] and not members[0].settings.distils
        }
        finite = {
            series: [each for each in way if not evidence.diverged(each.cells, settings["metric"])]
            for series, way in ways.items()
        }
        methods = {members[0].settings.method for members in ways.values()}
        missing = [name for name in settings["methods"] if name not in methods]
        if lacking := missing or [series for series, way in finite.items() if not way]:
            why = "was not run" if missing else "diverged"
            reason = f"retraining that {why}: {', '.join(lacking)}"
            yield Absent(f"{against} {comparison.reference.name}", reason)
            continue
        for reconstruction in comparison.curves[comparison.reference.series]:
            compared = on_shared_seeds(reconstruction, finite)
            if compared is None:
                names = ", ".join([reconstruction.name, *ways])
                subject = f"{against} {reconstruction.name}"
                yield Absent(subject, f"no seed was run with all of {names}")
                continue
            found = _ratio(evidence, settings, *compared)
            yield found
            if isinstance(found, Absent):
                # The metric was not measured: it would be absent beside other references, too.
                break


def _ratio(
    evidence: Evidence,
    settings: Settings,
    reference: Adapted,
    ways: Mapping[str, Sequence[Adapted]],
) -> Measurement | Absent:
    """Return the budget with which one of some ways of retraining reaches a reconstruction."""
    own = reference.amount(settings["unit"])
    curves = [
        _without_gaps(
            {each.name: each.amount(settings["unit"]) / own for each in way}, settings["apart"]
        )
        for way in ways.values()
    ]
    used = sorted({name for curve in curves for names in curve.values() for name in names})
    cells = {each.name: each.cells for way in ways.values() for each in way}
    least, most = max(map(min, curves)), min(map(max, curves))
    ends = dict.fromkeys(significant(end) for end in (min(map(min, curves)), most))
    subject = f"{pruned_model(reference.cells[0])}, {', '.join(ways)}"
    return ask(
        evidence,
        settings,
        f"{subject}, {' to '.join(ends)} times the reconstruction's budget",
        [partial(_reached, curve, reference.name) for curve in curves],
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


def _reached(curve: Curve, reference: str, means: Means) -> Numbers:
    """Return the budget with which a way of retraining reaches the reconstruction.

    It is infinite where no budget that was run does, NaN where a smaller one may.
    """
    budgets, excess = list(curve), excess_on(curve, reference, means)
    reached = reached_at(budgets, excess)
    made_worse = len(excess) > 1 and excess[-1] > excess[-2]
    return np.where(np.isinf(reached) & ((budgets[0] > 1) | made_worse), np.nan, reached)


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
        agree=True,
    ),
)
