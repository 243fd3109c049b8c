"""The figure of windows: every label and every mark can be read, whatever a window misses."""

from typing import Any

import pytest
from matplotlib.figure import Figure

from figure_words import assert_words_inside, drawn, words_of
from freelunch.reporting.figures import gain_by_window

BLOCK: dict[str, Any] = {"method": "reconstruction", "window": 1}
MATRIX = {**BLOCK, "window": "matrix", "train_norms": False}
ADAPTATIONS: dict[str, dict[str, Any]] = {
    "recon_block": BLOCK,
    "recon_matrix": MATRIX,
    "recon_behind": {**MATRIX, "targets": "behind_sparse"},
    f"recon_{'very_' * 8}long": BLOCK,
    "recon_lost": {**MATRIX, "targets": "behind_sparse", "lost_residual": True},
}


def row(adaptation: str, missed: float, **changes: Any) -> dict[str, Any]:
    made = {"criterion": "wanda", "pattern": "u50", "model": "tiny", "tokens": 8192, "seeds": 3}
    made |= {"adaptation": adaptation, "gain_missed": missed, "gain_missed_standard_error": 0.05}
    made |= {"adaptation_peak_bytes": 7e8, "perplexity": 50.0, "selected_on": ""}
    return made | changes


def figure_of(rows: list[dict[str, Any]]) -> Figure:
    return drawn(gain_by_window, rows, adaptations=ADAPTATIONS, text="some-text")


@pytest.mark.parametrize("lost", [0.3, 66.89])
def test_a_window_that_misses_everything_leaves_the_others_their_room(lost: float) -> None:
    missed = {"recon_block": 0.0, "recon_matrix": 0.6, "recon_behind": 0.5, "recon_lost": lost}
    figure = figure_of([row(name, value) for name, value in missed.items()])
    left, right = figure.axes[0].get_xlim()
    assert left < -5 and 60 < right < 100
    words = " ".join(words_of(figure))
    assert ("6,689 \u2192" in words) == ("\u2192: beyond 200 %" in words) == (lost > 1)
    assert_words_inside(figure)


@pytest.mark.parametrize("on", ["", "evaluation"])
def test_labels_of_several_lines_do_not_overlap(on: str) -> None:
    """Also that of an adaptation with a long name, which is shown since another is its equal."""
    names = ["recon_block", "recon_behind", "recon_lost"]
    names += [name for name in ADAPTATIONS if on and "very" in name]
    figure = figure_of([row(name, 0.1, selected_on=on) for name in names * (9 // len(names) + 1)])
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) == 12
    assert not any(box.count_overlaps(boxes[at + 1 :]) for at, box in enumerate(boxes))


def test_a_perplexity_has_as_many_digits_as_it_is_good_for() -> None:
    words = words_of(
        figure_of([row("recon_block", 0.0), row("recon_lost", 2.5, perplexity=997149.8)])
    )
    assert "997,150" in words and "50.0" in words
