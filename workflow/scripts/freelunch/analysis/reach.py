"""Find the budget at which a retraining reaches a reconstruction.

The loss of a retraining series is interpolated linearly in the logarithm of the budget. The budget
at which it comes down to the reconstruction's loss, divided by the reconstruction's own budget, is
the series' reach. Its interval is that of `analysis.intervals`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from freelunch.analysis.budget_effect import Adapted, budget_comparisons, on_shared_seeds
from freelunch.analysis.pairing import Records, Row
from freelunch.study.steps import JOINED
from freelunch.study.study import Study

if TYPE_CHECKING:
    from freelunch.analysis.intervals import Means, Numbers

REACH_COLUMNS = (
    *("model", "criterion", "pattern", "series", "reference", "budgets", "seeds", "unit"),
    *("smallest_over_reference", "largest_over_reference"),
    *("reached_at_over_reference", "reached_at_low", "reached_at_high"),
)
# The units of a budget: all tokens seen, the distinct ones among them (the data), operations.
UNITS = ("tokens", "distinct_tokens", "flops")


def reach_rows(records: Records, study: Study) -> list[Row]:
    """Return a row, with REACH_COLUMNS, for each retraining series and unit.

    The seeds and budgets of a series are those of `on_shared_seeds`, whatever other series have.
    `reached_at_over_reference` is infinite where none of them reaches the reconstruction, and NaN
    where the reconstruction diverged.
    """
    neighbours = study.perplexity.cut == JOINED
    rows = []
    for comparison in budget_comparisons(records, study):
        for name, of_series in comparison.curves.items():
            if name == comparison.reference.series:
                continue
            compared = on_shared_seeds(comparison.reference, {name: of_series})
            # All members of a comparison share a seed with the reference.
            assert compared is not None
            reference, ways = compared
            rows += [_reach(name, ways[name], reference, unit, neighbours) for unit in UNITS]
    return rows


def _reach(
    name: str, members: Sequence[Adapted], reference: Adapted, unit: str, neighbours: bool
) -> Row:
    # Planning reads the columns of this module, and must not wait for numpy and scipy.
    import numpy as np

    from freelunch.analysis.intervals import Sample, estimate

    amounts = {each.name: getattr(each, unit) / getattr(reference, unit) for each in members}
    # An adaptation that diverged reaches nothing.
    finite = [each for each in members if each.finite]
    curve = by_amount({each.name: amounts[each.name] for each in finite})

    def crossing(means: "Means") -> "Numbers":
        if not curve:
            return np.full_like(means[reference.name], math.inf)
        return reached_at(list(curve), excess_on(curve, reference.name, means))

    compared = [reference, *finite]
    losses = np.array([each.losses for each in compared])
    sample = Sample([each.name for each in compared], [losses], neighbours)
    reached = estimate([crossing], [sample])
    return {
        **{key: getattr(reference.cells[0], key) for key in REACH_COLUMNS[:3]},
        "series": name,
        "reference": reference.name,
        "budgets": len(members),
        "seeds": len(members[0].cells),
        "unit": unit,
        "smallest_over_reference": min(amounts.values()),
        "largest_over_reference": max(amounts.values()),
        "reached_at_over_reference": reached.value,
        "reached_at_low": reached.low,
        "reached_at_high": reached.high,
    }


def by_amount(amounts: Mapping[str, float]) -> dict[float, list[str]]:
    """Return adaptations by their amounts, rising.

    What saw more tokens, in more epochs, may have seen fewer distinct ones: the order of a series
    is not that of each unit.
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
    """Return the first amount at which an excess loss comes down to 0.

    Between the given amounts the excess is interpolated linearly in the logarithm of the amount.

    Args:
        amounts: Positive, in rising order; at least one.
        excess: Loss at each amount minus the loss to be reached; finite.

    Returns:
        The smallest amount if its excess is already 0 or less; infinity if none is.
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
