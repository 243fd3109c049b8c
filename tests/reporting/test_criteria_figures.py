"""The figures of criteria, by themselves and against budgets: which cells they show, and that every
value is shown and can be read, whatever the panels hold.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from figure_words import assert_words_inside, drawn
from freelunch.reporting.cells import CRITERIA_COLUMNS, criteria_rows, means_over_seeds
from freelunch.reporting.figures import criteria_by_budget, perplexity_by_criterion
from freelunch.reporting.results import Results
from records_for_tests import PERPLEXITIES, make_records, make_study

ADAPTATIONS = ("none", "recon_block")
FOUR = ["magnitude", "wanda", "ria", "sparsegpt"]
MIXED = {"u50": FOUR, "2of4": FOUR, "s20": ["wanda_sp", "flap"]}
Row = Mapping[str, Any]
BLOCK = {"method": "reconstruction"}
ENTRIES: dict[str, dict[str, Any]] = {
    "recon_3": {**BLOCK, "budget": {"times": 3, "of": "recon_block"}},
    "recon_10": {**BLOCK, "budget": {"times": 10, "of": "recon_block"}},
    "recon_all": {**BLOCK, "window": "all"},
    "full": {"method": "full"},
}
LEVELS = {"none": 60.0, "recon_block": 50.0, "recon_3": 45.0, "recon_10": 40.0}


# --- Which cells


def results(**changes: float | None) -> Results:
    study = make_study(ENTRIES, adaptations=["none", "recon_block", *ENTRIES])
    values: dict[str, float | None] = {}
    for cell in study.cells:
        level = LEVELS.get(cell.adaptation, 55.0) * (3 if cell.criterion == "magnitude" else 1)
        name = f"{cell.criterion}_{cell.adaptation}"
        values[str(cell)] = 20.0 if cell.is_dense else changes.get(name, level)
    return Results(study, make_records(study, values), Path("nowhere"))


def place(model: str, pattern: str, criterion: str, adaptation: str) -> dict[str, str]:
    return {
        "model": model,
        "pattern": pattern,
        "criterion": criterion,
        "adaptation": adaptation,
    }


def test_only_what_several_criteria_have_is_shown() -> None:
    """Else the figure of the paper's study would be over a metre wide: one criterion has 22
    adaptations there, and each criterion gets room for all that are shown.
    """
    compared = [place("m", "u50", *names) for names in product("ab", ("none", "recon"))]
    dense = place("m", "none", "dense", "none")
    others = [
        place("m", "u50", "a", "recon_all"),
        place("m", "2of4", "a", "recon_all"),
        place("other", "none", "dense", "none"),
        place("other", "u50", "a", "none"),
    ]
    assert criteria_rows([dense, *compared, *others], {}) == [dense, *compared]
    # All is shown if criteria share no adaptation: otherwise, there would be nothing to draw.
    rows = [place("m", "u50", "a", "none"), place("m", "u50", "b", "recon")]
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
    # One budget or one criterion is no comparison.
    for grid in (
        {"adaptations": ["none", "recon_block", "recon_all"]},
        {"criteria": ["wanda"], "adaptations": ["none", "recon_block", "recon_3"]},
    ):
        assert make_study(ENTRIES, **grid).comparisons.criteria_budgets == {}


# --- Against budgets


def budgets_figure(of: Results) -> Axes:
    adaptations = of.study.as_json()["adaptations"]
    figure = drawn(criteria_by_budget, of.criteria_budgets, adaptations=adaptations, text="text")
    assert_words_inside(figure)
    (axes,) = figure.axes
    return axes


def test_there_is_a_line_for_each_criterion() -> None:
    axes = budgets_figure(results())
    points = [container[0] for container in axes.containers]
    lines = [line for line in points if len(line.get_xdata()) > 1]
    assert [list(line.get_xdata()) for line in lines] == [[8192, 24576, 81920]] * 2
    levels = [pytest.approx([3, 3, 3]), pytest.approx([1, 1, 1])]
    assert [list(line.get_ydata()) for line in lines] == levels
    assert {text.get_text() for text in axes.texts} == {"Magnitude 120.0", "Wanda 40.0"}
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["pruned", "8k", "24k", "81k"]
    # The value of a smaller budget must not stand for the largest.
    axes = budgets_figure(results(wanda_recon_10=None))
    places = {text.get_text(): text.xy for text in axes.texts}
    assert places.keys() == {"Magnitude 120.0", "not finite"}
    assert places["not finite"] == (81920, 1.0)


# --- By themselves


def rows_of(perplexities: dict[str, float | None], **grid: list[object]) -> list[Row]:
    return means_over_seeds(make_records(make_study(**grid), perplexities))


def row(*fields: object) -> Row:
    return dict(zip(CRITERIA_COLUMNS, fields, strict=True))


def rows_of_grid(
    grid: Mapping[str, Sequence[str]],
    adaptations: Sequence[str] = ADAPTATIONS,
    value: float = 1234.0,
    spread: float = 3.0,
) -> list[Row]:
    """Return three seeds of each pattern's criteria; all perplexities alike, the hardest case."""
    return [
        row("dense", "none", "tiny", "none", 1, 20.0, 1.0, None),
        *(
            row(criterion, pattern, "tiny", adaptation, 3, value, 1.0, spread)
            for pattern, names in grid.items()
            for criterion in names
            for adaptation in adaptations
        ),
    ]


def figure_of(rows: Iterable[Row], adaptations: Sequence[str] = ADAPTATIONS) -> Figure:
    entries = {name: {"method": "full"} for name in adaptations if name != "none"}
    return drawn(perplexity_by_criterion, rows, adaptations=entries, text="evaluation-text")


def titles_of(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def criteria_of(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


def values_of(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_panel_shows_every_value_with_its_bar_and_the_dense_line() -> None:
    rows = rows_of(PERPLEXITIES)
    figure = figure_of(rows)
    (axes,) = figure.axes
    assert sorted(values_of(figure)) == ["144", "307", "39.0", "46.0", "dense\n20.5"]
    assert axes.get_yscale() == "log"
    assert axes.get_title(loc="left") == "tiny, 50 % unstructured"
    assert criteria_of(axes) == ["Magnitude", "Wanda"]
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert {"20", "50", "100", "200"} <= set(ticks)
    expected = sorted(
        (row["perplexity"] + sign * row["perplexity_standard_error"])
        for row in rows
        if row["criterion"] != "dense"
        for sign in (-1, 1)
    )
    ends = [
        float(end)
        for bars in axes.collections
        if isinstance(bars, LineCollection)
        for segment in bars.get_segments()
        for end in segment[:, 1]
    ]
    assert len(ends) == 8 and sorted(ends) == pytest.approx(expected)
    close = {str(cell): 20.0 + index for index, cell in enumerate(make_study().cells)}
    assert figure_of(rows_of(close)).axes[0].get_yscale() == "linear"


def test_a_perplexity_that_is_not_finite_is_said_and_stays_in_the_legend() -> None:
    none = {f"tiny/{criterion}-u50/none/seed0": None for criterion in ("magnitude", "wanda")}
    figure = figure_of(rows_of({**PERPLEXITIES, **none}))
    assert values_of(figure).count("not finite") == 2
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["pruned", "retraining: all weights"]


def test_panels_have_only_the_patterns_of_their_model_and_the_criteria_of_their_pattern() -> None:
    more = [
        row("dense", "none", "tiny-2", "none", 1, 20.0, 1.0, None),
        row("wanda", "u60", "tiny-2", "none", 1, 40.0, 1.0, None),
    ]
    figure = figure_of([*rows_of(PERPLEXITIES), *more])
    assert titles_of(figure) == ["tiny, 50 % unstructured", "tiny-2, 60 % unstructured"]
    assert criteria_of(figure.axes[1]) == ["Wanda"]
    figure = figure_of(rows_of_grid(MIXED))
    # Another figure may show the same cells of one seed.
    patterns = ("50 % unstructured", "2:4", "20 % structured")
    assert titles_of(figure) == [f"tiny, {each}\nmean of 3 seeds" for each in patterns]
    four = ["Magnitude", "Wanda", "RIA", "SparseGPT"]
    assert [criteria_of(axes) for axes in figure.axes] == [four, four, ["Wanda-sp", "FLAP"]]
    wide, as_wide, narrow = (axes.get_position().width for axes in figure.axes)
    assert wide == pytest.approx(as_wide) and narrow < 0.6 * wide


@pytest.mark.parametrize(("criteria_count", "a_row"), [(1, 3), (2, 2), (4, 1), (6, 1)])
def test_no_row_is_wider_than_a_page(criteria_count: int, a_row: int) -> None:
    names = [f"criterion{index}" for index in range(criteria_count)]
    figure = figure_of(rows_of_grid(dict.fromkeys(("u50", "u60", "u70", "2of4", "s20"), names)))
    tops = [round(axes.get_position().y1, 6) for axes in figure.axes]
    assert len(tops) == 5
    assert max(tops.count(top) for top in tops) == a_row
    assert figure.get_size_inches()[0] < 7
    # The first of a row has the model's name and the numbers of the scale.
    first = [index for index, top in enumerate(tops) if tops.index(top) == index]
    titles = enumerate(titles_of(figure))
    assert [index for index, title in titles if title.startswith("tiny, ")] == first
    assert [index for index, axes in enumerate(figure.axes) if axes.get_ylabel()] == first
    assert len({axes.get_ylim() for axes in figure.axes}) == 1, "scales differ"


@pytest.mark.parametrize("adaptations", [("none",), (*ADAPTATIONS, "recon_attn")])
def test_values_names_and_titles_do_not_overlap(adaptations: tuple[str, ...]) -> None:
    grid = {**MIXED, "u60": [*FOUR, "random", "wanda_row"]}
    figure = figure_of(rows_of_grid(grid, adaptations), adaptations)
    assert_words_inside(figure)
    groups = [[axes._left_title for axes in figure.axes]]
    for axes in figure.axes:
        values = [text for text in axes.texts if "dense" not in text.get_text()]
        assert len(values) == len(axes.get_xticklabels()) * len(adaptations)
        groups += [values, axes.get_xticklabels()]
    for texts in groups:
        boxes = [text.get_window_extent() for text in texts]
        assert not any(box.count_overlaps(boxes[at + 1 :]) for at, box in enumerate(boxes))


def test_the_longest_bars_are_inside_and_explained_where_there_are_seeds() -> None:
    for spread in (35.0, 15.0):
        rows = rows_of_grid({"u50": ["wanda"]}, value=40.0, spread=spread)
        low, high = figure_of(rows).axes[0].get_ylim()
        assert high > 40 + spread and (low < 40 - spread or spread == 35)
    for rows, several in ((rows_of(PERPLEXITIES), False), (rows_of({}, seeds=[0, 1]), True)):
        explained = figure_of(rows).legends[0].get_title().get_text()
        assert ("standard deviation over seeds" in explained) == several
