"""The figure of the criteria: every value is shown and can be read, whatever the panels hold."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from figure_words import assert_words_inside, drawn
from freelunch.reporting.cells import CRITERIA_COLUMNS, means_over_seeds
from freelunch.reporting.figures import perplexity_by_criterion
from records_for_tests import PERPLEXITIES, make_records, make_study

ADAPTATIONS = ("none", "recon_block")
FOUR = ["magnitude", "wanda", "ria", "sparsegpt"]
MIXED = {"u50": FOUR, "2of4": FOUR, "s20": ["wanda_sp", "flap"]}
Row = Mapping[str, Any]


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


def test_panel_shows_every_value_and_the_dense_line() -> None:
    figure = figure_of(rows_of(PERPLEXITIES))
    (axes,) = figure.axes
    assert sorted(values_of(figure)) == ["144", "307", "39.0", "46.0", "dense\n20.5"]
    assert axes.get_yscale() == "log"
    assert axes.get_title(loc="left") == "tiny, 50 % unstructured"
    assert criteria_of(axes) == ["Magnitude", "Wanda"]
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert {"20", "50", "100", "200"} <= set(ticks)
    close = {str(cell): 20.0 + index for index, cell in enumerate(make_study().cells)}
    assert figure_of(rows_of(close)).axes[0].get_yscale() == "linear"


def test_error_bars_are_those_of_the_data() -> None:
    rows = rows_of(PERPLEXITIES)
    expected = sorted(
        (row["perplexity"] + sign * row["perplexity_standard_error"])
        for row in rows
        if row["criterion"] != "dense"
        for sign in (-1, 1)
    )
    ends = [
        float(end)
        for bars in figure_of(rows).axes[0].collections
        if isinstance(bars, LineCollection)
        for segment in bars.get_segments()
        for end in segment[:, 1]
    ]
    assert len(ends) == 8 and sorted(ends) == pytest.approx(expected)


def test_a_perplexity_that_is_not_finite_is_said_and_stays_in_the_legend() -> None:
    none = {f"tiny/{criterion}-u50/none/seed0": None for criterion in ("magnitude", "wanda")}
    figure = figure_of(rows_of({**PERPLEXITIES, **none}))
    assert values_of(figure).count("not finite") == 2
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["not adapted", "retraining: all weights"]


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


@pytest.mark.parametrize("adaptations", [("none",), ADAPTATIONS, (*ADAPTATIONS, "recon_attn")])
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


def test_the_longest_bars_are_inside() -> None:
    for spread in (35.0, 15.0):
        rows = rows_of_grid({"u50": ["wanda"]}, value=40.0, spread=spread)
        low, high = figure_of(rows).axes[0].get_ylim()
        assert high > 40 + spread and (low < 40 - spread or spread == 35)


def test_seeds_are_explained_only_where_there_are_several() -> None:
    for rows, several in ((rows_of(PERPLEXITIES), False), (rows_of({}, seeds=[0, 1]), True)):
        explained = figure_of(rows).legends[0].get_title().get_text()
        assert ("standard deviation over seeds" in explained) == several
