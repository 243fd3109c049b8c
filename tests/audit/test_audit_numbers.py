"""Numbers of an audit, and those of each seed, in words."""

from math import inf, nan

import pytest

from freelunch.analysis.intervals import Estimate
from freelunch.audit.verdicts import UNBOUNDED, estimate_text, seeds_texts


@pytest.mark.parametrize(
    ("number", "unit", "bounds", "expected"),
    [
        ((0.261, 0.212, 0.341), "share", UNBOUNDED, "26.1 % (95 %: 21.2 to 34.1 %)"),
        ((0.25, 0.25, 0.25), "times", (0.25, 10), "at most 0.25 times (the whole interval)"),
        ((1.33, 1, 2.05), "times", (1, 10), "1.33 times (95 %: at most 1.00 to 2.05 times)"),
        ((inf, inf, inf), "times", (1, 3), "more than 3 times (the whole interval)"),
        ((2, 1.5, inf), "times", (1, 3), "2.00 times (95 %: 1.50 to more than 3 times)"),
        (
            *((23.4, 20.0, 26.2), "times", (1, 3)),
            "more than 3 times, at most 23.4 times (95 %: more than 3 to 26.2 times)",
        ),
        # In some draws, a way of which nothing is known may have reached it before.
        (
            *((12.8, 0.5, 13.9), "times", (0.5, 3)),
            "at most 12.8 times (95 %: at most 0.5 to 13.9 times)",
        ),
        ((5, 4, inf), "times", (1, 3), "more than 3 times (the whole interval)"),
        ((nan, nan, nan), "share", UNBOUNDED, "not finite"),
        ((1.35, 0.37, 2.52), "perplexity", UNBOUNDED, "1.35 (95 %: 0.37 to 2.52)"),
        ((0.74, nan, nan), "share", UNBOUNDED, "74.0 % (no interval)"),
        ((0.4, -inf, 1.2), "times", (0.08, 3), "0.40 times (95 %: at most 0.08 to 1.20 times)"),
    ],
)
def test_numbers_in_words(
    number: tuple[float, float, float], unit: str, bounds: tuple[float, float], expected: str
) -> None:
    assert estimate_text(Estimate(*number, ()), unit, bounds) == expected


@pytest.mark.parametrize(
    ("number", "of_seeds", "unit", "bounds", "expected"),
    [
        # As many digits as the number over all seeds has.
        ((0.36, 0.1, 0.62), (0.3667, 0.358), "share", UNBOUNDED, ["37 %", "36 %"]),
        # Nothing was run below the first bound and above the second.
        (
            *((0.4, 0.2, 0.6), (0.08, inf, 0.4), "times", (0.08, 3)),
            ["at most 0.08 times", "more than 3 times", "0.40 times"],
        ),
        # One seed reaches what the mean over seeds does not.
        (
            *((inf, inf, inf), (0.6928, inf), "times", (0.25, 1)),
            ["0.693 times", "more than 1 times"],
        ),
        ((0.9, 0.5, 1.3), (0.94, nan), "perplexity", UNBOUNDED, ["0.94", "none"]),
        ((0.9, 0.5, 1.3), (), "perplexity", UNBOUNDED, []),
    ],
)
def test_numbers_of_seeds_in_words(
    number: tuple[float, float, float],
    of_seeds: tuple[float, ...],
    unit: str,
    bounds: tuple[float, float],
    expected: list[str],
) -> None:
    assert seeds_texts(Estimate(*number, of_seeds), unit, bounds, "none") == expected
