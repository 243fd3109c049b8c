"""The figure of the budgets, from made-up data."""

import csv
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from figure_words import assert_words_inside
from freelunch.analysis.budget_effect import BUDGET_COLUMNS
from freelunch.reporting.drawing.files import draw_figure
from freelunch.reporting.drawing.style import CHOSEN, styled
from freelunch.reporting.figures import budgets

ADAPTATIONS = {
    "recon_block": {"method": "reconstruction", "window": 1},
    **{name: {"method": name} for name in ("full", "masklora", "biases_norms")},
}
SERIES = {
    name: "reconstruction, window 1" if name == "recon_block" else name for name in ADAPTATIONS
}
POINTS = {
    "reconstruction, window 1": [(8192, 41.0), (24576, 39.0), (81920, 38.0)],
    "full": [(8192, 44.0), (24576, 40.0), (81920, 36.0)],
    "masklora": [(8192, 43.0)],
}


def rows(**changes: str) -> list[dict[str, str]]:
    found = []
    for series, points in POINTS.items():
        for tokens, perplexity in points:
            row = dict.fromkeys(BUDGET_COLUMNS, "")
            row |= {
                "model": "tiny",
                "criterion": "wanda",
                "pattern": "u50",
                "seeds": "1",
                "series": series,
                "tokens": str(tokens),
                "flops": str(tokens * 1e9),
                "peak_bytes": str(tokens * 1e5),
                "perplexity": str(perplexity),
                "perplexity_error_beside_reference": "0.4",
                "perplexity_unadapted": "48.0",
                "perplexity_dense": "21.0",
            }
            found.append(row | changes)
    return found


def figure_of(data: list[dict[str, str]]) -> Figure:
    with styled():
        figure = budgets.draw(data, ADAPTATIONS, SERIES, "text")
        figure.canvas.draw()
    return figure


def test_every_series_is_drawn_against_tokens_operations_and_memory() -> None:
    figure = figure_of(rows())
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


def test_what_is_not_finite_is_said() -> None:
    data = rows()
    data[-1]["perplexity"] = "nan"
    figure = figure_of(data)
    for axes, unit in zip(figure.axes, (1.0, 1e-3, 1e-4), strict=True):
        (text,) = (text for text in axes.texts if text.get_text() == "not finite")
        assert text.xy == pytest.approx((8192 * unit, 1.0))


@pytest.mark.parametrize("largest", [60.0, 300.0, 2e6])
def test_ticks_of_a_logarithmic_axis_are_few_and_plain(largest: float) -> None:
    data = rows()
    data[-1]["perplexity"] = str(largest)
    for axes in figure_of(data).axes:
        low, high = axes.get_ylim()
        shown = [
            label.get_text()
            for label, at in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
            if low <= at <= high
        ]
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
    found, unit = budgets.axis_of(budgets.OPERATIONS, flops)
    assert found == label
    assert [value / unit for value in flops] == pytest.approx(divided)


def test_axes_span_the_data_and_the_title_says_where_the_other_levels_are() -> None:
    axes = figure_of(rows()).axes[0]
    low, high = axes.get_ylim()
    assert 34.9 < low < 35.6 and 44.4 < high < 45.2
    title = "tiny, Wanda, 50 % unstructured\none seed; not adapted: 48.0 \u2191, dense: 21.0 \u2193"
    assert axes.get_title(loc="left") == title
    near = figure_of(rows(perplexity_unadapted="44.0")).axes[0]
    assert "not adapted (dotted): 44.0" in near.get_title(loc="left")
    assert 44.0 in {line.get_ydata()[0] for line in near.lines}


def test_a_perplexity_that_is_not_finite_is_left_out() -> None:
    data = rows()
    data[0]["perplexity"] = "nan"
    data[3]["perplexity_unadapted"] = "nan"
    axes = figure_of(data).axes[0]
    assert len(axes.containers[0][0].get_xdata()) == 2
    assert "not adapted" in axes.get_title(loc="left")


def test_a_choice_on_the_evaluation_text_has_a_dagger() -> None:
    figure = figure_of(rows(selected_on="evaluation"))
    assert CHOSEN in figure.legends[0].get_title().get_text()
    daggers = [text.get_text() for text in figure.axes[0].texts]
    assert daggers == ["\N{DAGGER}"] * sum(map(len, POINTS.values()))
    plain = figure_of(rows())
    assert CHOSEN not in plain.legends[0].get_title().get_text()
    assert not plain.axes[0].texts


def test_without_data_it_says_so() -> None:
    figure = figure_of([])
    assert figure.texts[0].get_text() == "no model was both reconstructed and retrained"


def test_drawn_again_it_is_the_same_file(tmp_path: Path) -> None:
    data = tmp_path / "budgets.csv"
    with data.open("w", newline="") as file:
        writer = csv.DictWriter(file, BUDGET_COLUMNS)
        writer.writeheader()
        writer.writerows(rows())
    for name in ("one", "two"):
        outputs = [tmp_path / f"{name}.{suffix}" for suffix in ("png", "svg", "pdf")]
        settings = {"adaptations": ADAPTATIONS, "series": SERIES, "text": "text"}
        draw_figure("freelunch.reporting.figures.budgets", data, settings, outputs)
    for suffix in ("png", "svg", "pdf"):
        one, two = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two and len(one) > 5000


def test_words_stay_inside_the_figure() -> None:
    assert_words_inside(figure_of(rows()))
