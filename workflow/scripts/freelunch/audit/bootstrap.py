"""The uncertainty of a statistic of mean losses: windows (or documents) and seeds drawn anew.

All cells of a model are measured on the same windows, so all of them are drawn together: the
interval of a difference is far narrower than those of what is subtracted. Where there are several
seeds, they are drawn anew as well (a bootstrap of two levels).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
# Of the draws, this share lies within the interval.
WITHIN = 0.95

Means = Mapping[str, float]
Statistic = Callable[[Means], float]


@dataclass(frozen=True)
class Sample:
    """What was measured on the cells of one model that a statistic compares.

    Attributes:
        names: What the compared are called.
        strata: Of each part of what was measured (the windows of a text; the documents of a task),
            the losses, (names, seeds, units). The mean is the plain mean over strata.
    """

    names: Sequence[str]
    strata: Sequence[NDArray[np.float64]]

    @property
    def seeds(self) -> int:
        """Return how many there are."""
        return int(self.strata[0].shape[1])

    def means(self) -> dict[str, float]:
        """Return the mean loss of each."""
        return self._named(np.mean([losses.mean((1, 2)) for losses in self.strata], axis=0))

    def of_seed(self, seed: int) -> dict[str, float]:
        """Return the mean loss of each, of one seed by its place."""
        return self._named(np.mean([part[:, seed].mean(1) for part in self.strata], axis=0))

    def drawn(self, generator: np.random.Generator) -> list[dict[str, float]]:
        """Return the mean losses of each of DRAWS draws."""
        seeds = generator.multinomial(self.seeds, [1 / self.seeds] * self.seeds, DRAWS)
        total = np.zeros((DRAWS, len(self.names)))
        for losses in self.strata:
            units = losses.shape[2]
            counts = generator.multinomial(units, [1 / units] * units, DRAWS)
            of_seeds = np.einsum("nsu,du->dns", losses, counts / units)
            total += np.einsum("dns,ds->dn", of_seeds, seeds / self.seeds)
        return [self._named(means) for means in total / len(self.strata)]

    def _named(self, means: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.names, means.tolist(), strict=True))


@dataclass(frozen=True)
class Estimate:
    """A statistic with its uncertainty.

    Attributes:
        value: Of all windows and seeds.
        low, high: WITHIN of the draws lie between them.
        of_seeds: Of each seed alone; empty where there is one.
    """

    value: float
    low: float
    high: float
    of_seeds: tuple[float, ...]


def estimate(statistic: Statistic, samples: Sequence[Sample]) -> Estimate:
    """Return a statistic of mean losses and its interval.

    A loss that is not finite makes them NaN.

    Args:
        statistic: From the mean losses of all samples, by name, to a number.
        samples: Of one model each, whose windows are drawn together; names differ.
    """

    def over(parts: Sequence[Means]) -> float:
        means = {name: mean for part in parts for name, mean in part.items()}
        return statistic(means) if all(map(math.isfinite, means.values())) else math.nan

    generator = np.random.default_rng(0)
    draws = zip(*(sample.drawn(generator) for sample in samples), strict=True)
    # Infinity is a number here: a budget that is never reached.
    values = np.sort([over(draw) for draw in draws])
    cut = int((1 - WITHIN) / 2 * DRAWS)
    seeds = {sample.seeds for sample in samples}
    of_seeds: tuple[float, ...] = ()
    if seeds != {1} and len(seeds) == 1:
        places = range(seeds.pop())
        of_seeds = tuple(over([sample.of_seed(at) for sample in samples]) for at in places)
    value = over([sample.means() for sample in samples])
    if np.isnan(values).any():
        return Estimate(value, math.nan, math.nan, of_seeds)
    return Estimate(value, float(values[cut]), float(values[-1 - cut]), of_seeds)
