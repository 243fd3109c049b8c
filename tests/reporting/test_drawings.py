"""The figures of budgets and windows, from made-up data: what is drawn, and that it can be read."""

from typing import Any

import pytest
from matplotlib.figure import Figure

from figure_words import assert_words_inside, drawn
from freelunch.reporting.drawing.adaptation_looks import WHITE
from freelunch.reporting.drawing.style import CHOSEN
from freelunch.reporting.figures import (
    quality_by_budget,
    quality_by_window,
)

Rows = list[dict[str, Any]]
BLOCK: dict[str, Any] = {"method": "reconstruction", "window": 1}
MATRIX = {**BLOCK, "window": "matrix", "train_norms": False}
ADAPTATIONS: dict[str, dict[str, Any]] = {
    "matrix": MATRIX,
    "exact": {"method": "least_squares"},
    "block": BLOCK,
    "five": {**BLOCK, "window": 5},
    "whole": {**BLOCK, "window": "all"},
    "block_3": {**BLOCK, "budget": {"tokens": 24576}},
    "block_10": {**BLOCK, "budget": {"tokens": 81920}},
    "behind": {**MATRIX, "targets": "behind_sparse"},
    f"block_{'very_' * 8}long": BLOCK,
    "lost": {**MATRIX, "targets": "behind_sparse", "lost_residual": True},
    **{name: {"method": name} for name in ("full", "masklora", "biases", "norms")},
}
PRUNED = {"model": "tiny", "criterion": "wanda", "pattern": "u50"}


# --- Budgets

RECONSTRUCTION = "reconstruction, window 1"
SERIES = {"block": RECONSTRUCTION, "full": "full", "masklora": "masklora"}
POINTS = {
    RECONSTRUCTION: [(8192, 41.0), (24576, 39.0), (81920, 38.0)],
    "full": [(8192, 44.0), (24576, 40.0), (81920, 36.0)],
    "masklora": [(8192, 43.0)],
}


def budgets(**changes: Any) -> Rows:
    row = {**PRUNED, "seeds": 1, "selected_on": "", "perplexity_error_beside_reference": 0.4}
    row |= {"perplexity_pruned": 48.0, "perplexity_dense": 21.0, "reference": "block"}
    adaptations = {name: adaptation for adaptation, name in SERIES.items()}
    return [
        {
            **row,
            "series": series,
            "adaptation": adaptations[series] if tokens == 8192 else f"{series} {tokens}",
            "tokens": tokens,
            "peak_bytes": tokens * 1e5,
            "perplexity": perplexity,
            **changes,
        }
        for series, points in POINTS.items()
        for tokens, perplexity in points
    ]


def budgets_figure(data: Rows) -> Figure:
    return drawn(quality_by_budget, data, adaptations=ADAPTATIONS, series=SERIES, text="text")


@pytest.mark.parametrize("on", ["", "evaluation"])
def test_every_series_is_drawn_against_tokens_and_at_equal_tokens_memory(on: str) -> None:
    figure = budgets_figure(budgets(selected_on=on))
    assert_words_inside(figure)
    labels = ["tokens seen", "peak memory of a job (GB), 8k tokens"]
    assert [axes.get_xlabel() for axes in figure.axes] == labels
    for axes, unit, budgets_shown in zip(figure.axes, (1.0, 1e-4), (3, 1), strict=True):
        assert len(axes.containers) == len(POINTS)
        for (line, *_), all_points in zip(reversed(axes.containers), POINTS.values(), strict=True):
            points = all_points[:budgets_shown]
            assert list(line.get_xdata()) == pytest.approx([x * unit for x, _ in points])
            assert list(line.get_ydata()) == [y for _, y in points]
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["reconstruction: one block", "retraining: all weights", "retraining: MaskLoRA"]
    marked = {container[0].get_marker() for container in figure.axes[0].containers}
    assert len(marked) == len(POINTS), "marks differ in grey, too"
    # A choice on the evaluation text has a dagger.
    assert (CHOSEN in figure.legends[0].get_title().get_text()) == bool(on)
    daggers = [text.get_text() for text in figure.axes[0].texts]
    assert daggers == ["\N{DAGGER}"] * (sum(map(len, POINTS.values())) if on else 0)


def test_what_is_not_finite_is_said_and_in_no_line() -> None:
    data = budgets()
    data[-1]["perplexity"] = data[1]["perplexity"] = "nan"  # masklora and a larger reconstruction
    data[0]["perplexity_pruned"] = "nan"
    figure = budgets_figure(data)
    for axes, unit, lost in zip(figure.axes, (1.0, 1e-4), ((24576, 8192), (8192,)), strict=True):
        said = [text.xy for text in axes.texts if text.get_text() == "not finite"]
        assert said == [pytest.approx((tokens * unit, 1.0)) for tokens in lost]
    assert len(figure.axes[0].containers[-1][0].get_xdata()) == 2
    assert "pruned: not finite" in figure.axes[0].get_title(loc="left")


@pytest.mark.parametrize("largest", [60.0, 300.0, 2e6])
def test_ticks_of_a_logarithmic_axis_are_few_and_plain(largest: float) -> None:
    data = budgets()
    data[-1]["perplexity"] = largest
    for axes in budgets_figure(data).axes:
        low, high = axes.get_ylim()
        ticks = zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
        shown = [label.get_text() for label, at in ticks if low <= at <= high]
        assert 2 <= len(shown) <= 9 and not any("e+" in text for text in shown)


def test_the_panels_hold_the_pruned_and_the_dense_model() -> None:
    """Otherwise nobody sees how much of the loss an adaptation recovers."""
    axes = budgets_figure(budgets()).axes[0]
    low, high = axes.get_ylim()
    assert low < 21.0 and high > 48.0
    assert axes.get_title(loc="left").endswith("pruned (dotted): 48.0, dense (dashed): 21.0")
    assert {48.0, 21.0} <= {line.get_ydata()[0] for line in axes.lines}


def test_the_band_is_the_reconstruction_with_ten_times_its_tokens() -> None:
    tokens, memory = budgets_figure(budgets()).axes
    band = [line for line in tokens.lines if line.get_linewidth() == 9]
    assert [(x / 10, y) for x, y in band[0].get_xydata()] == POINTS[RECONSTRUCTION]
    assert len(band) == 1 and not [line for line in memory.lines if line.get_linewidth() == 9]


def test_a_point_of_one_seed_looks_unlike_one_of_three() -> None:
    data = budgets()
    assert "one seed" not in budgets_figure(data).legends[0].get_title().get_text()
    data[0]["seeds"] = 3
    figure = budgets_figure(data)
    assert "pale marks: one seed" in figure.legends[0].get_title().get_text()
    covers = [line for line in figure.axes[0].lines if line.get_color() == WHITE]
    assert len(covers) == len(data) - 1


# --- Windows


def test_windows_stand_at_their_memory_and_perplexity() -> None:
    """With the error of the difference, and in a panel for each amount of text."""
    common = {**PRUNED, "seeds": 3, "selected_on": "", "perplexity_pruned": 60.0}
    rows = [
        common
        | {"adaptation": name, "tokens": tokens, "perplexity": 45.0 + at}
        | {"adaptation_peak_bytes": (1 + at) * 1e9, quality_by_window.ERROR: 0.5 * at}
        for tokens in (8192, 32768)
        for at, name in enumerate(("block", "matrix", "lost"))
    ]
    figure = drawn(quality_by_window, rows, adaptations=ADAPTATIONS, text="some-text")
    assert len(figure.axes) == 2
    for axes in figure.axes:
        points = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines}
        assert {(1.0, 45.0), (2.0, 46.0), (3.0, 47.0)} <= points
    assert_words_inside(figure)
