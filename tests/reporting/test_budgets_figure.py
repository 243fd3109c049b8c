"""The figure of the budgets, from made-up data."""

from typing import Any

import pytest
from matplotlib.figure import Figure

from figure_words import assert_words_inside, drawn
from freelunch.reporting.drawing.style import CHOSEN
from freelunch.reporting.figures import quality_by_budget

ADAPTATIONS = {
    "recon_block": {"method": "reconstruction", "window": 1},
    **{name: {"method": name} for name in ("full", "masklora", "biases_norms")},
}
RECONSTRUCTION = "reconstruction, window 1"
SERIES = {name: RECONSTRUCTION if name == "recon_block" else name for name in ADAPTATIONS}
POINTS = {
    RECONSTRUCTION: [(8192, 41.0), (24576, 39.0), (81920, 38.0)],
    "full": [(8192, 44.0), (24576, 40.0), (81920, 36.0)],
    "masklora": [(8192, 43.0)],
}


def rows(**changes: Any) -> list[dict[str, Any]]:
    row = {"model": "tiny", "criterion": "wanda", "pattern": "u50", "seeds": 1, "selected_on": ""}
    row |= {"perplexity_error_beside_reference": 0.4}
    row |= {"perplexity_unadapted": 48.0, "perplexity_dense": 21.0}
    return [
        {
            **row,
            "series": series,
            "tokens": tokens,
            "flops": tokens * 1e9,
            "peak_bytes": tokens * 1e5,
            "perplexity": perplexity,
            **changes,
        }
        for series, points in POINTS.items()
        for tokens, perplexity in points
    ]


def figure_of(data: list[dict[str, Any]]) -> Figure:
    return drawn(quality_by_budget, data, adaptations=ADAPTATIONS, series=SERIES, text="text")


def test_every_series_is_drawn_against_tokens_operations_and_memory() -> None:
    figure = figure_of(rows())
    assert_words_inside(figure)
    labels = ["tokens seen", "operations (TFLOP)", "peak memory of a job (GB)"]
    assert [axes.get_xlabel() for axes in figure.axes] == labels
    for axes, unit in zip(figure.axes, (1.0, 1e-3, 1e-4), strict=True):
        assert len(axes.containers) == len(POINTS)
        for (line, *_), points in zip(axes.containers, POINTS.values(), strict=True):
            assert list(line.get_xdata()) == pytest.approx([x * unit for x, _ in points])
            assert list(line.get_ydata()) == [y for _, y in points]
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["reconstruction: one block", "retraining: all weights", "retraining: MaskLoRA"]
    marked = {container[0].get_marker() for container in figure.axes[0].containers}
    assert len(marked) == len(POINTS), "marks differ in grey, too"


def test_what_is_not_finite_is_said_and_in_no_line() -> None:
    data = rows()
    data[-1]["perplexity"] = data[1]["perplexity"] = "nan"
    data[3]["perplexity_unadapted"] = "nan"
    figure = figure_of(data)
    for axes, unit in zip(figure.axes, (1.0, 1e-3, 1e-4), strict=True):
        said = [text.xy for text in axes.texts if text.get_text() == "not finite"]
        assert said == [pytest.approx((tokens * unit, 1.0)) for tokens in (24576, 8192)]
    assert len(figure.axes[0].containers[0][0].get_xdata()) == 2
    assert "not adapted" in figure.axes[0].get_title(loc="left")


@pytest.mark.parametrize("largest", [60.0, 300.0, 2e6])
def test_ticks_of_a_logarithmic_axis_are_few_and_plain(largest: float) -> None:
    data = rows()
    data[-1]["perplexity"] = largest
    for axes in figure_of(data).axes:
        low, high = axes.get_ylim()
        ticks = zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
        shown = [label.get_text() for label, at in ticks if low <= at <= high]
        assert 2 <= len(shown) <= 9 and not any("e+" in text for text in shown)


@pytest.mark.parametrize(
    ("flops", "label", "divided"),
    [
        ([5e7, 2e8], "operations (MFLOP)", [50, 200]),
        ([9e11, 4e12], "operations (TFLOP)", [0.9, 4]),
        ([2e15, 5e17], "operations (PFLOP)", [2, 500]),
        ([1e3], "operations (MFLOP)", [1e-3]),
    ],
)
def test_the_unit_of_operations_fits_the_data(
    flops: list[float], label: str, divided: list[float]
) -> None:
    named, unit = quality_by_budget.axis_of(quality_by_budget.OPERATIONS, flops)
    assert named == label
    assert [value / unit for value in flops] == pytest.approx(divided)


def test_axes_span_the_data_and_the_title_says_where_the_other_levels_are() -> None:
    axes = figure_of(rows()).axes[0]
    low, high = axes.get_ylim()
    assert 34.9 < low < 35.6 and 44.4 < high < 45.2
    title = "tiny, Wanda, 50 % unstructured\none seed; not adapted: 48.0 \u2191, dense: 21.0 \u2193"
    assert axes.get_title(loc="left") == title
    near = figure_of(rows(perplexity_unadapted=44.0)).axes[0]
    assert "not adapted (dotted): 44.0" in near.get_title(loc="left")
    assert 44.0 in {line.get_ydata()[0] for line in near.lines}


@pytest.mark.parametrize("on", ["", "evaluation"])
def test_a_choice_on_the_evaluation_text_has_a_dagger(on: str) -> None:
    figure = figure_of(rows(selected_on=on))
    assert (CHOSEN in figure.legends[0].get_title().get_text()) == bool(on)
    daggers = [text.get_text() for text in figure.axes[0].texts]
    assert daggers == ["\N{DAGGER}"] * (sum(map(len, POINTS.values())) if on else 0)
