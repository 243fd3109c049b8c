"""Which lines the figure of drift names, from made-up data."""

from typing import Any

import pytest

from figure_words import drawn
from freelunch.reporting.drawing.adaptation_looks import PALE, marks
from freelunch.reporting.figures import drift_by_depth

BLOCK = {"method": "reconstruction", "window": 1}
ADAPTATIONS: dict[str, dict[str, Any]] = {
    "matrix": {**BLOCK, "window": "matrix"},
    "exact": {"method": "least_squares"},
    "block": BLOCK,
    "five": {**BLOCK, "window": 5},
    "whole": {**BLOCK, "window": "all"},
    "block_3": {**BLOCK, "budget": {"tokens": 24576}},
    "block_10": {**BLOCK, "budget": {"tokens": 81920}},
    **{name: {"method": name} for name in ("full", "masklora", "biases", "norms")},
}


@pytest.mark.parametrize(
    ("names", "named"),
    [
        ("matrix exact block five whole", "matrix block whole"),
        # Without a single window of one block, that in the middle.
        ("block block_3 block_10 five", "block block_10 five"),
        ("block block_3 block_10 full norms", "block block_3 block_10 norms"),
        ("block full masklora norms", "block masklora norms"),
        ("full masklora biases norms", "masklora biases norms"),
        ("block full norms", "block full norms"),
    ],
)
def test_few_lines_are_named(names: str, named: str) -> None:
    """A retraining is no window."""
    row = {"model": "tiny", "criterion": "wanda", "pattern": "u50", "seeds": 1}
    row |= {"compared": 1, "output": "block", "mean": 0.1}
    shown, expected = ["none", *names.split()], ["none", *named.split()]
    rows = [
        {**row, "adaptation": name, "kind": kind, "block": block}
        for name in shown
        for kind in drift_by_depth.KINDS
        for block in range(4)
    ]
    figure = drawn(drift_by_depth, rows, adaptations=ADAPTATIONS)
    accumulated = figure.axes[0]
    coloured = [line for line in accumulated.lines if line.get_color() != PALE]
    assert len(coloured) == len(expected) and len(accumulated.lines) == len(shown)
    looks = marks(ADAPTATIONS)
    labels = {looks[name].label.removeprefix("reconstruction: ") for name in expected}
    assert {text.get_text() for text in accumulated.texts} == labels
    words = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert words == (["other adaptations"] if len(expected) < len(shown) else [])
