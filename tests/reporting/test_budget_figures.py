"""The figure of the budgets, from made-up data."""

import csv
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from freelunch.analysis.budget_effect import BUDGET_COLUMNS
from freelunch.reporting.drawing import budgets
from freelunch.reporting.drawing.files import draw_figure
from freelunch.reporting.drawing.style import styled

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
                "series": series,
                "tokens": str(tokens),
                "flops": str(tokens * 1e9),
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


def test_every_series_is_drawn_against_tokens_and_operations() -> None:
    figure = figure_of(rows())
    tokens, flops = figure.axes
    assert (tokens.get_xlabel(), flops.get_xlabel()) == ("tokens seen", "TFLOP")
    for axes, unit in ((tokens, 1.0), (flops, 1e-3)):
        assert len(axes.containers) == len(POINTS)
        for (line, *_), points in zip(axes.containers, POINTS.values(), strict=True):
            assert list(line.get_xdata()) == pytest.approx([x * unit for x, _ in points])
            assert list(line.get_ydata()) == [y for _, y in points]
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == list(POINTS)
    marked = {container[0].get_marker() for container in figure.axes[0].containers}
    assert len(marked) == len(POINTS), "marks differ in grey, too"


def test_dense_and_pruned_are_lines_with_their_names() -> None:
    axes = figure_of(rows()).axes[-1]
    levels = {line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1}
    assert {48.0, 21.0} <= levels
    assert [text.get_text() for text in axes.texts] == ["not adapted\n48.0", "dense\n21.0"]


def test_a_perplexity_that_is_not_finite_is_left_out() -> None:
    data = rows()
    data[0]["perplexity"] = "nan"
    data[3]["perplexity_unadapted"] = "nan"
    line = figure_of(data).axes[0].containers[0][0]
    assert len(line.get_xdata()) == 2


def test_a_choice_on_the_evaluation_text_is_an_open_mark() -> None:
    figure = figure_of(rows(selected_on="evaluation"))
    assert "open marks" in figure.legends[0].get_title().get_text()
    assert "open marks" not in figure_of(rows()).legends[0].get_title().get_text()


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
        draw_figure("budgets", data, settings, outputs)
    for suffix in ("png", "svg", "pdf"):
        one, two = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two and len(one) > 5000


def test_words_stay_inside_the_figure() -> None:
    figure = figure_of(rows())
    window = figure.get_window_extent()
    texts = [*figure.legends[0].get_texts(), figure.legends[0].get_title()]
    texts += [text for axes in figure.axes for text in (*axes.texts, axes._left_title)]
    for text in texts:
        box = text.get_window_extent()
        assert window.x0 <= box.x0 and box.x1 <= window.x1, text.get_text()
