"""Windows, kept boundaries, and the candidates of a search."""

from typing import Any

import pytest

from configs import smoke
from freelunch.costs.jobs import jobs_of
from freelunch.study.cell import Cell
from freelunch.study.retraining import read_adaptation
from freelunch.study.search import adaptation_of, candidates_of
from freelunch.study.study import Study
from freelunch.study.windows import kept_boundaries, split_windows, window_order

pytestmark = pytest.mark.usefixtures("in_the_repository")


def settings_of(**settings: Any) -> Any:
    return read_adaptation({"method": "reconstruction", **settings})


def adapted(**settings: Any) -> Study:
    """Return the smoke study with settings of its one adaptation, `recon_block`."""
    return smoke({f"adaptations.recon_block.{key}": value for key, value in settings.items()})


ONE_BLOCK = [range(0, 1), range(1, 2), range(2, 3)]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ("matrix", ONE_BLOCK),
        ("attention_mlp", ONE_BLOCK),
        (1, ONE_BLOCK),
        (2, [range(0, 2), range(2, 3)]),
        (3, [range(0, 3)]),
        ("all", [range(0, 3)]),
    ],
)
def test_windows_of_three_blocks(window: int | str, expected: list[range]) -> None:
    assert split_windows(3, window) == expected


def test_names_of_windows_are_in_the_order_of_blocks() -> None:
    names = ["10-11", "2.mlp", "2.attention", "0-1"]
    assert sorted(names, key=window_order) == ["0-1", "2.attention", "2.mlp", "10-11"]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("all", range(7)),
        ("none", []),
        ("every_1", range(7)),
        ("every_2", [0, 2, 4, 6]),
        ("every_4", [0, 4, 6]),
        ("every_100", [0, 6]),
    ],
)
def test_kept_boundaries(keep: str, expected: Any) -> None:
    assert kept_boundaries(keep, 6) == set(expected)


def test_candidates_are_all_pairs() -> None:
    found = candidates_of("recon", settings_of(learning_rate=[0.001, 1e-5], epochs=[1, 3]))
    assert list(found) == [
        "recon.lr0.001.epochs1",
        "recon.lr0.001.epochs3",
        "recon.lr1e-05.epochs1",
        "recon.lr1e-05.epochs3",
    ]
    for name, settings in found.items():
        expected = settings_of(learning_rate=settings.rate, epochs=settings.passes)
        assert settings.as_json() == expected.as_json()
        assert adaptation_of(name) == "recon"
        cell = Cell("tiny", "wanda", "u50", name, 0)
        assert Cell.parse(str(cell)) == cell
    # What decides among them is no setting of theirs: another way makes none of them again.
    searched = settings_of(learning_rate=[0.001, 1e-5], epochs=[1, 3], select_on="evaluation")
    assert candidates_of("recon", searched) == found
    assert candidates_of("recon", settings_of(learning_rate=0.001)) == {}
    assert list(candidates_of("recon", settings_of(learning_rate=[0.1]))) == ["recon.lr0.1.epochs1"]


def test_a_study_knows_its_candidates() -> None:
    study = adapted(learning_rate=[0.1, 0.2])
    cell = Cell.parse("tiny/wanda-u50/recon_block/seed0")
    candidates = study.candidates(cell)
    assert [one.adaptation for one in candidates] == study.candidate_names("recon_block")
    assert study.adaptation(candidates[1].adaptation).learning_rate == 0.2  # type: ignore[union-attr]
    assert study.spec(cell)["selection"] == {"samples": 16}
    assert "selection" not in adapted(learning_rate=[0.1], select_on="evaluation").spec(cell)
    assert "selection" not in adapted(learning_rate=0.1).spec(cell)
    rules = [job.rule for job in jobs_of(study)]
    assert rules.count("reconstruct_window") == 4 and rules.count("evaluate_cell") == 5 + 4
