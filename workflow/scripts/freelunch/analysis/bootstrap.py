"""The uncertainty of a statistic of mean losses: over windows (or documents), and over seeds.

Windows are resampled (bootstrap). All cells of a model are measured on the same windows, so they
are resampled together: the interval of a difference is far narrower than those of its two terms.
Seeds are too few to resample: if a model has several, a Student's t interval of the statistic over
seeds widens that of the bootstrap, in quadrature. With one seed, the interval does not cover the
variation over seeds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

DRAWS = 1000
# The share of draws within an interval.
WITHIN = 0.95

Means = Mapping[str, float]
Statistic = Callable[[Means], float]


@dataclass(frozen=True)
class Sample:
    """The losses of the cells of one model that a statistic compares.

    Attributes:
        names: Names of the compared cells.
        strata: The losses, (names, seeds, units), of each part of the measurement. The units are
            the windows of a text, or the documents of each task. The mean is the plain mean over
            strata.
    """

    names: Sequence[str]
    strata: Sequence[NDArray[np.float64]]

    @property
    def seeds(self) -> int:
        """Return the number of seeds."""
        return int(self.strata[0].shape[1])

    def means(self) -> dict[str, float]:
        """Return the mean loss of each name."""
        return self._named(np.mean([losses.mean((1, 2)) for losses in self.strata], axis=0))

    def of_seed(self, seed: int) -> dict[str, float]:
        """Return the mean loss of each name with one seed, given by its place."""
        return self._named(np.mean([part[:, seed].mean(1) for part in self.strata], axis=0))

    def drawn(self, generator: np.random.Generator) -> list[dict[str, float]]:
        """Return the mean loss of each name in each of DRAWS draws."""
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
        value: The statistic of all windows and seeds.
        low, high: The ends of its interval, which contains the share WITHIN of the draws.
        of_seeds: The statistic of each seed; empty for a single seed and for several models.
    """

    value: float
    low: float
    high: float
    of_seeds: tuple[float, ...]


def estimate(statistic: Statistic, samples: Sequence[Sample]) -> Estimate:
    """Return a statistic of mean losses and its interval.

    A loss that is not finite makes them NaN.

    Args:
        statistic: Computes the number from the mean losses of all samples, by name.
        samples: One sample for each model, with its own names; its windows are drawn together.
    """

    def over(parts: Sequence[Means]) -> float:
        means = {name: mean for part in parts for name, mean in part.items()}
        return statistic(means) if all(map(math.isfinite, means.values())) else math.nan

    if not samples:
        # The statistic does not depend on losses, so nothing is uncertain.
        value = statistic({})
        return Estimate(value, value, value, ())
    generator = np.random.default_rng(0)
    draws = zip(*(sample.drawn(generator) for sample in samples), strict=True)
    # Infinity is a number here: the budget of a series that never reaches the reconstruction.
    values = np.sort([over(draw) for draw in draws])
    cut = int((1 - WITHIN) / 2 * DRAWS)
    value = over([sample.means() for sample in samples])
    by_sample = [_of_seeds(over, samples, at) for at in range(len(samples))]
    of_seeds = tuple(by_sample[0]) if len(samples) == 1 else ()
    every = [each for of_sample in by_sample for each in of_sample]
    if np.isnan([value, *values, *every]).any():
        return Estimate(value, math.nan, math.nan, of_seeds)
    low, high = float(values[cut]), float(values[-1 - cut])
    if not all(map(math.isfinite, (low, high, *every))):
        # Infinity has no spread, so the interval spans the values of all seeds.
        return Estimate(value, min([low, *every]), max([high, *every]), of_seeds)
    error = math.hypot(
        *(
            students_t(len(each) - 1) * stdev(each) / math.sqrt(len(each))
            for each in by_sample
            if each
        )
    )
    if error:
        low = value - math.hypot(value - low, error)
        high = value + math.hypot(high - value, error)
    return Estimate(value, low, high, of_seeds)


def _of_seeds(
    over: Callable[[Sequence[Means]], float], samples: Sequence[Sample], at: int
) -> list[float]:
    """Return the statistic of each seed of one sample, with the means of the other samples.

    It is empty where the sample has only one seed.
    """
    if samples[at].seeds == 1:
        return []
    means = [sample.means() for sample in samples]
    return [
        over([*means[:at], samples[at].of_seed(seed), *means[at + 1 :]])
        for seed in range(samples[at].seeds)
    ]


def students_t(degrees: int) -> float:
    """Return the quantile of Student's t that bounds the central WITHIN of the distribution."""
    return float(stdtrit(degrees, (1 + WITHIN) / 2))
