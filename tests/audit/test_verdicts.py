"""Verdicts: how they follow from a number and its interval, and from each other."""

import math

import pytest

from freelunch.analysis.intervals import Estimate
from freelunch.audit.verdicts import (
    ADDS,
    COUNTS,
    DECIDES,
    FAILS,
    HOLDS,
    IN_PART,
    UNDECIDED,
    UNTESTED,
    Threshold,
    bearing,
    judge,
    kind,
    of_claim,
    of_few_seeds,
    together,
)


def number(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, ())


@pytest.mark.parametrize(
    ("low", "high", "threshold", "expected"),
    [
        (10.1, 12, {"above": 10}, HOLDS),
        (10, 12, {"above": 10}, UNDECIDED),
        (9.9, 12, {"above": 10}, UNDECIDED),
        (8, 10, {"above": 10}, FAILS),
        (8, 9.9, {"above": 10}, FAILS),
        (math.inf, math.inf, {"above": 10}, HOLDS),
        (0.05, 0.09, {"below": 0.1}, HOLDS),
        (0.05, 0.1, {"below": 0.1}, UNDECIDED),
        (0.1, 0.2, {"below": 0.1}, FAILS),
        (math.nan, math.nan, {"below": 0.1}, UNDECIDED),
        # Equivalence is found on both sides or not at all.
        (-0.09, 0.09, {"within": 0.1}, HOLDS),
        (-0.059, 0.101, {"within": 0.1}, UNDECIDED),
        (-0.118, 0.059, {"within": 0.1}, UNDECIDED),
        (-0.2, -0.1, {"within": 0.1}, FAILS),
        (0.1, 0.2, {"within": 0.1}, FAILS),
    ],
)
def test_a_verdict_needs_the_whole_interval(
    low: float, high: float, threshold: dict[str, float], expected: str
) -> None:
    ((side, value),) = threshold.items()
    assert judge(number(low, high), Threshold(side, value))[0] == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        # Reached by the smallest budget of 2: perhaps by less.
        (2, 2, FAILS),
        (2, 5.5, UNDECIDED),
        # Not reached by the largest budget of 6: perhaps by 7, perhaps by 70.
        (math.inf, math.inf, HOLDS),
        (5.5, math.inf, HOLDS),
        (3, math.inf, UNDECIDED),
        (0.5, math.inf, UNDECIDED),
    ],
)
def test_what_lies_beyond_the_bounds_is_not_known(low: float, high: float, expected: str) -> None:
    found = Estimate(low, low, high, ())
    assert judge(found, Threshold("above", 5), bounds=(2, 6))[0] == expected


def test_more_than_the_largest_budget_is_more_than_it() -> None:
    found = Estimate(math.inf, math.inf, math.inf, ())
    assert judge(found, Threshold("above", 10), bounds=(1, 10))[0] == HOLDS
    assert judge(found, Threshold("above", 10), bounds=(1, 9.9))[0] == UNDECIDED


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], UNTESTED),
        ([UNTESTED, UNTESTED], UNTESTED),
        ([HOLDS, HOLDS], HOLDS),
        ([HOLDS, UNTESTED], IN_PART),
        ([HOLDS, FAILS], IN_PART),
        ([HOLDS, IN_PART], IN_PART),
        ([FAILS, FAILS], FAILS),
        ([FAILS, UNTESTED], FAILS),
        ([IN_PART], IN_PART),
    ],
)
def test_verdicts_together(verdicts: list[str], expected: str) -> None:
    assert together(verdicts) == expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([FAILS, FAILS], FAILS),
        ([FAILS, UNTESTED], UNTESTED),
        ([HOLDS, UNTESTED], IN_PART),
        ([HOLDS, FAILS], IN_PART),
        ([HOLDS, HOLDS], HOLDS),
    ],
)
def test_verdicts_that_have_to_agree(verdicts: list[str], expected: str) -> None:
    """Such as on one reconstruction with several budgets."""
    assert together(verdicts, agree=True) == expected


def test_one_seed_says_what_is_so_on_this_sample_and_order() -> None:
    once = of_few_seeds(HOLDS)
    assert once == "found on this sample and order" and of_few_seeds(UNTESTED) == UNTESTED
    assert kind(once) == kind(HOLDS) == HOLDS
    assert together([HOLDS, once]) == once
    assert together([HOLDS, of_few_seeds(FAILS)]) == of_few_seeds(IN_PART)
    assert of_claim([(once, DECIDES), (HOLDS, COUNTS)]) == once


@pytest.mark.parametrize(
    ("verdict", "too_small", "expected"),
    [
        (HOLDS, False, "supported"),
        (IN_PART, False, "supported in part"),
        (FAILS, False, "not supported"),
        (UNTESTED, False, UNTESTED),
        (of_few_seeds(FAILS), False, "not testable: fewer than three seeds"),
        (FAILS, True, "not tested at this scale"),
        (UNTESTED, True, "not tested at this scale"),
    ],
)
def test_what_a_verdict_says_of_the_claim(verdict: str, too_small: bool, expected: str) -> None:
    assert bearing(verdict, too_small) == expected


def test_a_part_that_decides() -> None:
    assert of_claim([(HOLDS, COUNTS), (FAILS, DECIDES)]) == FAILS
    assert of_claim([(FAILS, DECIDES), (FAILS, DECIDES)]) == FAILS
    assert of_claim([(HOLDS, COUNTS), (UNTESTED, DECIDES)]) == UNTESTED
    assert of_claim([(HOLDS, DECIDES), (FAILS, COUNTS)]) == IN_PART
    assert of_claim([(HOLDS, DECIDES), (HOLDS, COUNTS)]) == HOLDS
    # A claim fails only where all parts that decide agree.
    assert of_claim([(UNTESTED, DECIDES), (FAILS, DECIDES)]) == UNTESTED
    assert of_claim([(HOLDS, DECIDES), (FAILS, DECIDES)]) == IN_PART


def test_a_part_that_adds_counts_where_it_can_be_tested() -> None:
    assert of_claim([(HOLDS, COUNTS), (UNTESTED, ADDS)]) == HOLDS
    assert of_claim([(HOLDS, COUNTS), (FAILS, ADDS)]) == IN_PART
    assert of_claim([(UNTESTED, COUNTS), (UNTESTED, ADDS)]) == UNTESTED
    # What is not the claim's own does not rescue it.
    assert of_claim([(UNTESTED, COUNTS), (HOLDS, ADDS)]) == UNTESTED
    assert of_claim([(FAILS, COUNTS), (HOLDS, ADDS)]) == FAILS


def test_a_deciding_part_that_is_undecided_leaves_the_claim_undecided() -> None:
    assert of_claim([(HOLDS, COUNTS), (UNDECIDED, DECIDES)]) == UNDECIDED
    assert of_claim([(HOLDS, DECIDES), (UNDECIDED, DECIDES)]) == UNDECIDED
