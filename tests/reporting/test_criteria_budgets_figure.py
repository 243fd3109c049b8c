"""The figures of criteria, by themselves and against budgets: which cells they show, and how."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from figure_words import assert_words_inside, drawn
from freelunch.reporting.cells import criteria_rows
from freelunch.reporting.drawing.adaptation_looks import adaptation_labels
from freelunch.reporting.figures import criteria_by_budget
from freelunch.reporting.results import Results
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


def figure_of(of: Results) -> Figure:
    adaptations = of.study.as_json()["adaptations"]
    return drawn(criteria_by_budget, of.criteria_budgets, adaptations=adaptations, text="text")


# --- Which cells


def row(model: str, pattern: str, criterion: str, adaptation: str) -> dict[str, str]:
    names = ("model", "pattern", "criterion", "adaptation")
    return dict(zip(names, (model, pattern, criterion, adaptation), strict=True))


def test_only_what_several_criteria_have_is_shown() -> None:
    """Else the figure of the paper's study would be over a metre wide: one criterion has 22
    adaptations there, and each criterion gets room for all that are shown.
    """
    compared = [row("m", "u50", *names) for names in product("ab", ("none", "recon"))]
    dense = row("m", "none", "dense", "none")
    others = [
        row("m", "u50", "a", "recon_all"),
        row("m", "2of4", "a", "recon_all"),
        row("other", "none", "dense", "none"),
        row("other", "u50", "a", "none"),
    ]
    assert criteria_rows([dense, *compared, *others], {}) == [dense, *compared]
    # All is shown if criteria share no adaptation: otherwise, there would be nothing to draw.
    rows = [row("m", "u50", "a", "none"), row("m", "u50", "b", "recon")]
    assert criteria_rows(rows, {}) == rows


def test_rows_are_of_the_budgets_that_several_criteria_have() -> None:
    shown = results()
    budgets = {("tiny", "u50"): [["recon_block", "recon_3", "recon_10"]]}
    assert shown.study.comparisons.criteria_budgets == budgets
    tokens = {row["adaptation"]: row["tokens"] for row in shown.criteria_budgets}
    assert tokens == {"none": None, "recon_block": 8192, "recon_3": 24576, "recon_10": 81920}
    # The figure of criteria has one of them.
    of_criteria = {row["adaptation"] for row in shown.criteria}
    assert of_criteria == {"none", "recon_block", "recon_all", "full"}


def test_one_budget_or_one_criterion_is_no_comparison() -> None:
    one = make_study(ENTRIES, adaptations=["none", "recon_block", "recon_all"])
    other = make_study(ENTRIES, criteria=["wanda"], adaptations=["none", "recon_block", "recon_3"])
    assert one.comparisons.criteria_budgets == other.comparisons.criteria_budgets == {}


def test_each_model_shows_the_first_of_its_own_budgets() -> None:
    """Though another model, or another pattern, has a better one."""
    config = make_study(ENTRIES, models=["tiny", "tiny-2"], adaptations=["none"]).as_json()
    (grid,) = config["study"]["grids"]
    for models, names in ((["tiny"], ["recon_block", "recon_3"]), (["tiny-2"], ["recon_3"])):
        config["study"]["grids"].append({**grid, "models": models, "adaptations": names})
    study = Study.check(config, "made-up.yaml")
    shown = Results(study, make_records(study, {}), Path("nowhere"))
    assert study.comparisons.criteria_budgets == {("tiny", "u50"): [["recon_block", "recon_3"]]}
    pairs = {(row["model"], row["adaptation"]) for row in shown.criteria}
    adapted = {pair for pair in pairs if pair[1] != "none"}
    assert adapted == {("tiny", "recon_block"), ("tiny-2", "recon_3")}
    assert {row["model"] for row in shown.criteria_budgets} == {"tiny"}


# --- Against budgets


def test_there_is_a_line_for_each_criterion() -> None:
    figure = figure_of(results())
    assert_words_inside(figure)
    (axes,) = figure.axes
    points = [container[0] for container in axes.containers]
    lines = [line for line in points if len(line.get_xdata()) > 1]
    assert [list(line.get_xdata()) for line in lines] == [[8192, 24576, 81920]] * 2
    levels = [pytest.approx([150, 135, 120]), pytest.approx([50, 45, 40])]
    assert [list(line.get_ydata()) for line in lines] == levels
    assert {text.get_text() for text in axes.texts} == {"Magnitude 120.0", "Wanda 40.0"}
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["not\nadapted", "8.19k", "24.6k", "81.9k"]
    assert "dense (dashed): 20.0" in axes.get_title(loc="left")


def test_what_is_not_finite_is_said_and_ends_no_line() -> None:
    """The value of a smaller budget must not stand for the largest."""
    (axes,) = figure_of(results(wanda_recon_10=None)).axes
    places = {text.get_text(): text.xy for text in axes.texts}
    assert places.keys() == {"Magnitude 120.0", "not finite"}
    assert places["not finite"] == (81920, 1.0)


def test_amounts_have_three_digits() -> None:
    tokens = (512, 8192, 131072, 524288, 999936, 1572864, 1.6e6)
    amounts = [criteria_by_budget._amount(of) for of in tokens]
    assert amounts == ["512", "8.19k", "131k", "524k", "1M", "1.57M", "1.6M"]


def test_budgets_are_named_where_they_differ() -> None:
    small, large = {"budget": {"tokens": 16384}}, {"budget": {"tokens": 65536}}
    labels = adaptation_labels(
        {
            "small": {**BLOCK, "window": 1, **small},
            "large": {**BLOCK, "window": 1, **large},
            "matrix": {**BLOCK, "window": "matrix", **small},
        }
    )
    assert labels["small"] == "reconstruction: one block, 16,384 tokens"
    assert labels["large"] == "reconstruction: one block, 65,536 tokens"
    assert labels["matrix"] == "reconstruction: single matrices"
