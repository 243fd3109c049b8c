"""The cells of a study, and their names."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from configs import ASKED, changed, checked, config, smoke
from freelunch.study import settings
from freelunch.study.cell import NAME, WORD, Cell, derive_seed


def test_cells_in_order_dense_first() -> None:
    grid = config()["study"]["grids"][0]
    other = {**grid, "models": ["two", "one"], "criteria": ["wanda"], "seeds": [3, 0]}
    cells = checked({"study.grids": [grid, other]}).cells
    assert list(map(str, cells)) == [
        "one/dense/none/seed0",
        "two/dense/none/seed0",
        "one/magnitude-u50/none/seed0",
        "one/magnitude-u50/recon_block/seed0",
        "one/wanda-u50/none/seed0",
        "one/wanda-u50/recon_block/seed0",
        "two/wanda-u50/none/seed3",
        "two/wanda-u50/none/seed0",
        "two/wanda-u50/recon_block/seed3",
        "two/wanda-u50/recon_block/seed0",
        "one/wanda-u50/none/seed3",
        "one/wanda-u50/recon_block/seed3",
    ]
    assert [cell.is_dense for cell in cells[:3]] == [True, True, False]


def test_controls_are_cells_of_the_dense_model_without_a_pattern() -> None:
    grid = {"criteria": ["wanda", "dense"], "patterns": ["u50", "2of4"], "seeds": [0, 1]}
    grid = {**config()["study"]["grids"][0], **grid, "adaptations": ["none", "full"]}
    study = checked({"adaptations.full": {"method": "full"}, "study.grids": [grid]})
    dense, *controls = [cell for cell in study.cells if not cell.is_pruned]
    assert dense.is_dense and not any(cell.is_dense for cell in controls)
    assert list(map(str, controls)) == ["one/dense/full/seed0", "one/dense/full/seed1"]
    spec = study.spec(controls[1])
    assert spec["seed"] == 1 and "calibration" in spec
    assert spec["adaptation"]["method"] == "full" and not {"criterion", "pattern"} & spec.keys()
    # Claims are about pruned models.
    assert {cell.criterion for cell in study.comparisons.cells} == {"wanda"}


def test_a_chain_says_what_came_before_and_is_no_reference() -> None:
    changes: dict[str, Any] = {
        "adaptations.recon_block.learning_rate": [0.01, 0.1],
        "adaptations.recon_two.after": "recon_block",
        "adaptations.recon_two.skip": 4,
        "adaptations.full": {"method": "full", "after": "recon_two"},
        "study.grids.0.criteria": ["wanda"],
        "study.grids.0.adaptations": ["none", "recon_block", "recon_two", "full"],
    }
    study = checked(changes)
    *_, first, second, third = study.cells
    assert [study.start_of(cell) for cell in (first, second, third)] == [None, first, second]
    specs = [study.spec(cell) for cell in (first, second, third)]
    before = [spec["adaptation"] for spec in specs[:2]]
    assert [spec.get("start") for spec in specs] == [None, before[:1], before]
    # The candidates that it starts from are compared on held-out text.
    assert "selection" in specs[2]
    # What another adaptation has seen is skipped, and drawn beyond it.
    assert study.samples("recon_two") == 8 and study.comparisons.sequences["recon_two"] == 4
    assert study.comparisons.references == ["recon_block"] and not study.comparisons.of_budgets
    assert study.comparisons.window_group(third) == {"recon_block"}


NAMES = st.from_regex(NAME, fullmatch=True)
WORDS = st.from_regex(WORD, fullmatch=True)
CELLS = st.builds(
    Cell, NAMES, WORDS.filter(lambda word: word != "dense"), WORDS, WORDS, st.integers(0, 10**6)
) | st.builds(Cell.dense, NAMES)


@given(CELLS)
def test_a_cell_is_its_name(cell: Cell) -> None:
    assert Cell.parse(str(cell)) == cell
    assert cell.record_name == str(cell).replace("/", "__") + ".json"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m/wanda-u50/none",
        "m/wanda/none/seed0",
        "m/wanda-u50/none/seed",
        "m/wanda-u50/none/seed-1",
        "M/wanda-u50/none/seed0",
        "m/wanda-u50/none/seed0/",
        "../wanda-u50/none/seed0",
        "m/wanda-u50/none/seed0\n",
    ],
)
def test_what_is_no_cell(text: str) -> None:
    with pytest.raises(ValueError, match="not a cell"):
        Cell.parse(text)


def test_seeds_for_each_purpose() -> None:
    seeds = {derive_seed(seed, purpose) for seed in range(50) for purpose in ("a", "b", "c")}
    assert len(seeds) == 150 and all(0 <= seed < 2**63 for seed in seeds)


def test_tasks_are_asked_of_the_cells_of_grids_that_say_so() -> None:
    grid = config()["study"]["grids"][0]
    asking = {**grid, "criteria": ["wanda"], "adaptations": ["none"], "tasks": True}
    other = {**grid, "models": ["two"]}
    study = checked(ASKED | {"study.grids": [grid, asking, other]})
    asked = {str(cell) for cell in study.cells if study.asks_tasks(cell)}
    assert asked == {"one/dense/none/seed0", "one/wanda-u50/none/seed0"}
    assert study.tasks["tasks"].keys() == {"rte"}
    without = checked()
    assert without.tasks == {} and not any(map(without.asks_tasks, without.cells))
    assert not any(map(without.measures_drift, without.cells))


@given(st.text(max_size=8) | NAMES | WORDS)
def test_names_that_a_config_may_give_are_names_of_cells(text: str) -> None:
    for kind, pattern in ((settings.Name, NAME), (settings.Word, WORD)):
        try:
            TypeAdapter(kind).validate_python(text)
            accepted = True
        except ValidationError:
            accepted = False
        fits = len(text) <= settings.NAME_LENGTH
        assert accepted == bool(re.fullmatch(pattern, text) and fits)


@pytest.mark.parametrize(
    ("select_on", "expected"), [("calibration", "held_out"), ("evaluation", "perplexity")]
)
def test_candidates_are_measured_on_the_text_that_chooses_among_them(
    select_on: str, expected: str
) -> None:
    study = smoke(
        {
            "adaptations.recon_block.learning_rate": [0.1, 0.2],
            "adaptations.recon_block.select_on": select_on,
        }
    )
    candidates = study.candidates(Cell.parse("tiny/wanda-u50/recon_block/seed0"))
    assert [[*study.measurements(each)] for each in candidates] == [[expected]] * 2


def test_gram_matrices_are_for_the_seeds_that_need_them_and_tasks_for_their_grids() -> None:
    grid = changed(ASKED)["study"]["grids"][0]
    more = {**grid, "criteria": ["obs"], "adaptations": ["none"], "seeds": [1], "tasks": False}
    study = checked(
        {
            **ASKED,
            "criteria.obs": {"score": "sparsegpt"},
            "study.grids": [grid, more, {**more, "criteria": ["wanda"]}],
        }
    )
    assert [study.needs_gram("one", seed) for seed in (0, 1)] == [False, True]
    cells = [Cell("one", "wanda", "u50", "none", seed) for seed in (0, 1)]
    assert [study.asks_tasks(cell) for cell in cells] == [True, False]
