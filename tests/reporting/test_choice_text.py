"""What a search chose, in words."""

from itertools import product

import pytest

from freelunch.reporting.cells import choice_text


@pytest.mark.parametrize(
    ("rates", "epochs", "chosen", "expected"),
    [
        ([0.1, 0.2, 0.3], [1], (0.2, 1), "learning rate 0.2"),
        ([0.1, 0.2], [1], (0.1, 1), "learning rate 0.1 (the lowest tried)"),
        ([0.3, 0.1], [1, 2], (0.3, 2), "learning rate 0.3 (the highest tried) and epochs 2"),
        ([0.1], [1, 2], (0.1, 1), "learning rate 0.1 and epochs 1"),
    ],
)
def test_what_was_chosen_in_words(rates, epochs, chosen, expected):
    """Where the best lies at an end of the list, a better one may lie beyond it."""
    pairs = [{"learning_rate": r, "epochs": e} for r, e in product(rates, epochs)]
    one = dict(zip(("learning_rate", "epochs"), chosen, strict=True))
    assert choice_text(pairs, one) == expected
