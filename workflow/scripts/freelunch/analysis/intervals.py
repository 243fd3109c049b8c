"""The uncertainty of a statistic of mean losses: over windows (or documents), and over seeds.

What cells measured on the same windows share drops out of their differences. Mean losses are drawn
jointly from a multivariate Student's t distribution around those that were measured, and the
statistic is computed for each draw. For a difference of mean losses, the quantiles of the draws are
its t interval; a ratio, or the budget at which a curve reaches a level, gets an interval in the
same way. (Percentiles of resampled windows would be too narrow: with four windows, a 95 % interval
contains the truth in 80 % of studies.)

Windows that follow each other in a text are not independent. The variance of their mean is
estimated from slow variation along the text alone, its k lowest cosine components, and the
distribution has k degrees of freedom (Lazarus, Lewis, Stock and Watson, HAR Inference:
Recommendations for Practice, 2018). Of n windows, k is the square root of n, and at most n / 6.
With independent units, k is n - 1, and the interval is the usual one.

With several seeds, the spread over seeds is drawn as well; held-out text is drawn anew with each
seed, so that this spread contains its own. With one seed, the interval does not cover the variation
over seeds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.special import stdtrit

from freelunch.analysis import pairing

DRAWS = 20_000
# The probability that an interval contains the number.
WITHIN = 0.95
Numbers = NDArray[np.float64]
# Mean losses by name: one number each, or one for each draw.
Means = Mapping[str, Numbers]
Statistic = Callable[[Means], Numbers]
Combination = Callable[[Numbers, Numbers], Numbers]
# The differences of two numbers with every sign, from which `size_difference` chooses.
SIGNED_DIFFERENCES: Sequence[Combination] = (
    lambda one, other: one - other,
    lambda one, other: one + other,
    lambda one, other: -one - other,
    lambda one, other: -one + other,
)
# Returns the number that counts, from several: `min`, `max` or `size_difference`.
Pick = Callable[[Sequence[float]], float]


def components(values: Numbers, neighbours: bool) -> Numbers:
    """Return components of the variation of units, (..., components), each with the variance of one
    unit, from values of (..., units); one that is NaN where there are too few units.

    If the units are neighbours, that is, follow each other in a text, only slow variation counts.
    Fewer components depend less on correlation between neighbours, and make wider intervals; a test
    simulates what the intervals cover if the correlation is 0.45, as that of our dense losses.
    """
    units = values.shape[-1]
    count = min(math.isqrt(units), units // 6) if neighbours else units - 1
    if count == 0:
        return np.full((*values.shape[:-1], 1), np.nan)
    return np.asarray(dct(values, norm="ortho"))[..., 1 : 1 + count]


def half_width(values: Numbers, neighbours: bool) -> float:
    """Return half of the t interval of the mean of values, (units,); NaN if there are too few."""
    moves = components(values, neighbours)
    error = math.sqrt(float((moves**2).mean()) / len(values))
    return float(stdtrit(len(moves), (1 + WITHIN) / 2)) * error


def told_apart(records: pairing.Records, neighbours: bool) -> float | None:
    """Return the difference of mean losses, in nats per token, at which the 95 % interval of half
    of all pairs of adaptations of one pruned model with one seed, the unadapted model included,
    excludes zero; None if nothing can be compared. It does not cover variation over seeds.
    """
    widths = []
    for cells in pairing.pruned_models(records):
        for one, other in combinations(pairing.by_adaptation(cells).values(), 2):
            for differences in pairing.loss_differences(
                one, other, sorted({*one} & {*other}), records
            ):
                widths.append(half_width(np.array(differences), neighbours))
    finite = [width for width in widths if np.isfinite(width)]
    return median(finite) if finite else None


@dataclass(frozen=True)
class Sample:
    """The losses of the cells of one model that a statistic compares, (names, seeds, units), of
    each part of the measurement (`strata`). The units are the windows of a text, or the
    documents of each task. The mean is the plain mean over strata. Units may be `neighbours`
    that follow each other in a text. If `nested`, each seed has units of its own, rather than
    the units of all others.
    """

    names: Sequence[str]
    strata: Sequence[Numbers]
    neighbours: bool = False
    nested: bool = False

    @property
    def seeds(self) -> int:
        """Return the number of seeds."""
        return int(self.strata[0].shape[1])

    def means(self) -> Means:
        """Return the mean loss of each name."""
        return self._named(self._of_seeds().mean(1))

    def of_seed(self, seed: int) -> Means:
        """Return the mean loss of each name with one seed, given by its place."""
        return self._named(self._of_seeds()[:, seed])

    def drawn(self, generator: np.random.Generator) -> Means:
        """Return DRAWS mean losses of each name."""
        of_seeds = self._of_seeds()
        total = np.repeat(of_seeds.mean(1)[:, None], DRAWS, axis=1)
        if self.seeds == 1 or not self.nested:
            for losses in self.strata:
                moves = components(losses.mean(1), self.neighbours) / np.sqrt(losses.shape[2])
                total += _errors(moves, generator) / len(self.strata)
        if self.seeds > 1:
            moves = components(of_seeds, neighbours=False) / np.sqrt(self.seeds)
            total += _errors(moves, generator)
        return self._named(total)

    def _of_seeds(self) -> Numbers:
        return np.asarray(np.mean([losses.mean(2) for losses in self.strata], axis=0))

    def _named(self, means: Numbers) -> Means:
        return dict(zip(self.names, means, strict=True))


def size_difference(signed: Sequence[float]) -> float:
    """Return |a| - |b| from the four SIGNED_DIFFERENCES of a and b; from the lower or upper ends of
    their intervals, return that of its interval.

    |a| is the larger of a and -a. So |a| - |b| is the larger of two numbers, one for each sign of
    a, and each of these is the smaller of two, one for each sign of b. (Sizes of draws would not
    do: where a or b is 0, their mean is too large, and a 95 % interval contains the truth in 85 %
    of studies.)
    """
    return max(min(signed[:2]), min(signed[2:]))


def _errors(moves: Numbers, generator: np.random.Generator) -> Numbers:
    normal = generator.standard_normal((moves.shape[1], DRAWS))
    return moves @ normal / np.sqrt(generator.chisquare(moves.shape[1], DRAWS))


@dataclass(frozen=True)
class Estimate:
    """A statistic with its uncertainty: the statistic of all windows and seeds; the ends of its
    interval, NaN if too many draws give no number, or if there are too few units; and the
    statistic of each seed, empty for a single seed and for several models.
    """

    value: float
    low: float
    high: float
    of_seeds: tuple[float, ...]


def estimate(
    statistics: Sequence[Statistic], samples: Sequence[Sample], pick: Pick = min
) -> Estimate:
    """Return a statistic of mean losses and its interval; NaN if a loss is not finite.

    If there are several statistics, `pick` says which number counts. Where it is the smallest or
    the largest, the same numbers choose it and judge it: the end of the interval that the choice
    favours is taken from an interval with a correspondingly higher probability (Bonferroni). A
    difference of sizes needs no such correction, as a test simulates.

    Args:
        statistics: Each computes a number from the mean losses of all samples, by name. A number
            that is NaN may be anything.
        samples: One sample for each model, with its own names; its windows are drawn together.
        pick: `min`, `max` or `size_difference`.
    """

    def over(parts: Sequence[Means]) -> float:
        means = {name: mean for part in parts for name, mean in part.items()}
        if not all(map(np.isfinite, means.values())):
            return np.nan
        return _picked([float(statistic(means)) for statistic in statistics], pick)

    value = over([sample.means() for sample in samples])
    if not samples:
        # The statistic does not depend on losses, so nothing is uncertain.
        return Estimate(value, value, value, ())
    of_seeds = (
        tuple(over([samples[0].of_seed(seed)]) for seed in range(samples[0].seeds))
        if len(samples) == 1 < samples[0].seeds
        else ()
    )
    if not all(np.isfinite(part).all() for sample in samples for part in sample.strata):
        return Estimate(np.nan, np.nan, np.nan, of_seeds)
    # The same random numbers for each estimate.
    generator = np.random.default_rng(0)
    means = {name: mean for sample in samples for name, mean in sample.drawn(generator).items()}
    if any(np.isnan(mean).any() for mean in means.values()):
        # Too few units. A statistic that compares means may give a number all the same.
        return Estimate(value, np.nan, np.nan, of_seeds)
    tail = (1 - WITHIN) / 2
    corrected = tail / len(statistics)
    least = corrected if pick is max else tail
    most = corrected if pick is min else tail
    draws = [statistic(means) for statistic in statistics]
    low = pick([_quantile(of, least, -np.inf) for of in draws])
    high = pick([_quantile(of, 1 - most, np.inf) for of in draws])
    if (low, high) == (-np.inf, np.inf):
        low = high = np.nan
    return Estimate(value, low, high, of_seeds)


def _picked(values: Sequence[float], pick: Pick) -> float:
    """Return the number that counts; NaN if the numbers that there are do not decide. NaN may be
    anything, and infinity is a number that is too large to be known.
    """
    if pick is size_difference:
        return np.nan if any(map(np.isnan, values)) else pick(values)
    finite = [value for value in values if np.isfinite(value)]
    return pick(finite) if finite else max(values, key=np.isnan)


def _quantile(draws: Numbers, share: float, unknown: float) -> float:
    """Return a quantile, with `unknown` in the place of each NaN."""
    known = np.where(np.isnan(draws), unknown, draws)
    return float(np.quantile(known, share, method="inverted_cdf"))
