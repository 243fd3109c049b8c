"""Intervals of statistics of mean losses, against the standard error and what they have to be."""

import math
import random
import statistics

import numpy as np
import pytest

from freelunch.audit.bootstrap import Means, Sample, estimate

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


def test_seeds_are_drawn_too() -> None:
    seeds = [losses(mean, 0.001, str(mean)) for mean in (1.0, 2.0, 3.0)]
    found = estimate(lambda means: means["a"], [sample(a=seeds)])
    assert found.value == pytest.approx(2.0, abs=1e-3)
    assert found.of_seeds == pytest.approx((1.0, 2.0, 3.0), abs=1e-3)
    # Of three draws of three with replacement one in 27 is the same lowest one.
    assert found.low == pytest.approx(1.0, abs=1e-2)
    assert found.high == pytest.approx(3.0, abs=1e-2)


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
