"""Which lines the figure of drift names, from made-up data."""

from typing import Any

import pytest

from freelunch.reporting.drawing import drift
from freelunch.reporting.drawing.style import styled

ADAPTATIONS: dict[str, dict[str, Any]] = {
    "matrix": {"method": "reconstruction", "window": "matrix"},
    "exact": {"method": "least_squares"},
    "block": {"method": "reconstruction", "window": 1},
    "five": {"method": "reconstruction", "window": 5},
    "whole": {"method": "reconstruction", "window": "all"},
    "block_3": {"method": "reconstruction", "window": 1, "budget": {"tokens": 24576}},
    "block_10": {"method": "reconstruction", "window": 1, "budget": {"tokens": 81920}},
    "full": {"method": "full"},
    "norms": {"method": "norms"},
}


@pytest.mark.parametrize(
    ("names", "named", "others"),
    [
        (["matrix", "exact", "block", "five", "whole"], ["matrix", "block", "whole"], "windows"),
        # Without a single window of one block, that in the middle.
        (["block", "block_3", "block_10", "five"], ["block", "block_10", "five"], "windows"),
        (
            ["block", "block_3", "block_10", "full", "norms"],
            ["block", "block_3", "block_10", "norms"],
            "adaptations",
        ),
        (["block", "full", "norms"], ["block", "full", "norms"], None),
    ],
)
def test_few_lines_are_named(names: list[str], named: list[str], others: str | None) -> None:
    """A retraining is no window."""
    rows = [
        {
            **{"model": "tiny", "criterion": "wanda", "pattern": "u50", "adaptation": name},
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
    assert words == ([f"other {others}"] if others else [])
