"""How small a difference between two adaptations a study's text can show."""

from itertools import combinations
from statistics import median

import numpy as np

from freelunch.analysis.intervals import half_width
from freelunch.analysis.pairing import Records, by_adaptation, paired_losses, pruned_models


def told_apart(records: Records, neighbours: bool) -> float | None:
    """Return the difference of mean losses, in nats per token, at which the 95 % interval of half
    of all pairs of adaptations excludes zero; None if nothing can be compared.

    A pair are two adaptations of one pruned model with one seed, the unadapted model included, so
    that what the two share drops out. The interval does not cover variation over seeds.

    Args:
        records: The record of each cell.
        neighbours: Whether the units follow each other in a text.
    """
    widths = []
    for cells in pruned_models(records):
        for one, other in combinations(by_adaptation(cells).values(), 2):
            for seed in sorted({*one} & {*other}):
                first, second = (
                    np.array(paired_losses(each[seed], records)[0]) for each in (one, other)
                )
                widths.append(half_width(first - second, neighbours))
    finite = [width for width in widths if np.isfinite(width)]
    return median(finite) if finite else None
