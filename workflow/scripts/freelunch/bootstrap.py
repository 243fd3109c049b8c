"""The uncertainty of a statistic of mean losses: over windows (or documents), and over seeds.

Windows are drawn anew (bootstrap). All cells of a model are measured on the same windows, so all of
them are drawn together: the interval of a difference is far narrower than those of what is
subtracted. Seeds are too few to be drawn: where there are several, Student's t of the statistic of
each widens the interval, in quadrature. Of one seed an interval says nothing of others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
# Of the draws, this share lies within the interval.
WITHIN = 0.95

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

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
        total = np.zeros((DRAWS, len(self.names)))
        for losses in self.strata:
            units = losses.shape[2]
            counts = generator.multinomial(units, [1 / units] * units, DRAWS)
            total += counts @ losses.mean(1).T / units
        return [self._named(means) for means in total / len(self.strata)]

    def _named(self, means: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.names, means.tolist(), strict=True))


@dataclass(frozen=True)
class Estimate:
    """A statistic with its uncertainty.

    Attributes:
        value: Of all windows and seeds.
        low, high: The interval, of WITHIN.
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

    if not samples:
        # Nothing was measured, and nothing is uncertain.
        value = statistic({})
        return Estimate(value, value, value, ())
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
    if np.isnan([value, *values, *of_seeds]).any():
        return Estimate(value, math.nan, math.nan, of_seeds)
    low, high = float(values[cut]), float(values[-1 - cut])
    if of_seeds and math.isfinite(low) and math.isfinite(high):
        if not all(map(math.isfinite, of_seeds)):
            return Estimate(value, low, math.inf, of_seeds)
        error = students_t(len(of_seeds) - 1) * stdev(of_seeds) / math.sqrt(len(of_seeds))
        low = value - math.hypot(value - low, error)
        high = value + math.hypot(high - value, error)
    return Estimate(value, low, high, of_seeds)


def students_t(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t; for more than ten degrees of freedom that of ten,
    which is too wide by at most a seventh.
    """
    return _T[min(degrees, len(_T)) - 1]
