"""Which lines the figure of drift names, from made-up data."""

from typing import Any

import pytest

from freelunch.reporting.drawing.style import styled
from freelunch.reporting.figures import drift

ADAPTATIONS: dict[str, dict[str, Any]] = {
    "matrix": {"method": "reconstruction", "window": "matrix"},
    "exact": {"method": "least_squares"},
    "block": {"method": "reconstruction", "window": 1},
    "five": {"method": "reconstruction", "window": 5},
    "whole": {"method": "reconstruction", "window": "all"},
    "block_3": {"method": "reconstruction", "window": 1, "budget": {"tokens": 24576}},
    "block_10": {"method": "reconstruction", "window": 1, "budget": {"tokens": 81920}},
    "full": {"method": "full"},
    "masklora": {"method": "masklora"},
    "biases": {"method": "biases"},
    "norms": {"method": "norms"},
}


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["matrix", "exact", "block", "five", "whole"], ["matrix", "block", "whole"]),
        # Without a single window of one block, that in the middle.
        (["block", "block_3", "block_10", "five"], ["block", "block_10", "five"]),
        (
            ["block", "block_3", "block_10", "full", "norms"],
            ["block", "block_3", "block_10", "norms"],
        ),
        (["block", "full", "masklora", "norms"], ["block", "masklora", "norms"]),
        (["full", "masklora", "biases", "norms"], ["masklora", "biases", "norms"]),
        (["block", "full", "norms"], ["block", "full", "norms"]),
    ],
)
def test_few_lines_are_named(names: list[str], named: list[str]) -> None:
    """A retraining is no window."""
    rows = [
        {
            **{"model": "tiny", "criterion": "wanda", "pattern": "u50", "adaptation": name},
            "seeds": "1",
            **{"compared": "1", "output": "block", "kind": kind, "mean": "0.1", "block": block},
        }
        for name in ["none", *names]
        for kind in drift.KINDS
        for block in "0123"
    ]
    with styled():
        figure = drift.draw(rows, ADAPTATIONS)
    accumulated = figure.axes[0]
    coloured = [line for line in accumulated.lines if line.get_color() != drift.PALE]
    assert len(coloured) == 1 + len(named) and len(accumulated.lines) == 1 + len(names)
    labels = {text.get_text() for text in accumulated.texts}
    looks = drift.marks(ADAPTATIONS)
    assert labels == {
        looks[name].label.removeprefix("reconstruction: ") for name in ["none", *named]
    }
    words = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert words == (["other adaptations"] if len(named) < len(names) else [])
