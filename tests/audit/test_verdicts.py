"""Verdicts: how they follow from a number and its interval, and from each other."""

import math

import pytest

from freelunch.analysis.intervals import Estimate
from freelunch.audit.verdicts import (
    ADDS,
    BESIDE,
    COUNTS,
    DECIDES,
    FAILS,
    HOLDS,
    IN_PART,
    UNBOUNDED,
    UNDECIDED,
    UNTESTED,
    Threshold,
    bearing,
    judge,
    of_claim,
    of_few_seeds,
    on_models,
    together,
)

ONCE = of_few_seeds(HOLDS)


@pytest.mark.parametrize(
    ("low", "high", "threshold", "bounds", "expected"),
    [
        (10.1, 12, ("above", 10), UNBOUNDED, HOLDS),
        (10, 12, ("above", 10), UNBOUNDED, UNDECIDED),
        (9.9, 12, ("above", 10), UNBOUNDED, UNDECIDED),
        (8, 10, ("above", 10), UNBOUNDED, FAILS),
        (8, 9.9, ("above", 10), UNBOUNDED, FAILS),
        (math.inf, math.inf, ("above", 10), UNBOUNDED, HOLDS),
        (0.05, 0.09, ("below", 0.1), UNBOUNDED, HOLDS),
        (0.05, 0.1, ("below", 0.1), UNBOUNDED, UNDECIDED),
        (0.1, 0.2, ("below", 0.1), UNBOUNDED, FAILS),
        (math.nan, math.nan, ("below", 0.1), UNBOUNDED, UNDECIDED),
        # Equivalence is found on both sides or not at all.
        (-0.09, 0.09, ("within", 0.1), UNBOUNDED, HOLDS),
        (-0.059, 0.101, ("within", 0.1), UNBOUNDED, UNDECIDED),
        (-0.118, 0.059, ("within", 0.1), UNBOUNDED, UNDECIDED),
        (-0.2, -0.1, ("within", 0.1), UNBOUNDED, FAILS),
        (0.1, 0.2, ("within", 0.1), UNBOUNDED, FAILS),
        # What lies beyond the bounds is not known. Reached by the smallest budget of 2: perhaps by
        # less.
        (2, 2, ("above", 5), (2, 6), FAILS),
        (2, 5.5, ("above", 5), (2, 6), UNDECIDED),
        (2, 5.5, ("above", 1), (2, 6), UNDECIDED),
        # Not reached by the largest budget of 6: perhaps by 7, perhaps by 70.
        (math.inf, math.inf, ("above", 5), (2, 6), HOLDS),
        (5.5, math.inf, ("above", 5), (2, 6), HOLDS),
        (3, math.inf, ("above", 5), (2, 6), UNDECIDED),
        (0.5, math.inf, ("above", 5), (2, 6), UNDECIDED),
        # More than the largest budget is more than it.
        (math.inf, math.inf, ("above", 10), (1, 10), HOLDS),
        (math.inf, math.inf, ("above", 10), (1, 9.9), UNDECIDED),
    ],
)
def test_a_verdict_needs_the_whole_interval(
    low: float,
    high: float,
    threshold: tuple[str, float],
    bounds: tuple[float, float],
    expected: str,
) -> None:
    value = (low + high) / 2 if math.isfinite(high) else low
    found = judge(Estimate(value, low, high, ()), Threshold(*threshold), bounds=bounds)
    assert found[0] == expected


@pytest.mark.parametrize(
    ("verdicts", "agree", "expected"),
    [
        ([], False, UNTESTED),
        ([UNTESTED, UNTESTED], False, UNTESTED),
        ([HOLDS, HOLDS], False, HOLDS),
        ([HOLDS, UNTESTED], False, IN_PART),
        ([HOLDS, FAILS], False, IN_PART),
        ([HOLDS, IN_PART], False, IN_PART),
        ([FAILS, FAILS], False, FAILS),
        ([FAILS, UNTESTED], False, FAILS),
        ([IN_PART], False, IN_PART),
        # Such as on one reconstruction with several budgets.
        ([FAILS, FAILS], True, FAILS),
        ([FAILS, UNTESTED], True, UNTESTED),
        ([HOLDS, UNTESTED], True, IN_PART),
        ([HOLDS, FAILS], True, IN_PART),
        ([HOLDS, HOLDS], True, HOLDS),
        # One seed says what is so on this sample and order.
        ([HOLDS, ONCE], False, ONCE),
        ([HOLDS, of_few_seeds(FAILS)], False, of_few_seeds(IN_PART)),
    ],
)
def test_verdicts_together(verdicts: list[str], agree: bool, expected: str) -> None:
    assert together(verdicts, agree) == expected


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (HOLDS, "supported"),
        (IN_PART, "supported in part"),
        (FAILS, "not supported"),
        (UNTESTED, UNTESTED),
        (of_few_seeds(FAILS), "not testable: fewer than three seeds"),
    ],
)
def test_what_a_verdict_says_of_the_claim(verdict: str, expected: str) -> None:
    assert bearing(verdict) == expected


def test_a_verdict_names_its_models_and_where_they_differ() -> None:
    assert on_models(of_few_seeds(FAILS), {"one": FAILS}).startswith(f"{FAILS} on one (")
    differing = on_models(IN_PART, {"one": HOLDS, "two": FAILS})
    assert f"{IN_PART} on one, two (one: {HOLDS}; two: {FAILS})" == differing
    assert on_models(UNTESTED, {}) == UNTESTED


def test_what_stands_beside_a_claim_has_no_say_in_it() -> None:
    assert of_claim([(HOLDS, DECIDES), (FAILS, BESIDE)]) == HOLDS
    assert of_claim([(FAILS, DECIDES), (HOLDS, BESIDE)]) == FAILS


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(HOLDS, COUNTS), (FAILS, DECIDES)], FAILS),
        ([(FAILS, DECIDES), (FAILS, DECIDES)], FAILS),
        ([(HOLDS, COUNTS), (UNTESTED, DECIDES)], UNTESTED),
        ([(HOLDS, COUNTS), (UNDECIDED, DECIDES)], UNDECIDED),
        ([(HOLDS, DECIDES), (UNDECIDED, DECIDES)], UNDECIDED),
        ([(HOLDS, DECIDES), (FAILS, COUNTS)], IN_PART),
        ([(HOLDS, DECIDES), (HOLDS, COUNTS)], HOLDS),
        ([(ONCE, DECIDES), (HOLDS, COUNTS)], ONCE),
        # A claim fails only where all parts that decide agree.
        ([(UNTESTED, DECIDES), (FAILS, DECIDES)], UNTESTED),
        ([(HOLDS, DECIDES), (FAILS, DECIDES)], IN_PART),
        # What adds counts where it can be tested, and does not rescue the claim.
        ([(HOLDS, COUNTS), (UNTESTED, ADDS)], HOLDS),
        ([(HOLDS, COUNTS), (FAILS, ADDS)], IN_PART),
        ([(UNTESTED, COUNTS), (UNTESTED, ADDS)], UNTESTED),
        ([(UNTESTED, COUNTS), (HOLDS, ADDS)], UNTESTED),
        ([(FAILS, COUNTS), (HOLDS, ADDS)], FAILS),
    ],
)
def test_the_parts_of_a_claim(parts: list[tuple[str, str]], expected: str) -> None:
    assert of_claim(parts) == expected
