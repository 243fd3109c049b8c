"""The figure of criteria against budgets, from made-up records."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from figure_words import assert_words_inside
from freelunch.reporting.cells import CRITERIA_BUDGET_COLUMNS
from freelunch.reporting.drawing.style import styled
from freelunch.reporting.figures import criteria_budgets
from freelunch.reporting.labels import adaptation_labels
from freelunch.reporting.results import Results
from freelunch.reporting.table import csv_text
from freelunch.study.study import Study
from records_for_tests import make_records, make_study

BLOCK = {"method": "reconstruction"}
ENTRIES: dict[str, dict[str, Any]] = {
    "recon_3": {**BLOCK, "budget": {"times": 3, "of": "recon_block"}},
    "recon_10": {**BLOCK, "budget": {"times": 10, "of": "recon_block"}},
    "recon_all": {**BLOCK, "window": "all"},
    "full": {"method": "full"},
}
LEVELS = {"none": 60.0, "recon_block": 50.0, "recon_3": 45.0, "recon_10": 40.0}


def results(**changes: float | None) -> Results:
    study = make_study(ENTRIES, adaptations=["none", "recon_block", *ENTRIES])
    values: dict[str, float | None] = {}
    for cell in study.cells:
        level = LEVELS.get(cell.adaptation, 55.0) * (3 if cell.criterion == "magnitude" else 1)
        name = f"{cell.criterion}_{cell.adaptation}"
        values[str(cell)] = 20.0 if cell.is_dense else changes.get(name, level)
    return Results(study, make_records(study, values), Path("nowhere"))


def drawn(found: Results) -> Figure:
    text = csv_text(CRITERIA_BUDGET_COLUMNS, found.criteria_budgets)
    rows = list(csv.DictReader(io.StringIO(text)))
    with styled():
        figure = criteria_budgets.draw(rows, found.study.as_json()["adaptations"], "text")
        figure.draw_without_rendering()
    return figure


def test_rows_are_of_the_budgets_that_several_criteria_have() -> None:
    found = results()
    budgets = {("tiny", "u50"): [["recon_block", "recon_3", "recon_10"]]}
    assert found.study.budgets_of_criteria == budgets
    rows = found.criteria_budgets
    assert {row["adaptation"] for row in rows} == {"none", "recon_block", "recon_3", "recon_10"}
    tokens = {row["adaptation"]: row["tokens"] for row in rows}
    assert tokens == {"none": None, "recon_block": 8192, "recon_3": 24576, "recon_10": 81920}
    # The figure of criteria has one of them.
    of_criteria = {row["adaptation"] for row in found.criteria}
    assert of_criteria == {"none", "recon_block", "recon_all", "full"}


def test_one_budget_or_one_criterion_is_no_comparison() -> None:
    one = make_study(ENTRIES, adaptations=["none", "recon_block", "recon_all"])
    other = make_study(ENTRIES, criteria=["wanda"], adaptations=["none", "recon_block", "recon_3"])
    assert one.budgets_of_criteria == other.budgets_of_criteria == {}


def test_each_model_shows_the_first_of_its_own_budgets() -> None:
    """Though another model, or another pattern, has a better one."""
    config = make_study(ENTRIES, models=["tiny", "tiny-2"], adaptations=["none"]).as_json()
    (grid,) = config["study"]["grids"]
    for models, names in ((["tiny"], ["recon_block", "recon_3"]), (["tiny-2"], ["recon_3"])):
        config["study"]["grids"].append({**grid, "models": models, "adaptations": names})
    study = Study.check(config, "made-up.yaml")
    found = Results(study, make_records(study, {}), Path("nowhere"))
    assert study.budgets_of_criteria == {("tiny", "u50"): [["recon_block", "recon_3"]]}
    shown = {(row["model"], row["adaptation"]) for row in found.criteria}
    adapted = {pair for pair in shown if pair[1] != "none"}
    assert adapted == {("tiny", "recon_block"), ("tiny-2", "recon_3")}
    assert {row["model"] for row in found.criteria_budgets} == {"tiny"}


def test_amounts_have_three_digits() -> None:
    tokens = (512, 8192, 131072, 524288, 999936, 1572864, 1.6e6)
    amounts = [criteria_budgets._amount(of) for of in tokens]
    assert amounts == ["512", "8.19k", "131k", "524k", "1M", "1.57M", "1.6M"]


def test_there_is_a_line_for_each_criterion() -> None:
    figure = drawn(results())
    (axes,) = figure.axes
    lines = [
        (list(line.get_xdata()), list(line.get_ydata()))
        for container in axes.containers
        for line in container[:1]
        if len(line.get_xdata()) > 1
    ]
    assert [x for x, _ in lines] == [[8192, 24576, 81920]] * 2
    assert [y for _, y in lines] == [pytest.approx([150, 135, 120]), pytest.approx([50, 45, 40])]
    named = {text.get_text() for text in axes.texts}
    assert named == {"Magnitude 120.0", "Wanda 40.0"}
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["not\nadapted", "8.19k", "24.6k", "81.9k"]
    assert "dense (dashed): 20.0" in axes.get_title(loc="left")
    with styled():
        assert_words_inside(figure)


def test_what_is_not_finite_is_said_and_ends_no_line() -> None:
    """The value of a smaller budget must not stand for the largest."""
    (axes,) = drawn(results(wanda_recon_10=None)).axes
    assert {text.get_text() for text in axes.texts} == {"Magnitude 120.0", "not finite"}
    (text,) = (text for text in axes.texts if text.get_text() == "not finite")
    assert text.xy == (81920, 1.0)


def test_a_figure_of_nothing_says_why() -> None:
    figure = criteria_budgets.draw([], {}, "text")
    assert not figure.axes and "at several budgets" in figure.texts[0].get_text()


def test_budgets_are_named_where_they_differ() -> None:
    tokens = {"budget": {"tokens": 16384}}
    entries = {
        "small": {**BLOCK, "window": 1, **tokens},
        "large": {**BLOCK, "window": 1, "budget": {"tokens": 65536}},
        "matrix": {**BLOCK, "window": "matrix", **tokens},
    }
    labels = adaptation_labels(entries)
    assert labels["small"] == "reconstruction: one block, 16,384 tokens"
    assert labels["large"] == "reconstruction: one block, 65,536 tokens"
    assert labels["matrix"] == "reconstruction: single matrices"
