"""Intervals of statistics of mean losses, against the standard error and what they have to be."""

import math
import random
import statistics

import numpy as np
import pytest

from freelunch.analysis.bootstrap import Means, Sample, estimate, students_t

WINDOWS = 200


def losses(mean: float, spread: float, name: str, windows: int = WINDOWS) -> list[float]:
    generator = random.Random(name)
    return [generator.gauss(mean, spread) for _ in range(windows)]


def sample(**of: list[list[float]]) -> Sample:
    return Sample(list(of), [np.array(list(of.values()))])


def difference(means: Means) -> float:
    return means["a"] - means["b"]


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    a = losses(3.0, 0.5, "a")
    found = estimate(lambda means: means["a"], [sample(a=[a])])
    error = statistics.stdev(a) / math.sqrt(WINDOWS)
    assert found.value == pytest.approx(statistics.fmean(a))
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.3 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.3 * error)
    assert found.of_seeds == ()


def test_windows_of_one_model_are_drawn_together() -> None:
    """What they share drops out of a difference."""
    shared, own = losses(3.0, 1.0, "shared"), losses(0.1, 0.01, "own")
    a = [loss + more for loss, more in zip(shared, own, strict=True)]
    paired = estimate(difference, [sample(a=[a], b=[shared])])
    apart = estimate(difference, [sample(a=[a]), sample(b=[shared])])
    assert paired.value == pytest.approx(apart.value)
    error = statistics.stdev(own) / math.sqrt(WINDOWS)
    assert paired.high - paired.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert apart.high - apart.low > 50 * (paired.high - paired.low)


@pytest.mark.parametrize("levels", [(1.0, 2.0), (1.0, 2.0, 3.0), (2.0, 2.1, 1.9, 2.0)])
def test_seeds_widen_the_interval_by_students_t(levels: tuple[float, ...]) -> None:
    seeds = [losses(mean, 1e-6, str(mean)) for mean in levels]
    found = estimate(lambda means: means["a"], [sample(a=seeds)])
    assert found.of_seeds == pytest.approx(levels, abs=1e-5)
    error = students_t(len(levels) - 1) * statistics.stdev(levels) / math.sqrt(len(levels))
    assert found.value == pytest.approx(statistics.fmean(levels), abs=1e-5)
    assert found.high - found.value == pytest.approx(error, rel=1e-3)
    assert found.value - found.low == pytest.approx(error, rel=1e-3)


def test_intervals_over_seeds_hold_what_they_say() -> None:
    """Of many studies with three seeds, whose noise is as large as that over windows."""
    generator, held = np.random.default_rng(1), 0
    studies = 300
    for _ in range(studies):
        own = generator.normal(0, 1, (1, 3, 1))
        windows = generator.normal(0, np.sqrt(24), (1, 1, 24))
        noise = Sample(["a"], [own + windows])
        found = estimate(lambda means: means["a"], [noise])
        held += found.low <= 0 <= found.high
    assert 0.9 <= held / studies <= 0.995


def test_students_t() -> None:
    """Of any table of its 97.5 % quantiles."""
    for degrees, quantile in ((1, 12.706), (2, 4.303), (10, 2.228), (100, 1.984)):
        assert students_t(degrees) == pytest.approx(quantile, abs=5e-4)


def test_nothing_was_measured() -> None:
    found = estimate(lambda means: 23.7, [])
    assert (found.value, found.low, found.high) == (23.7, 23.7, 23.7)


def test_the_mean_over_strata_is_plain() -> None:
    """A task of many documents counts as much as one of few."""
    parts = [np.array([[[1.0] * 90]]), np.array([[[0.0] * 10]])]
    found = estimate(lambda means: means["a"], [Sample(["a"], parts)])
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_a_loss_that_is_not_finite_leaves_nothing_to_say() -> None:
    a = losses(3.0, 0.5, "a")
    a[3] = math.nan
    found = estimate(lambda means: math.inf, [sample(a=[a])])
    assert math.isnan(found.value) and math.isnan(found.low) and math.isnan(found.high)


def test_infinity_is_a_number() -> None:
    found = estimate(lambda means: math.inf, [sample(a=[losses(3.0, 0.5, "a")])])
    assert found.value == found.low == found.high == math.inf


def test_equal_records_give_equal_intervals() -> None:
    one, other = (
        estimate(difference, [sample(a=[losses(1, 1, "a")], b=[losses(1, 1, "b")])])
        for _ in range(2)
    )
    assert one == other


def test_each_model_brings_the_spread_of_its_own_seeds() -> None:
    """Also where another has but one."""
    shared = losses(0.0, 0.1, "windows", 8)
    levels = ([3.0, 3.5, 4.0], [3.5] * 3)
    found = []
    for level in levels:
        of_seeds = [[mean + each for each in shared] for mean in level]
        many = Sample(["a"], [np.array([of_seeds])])
        one = Sample(["b"], [np.array([[[3.0 + each for each in shared]]])])
        found.append(estimate(difference, [many, one]))
    spread, equal = found
    assert spread.value == pytest.approx(equal.value)
    error = students_t(2) * statistics.stdev(levels[0]) / math.sqrt(3)
    assert spread.low == pytest.approx(spread.value - math.hypot(equal.value - equal.low, error))
    assert spread.of_seeds == ()
