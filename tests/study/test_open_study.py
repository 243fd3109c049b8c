"""The study that Snakemake's config chooses."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs import STUDIES, config
from freelunch.core.errors import run_again
from freelunch.study.open_study import DEVICE, chosen_study, claim_results
from freelunch.study.yaml_file import read_yaml
from refusals import refused
from repository import ROOT

ONE_STUDY = (ROOT / "studies" / "criteria.yaml").read_text()
PAPER = {"study": "studies/paper.yaml"}


@pytest.mark.parametrize(
    ("given", "name", "source"),
    [
        ({}, "laptop", "config.yaml"),
        ({DEVICE: 80}, "laptop", "config.yaml"),
        ({"study": "studies/smoke.yaml"}, "smoke", "studies/smoke.yaml"),
        # A name that goes into a job's settings would else make it run again.
        ({"study": "studies/../studies//smoke.yaml"}, "smoke", "studies/smoke.yaml"),
        ({"study": str(ROOT / "studies" / "smoke.yaml")}, "smoke", "studies/smoke.yaml"),
    ],
)
def test_a_study_is_chosen_by_the_name_of_its_file(
    given: dict[str, object], name: str, source: str
) -> None:
    """The commands in messages are then about it."""
    study = chosen_study(given)
    assert (study.name, study.source) == (name, source)
    assert f"STUDY={source} " in run_again("prune_model")


def test_a_file_outside_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = tmp_path / "mine.yaml", tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path.write_text(ONE_STUDY)
    assert chosen_study({"study": str(path)}).source == "../mine.yaml"


@pytest.mark.parametrize("name", ["my{own}.yaml", "my{own/study.yaml"])
def test_wildcards_in_the_path_of_a_study(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(ONE_STUDY)
    with refused(where=name, todo="rename"):
        chosen_study({"study": name})


@pytest.fixture
def _without_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose studies whose branches have no pins."""
    monkeypatch.setattr("freelunch.study.open_study.check_pinned", lambda study: None)


@pytest.mark.usefixtures("_without_pins")
@pytest.mark.parametrize(
    "names", ["opt-125m,qwen2.5-72b", "opt-125m qwen2.5-72b", " opt-125m, qwen2.5-72b,"]
)
def test_models_and_claims_choose_a_part(names: str) -> None:
    part = chosen_study({**PAPER, "models": names, "claims": "C3"})
    assert {cell.model for cell in part.cells} == {"opt-125m", "qwen2.5-72b"}
    assert {cell.adaptation for cell in part.cells} == {"none", "recon_block"}
    assert "STUDY=studies/paper.yaml CLAIMS=C3 MODELS=opt-125m,qwen2.5-72b " in run_again("x")
    assert len(chosen_study(PAPER).cells) > len(part.cells)
    assert "STUDY=studies/paper.yaml FORCE" in run_again("x")


@pytest.mark.usefixtures("_without_pins")
@pytest.mark.parametrize(
    ("given", "seeds"), [(0, {0}), ("1, 2", {0, 1, 2}), ("2", {0, 2}), ("2,02", {0, 2})]
)
def test_seeds_choose_a_part(given: object, seeds: set[int]) -> None:
    """The dense model is always there, as seed 0. Snakemake reads `seeds=0` as a number."""
    part = chosen_study({**PAPER, "models": "opt-125m", "claims": "C4,C2", "seeds": given})
    assert {cell.seed for cell in part.cells} == seeds
    assert {cell.seed for cell in part.cells if not cell.is_dense} == seeds - {0} or given == 0


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("seeds", ["", "one", "0,x", "-1", "0.5", 1.5, [0], 2**32]),
        ("models", ["", " , ", 7.5, True, ["opt-125m"]]),
    ],
)
def test_what_chooses_no_part_is_refused(key: str, values: list[object]) -> None:
    for value in values:
        with refused(where=key, found=repr(value), expected="separated by commas, or no `"):
            chosen_study({**PAPER, key: value})


def test_an_unknown_name_is_refused() -> None:
    """Also one of digits, which Snakemake reads as a number."""
    with refused(where="studies/paper.yaml") as caught:
        chosen_study({**PAPER, "models": "opt-125,7", "claims": "C9"})
    assert "study.part.models: no grid is for 'opt-125'; expected opt-125m (nearest)" in str(
        caught.value
    )
    assert "no grid is for '7'" in str(caught.value) and "'C9'" in str(caught.value)
    with refused(where="studies/paper.yaml"):
        chosen_study({**PAPER, "models": 7})


@pytest.mark.parametrize(
    ("given", "found"),
    [
        # Snakemake would merge a study with another one, key by key.
        (read_yaml(STUDIES[0]), "base, study"),
        ({"study": "studies/smoke.yaml", "models": {}, "threads": 2}, "study, models, threads"),
        ({DEVICE: 80, "memory": 80}, f"{DEVICE}, memory"),
        # Such as the block `study` of a study's file that says nothing else.
        ({"study": config()["study"]}, "study: {'name': 'tests', "),
        ({"study": ["studies/smoke.yaml"]}, "study: ['studies/smoke.yaml']"),
        ({"study": 72}, "study: 72"),
        ({"study": None}, "study: None"),
        ({"study": ""}, "study: ''"),
    ],
)
def test_what_is_no_choice(given: dict[str, Any], found: str) -> None:
    with refused(where="Snakemake's config", found=found, todo="--config study=FILE"):
        chosen_study(given)


@pytest.mark.parametrize("name", ["studies/none.yaml", "studies"])
def test_a_file_that_is_not_there(name: str) -> None:
    with refused(where=name, expected="studies/smoke.yaml", todo="freelunch new MODEL TEXT"):
        chosen_study({"study": name})


# --- Two files with one name


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The second of two study files with one name; the first, one.yaml, has results."""
    monkeypatch.chdir(tmp_path)
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / name).write_text(ONE_STUDY)
    claim_results(chosen_study({"study": "one.yaml"}))
    return Path("two.yaml")


def test_results_are_not_replaced_by_those_of_another_file(two: Path) -> None:
    todo = "if two.yaml is to replace one.yaml, remove results/criteria/study.txt"
    with refused(where="two.yaml: study.name", found="criteria, which is also", todo=todo):
        chosen_study({"study": str(two)})
    assert chosen_study({"study": "one.yaml"}).name == "criteria"


def rename(path: str | Path) -> None:
    Path(path).write_text(ONE_STUDY.replace("name: criteria ", "name: other "))


NOTE = Path("results/criteria/study.txt")
WAYS: dict[str, Callable[[Path], object]] = {
    "rename this study": rename,
    "remove the note": lambda two: NOTE.unlink(),
    "damage the note": lambda two: NOTE.write_bytes(b"\0\xff"),
    "link to the other file": lambda two: (two.unlink(), two.symlink_to("one.yaml")),
    "rename the file": lambda two: os.replace("one.yaml", two),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_ways_out_when_two_files_have_one_name(two: Path, way: str) -> None:
    WAYS[way](two)
    name = "other" if way == "rename this study" else "criteria"
    assert chosen_study({"study": str(two)}).name == name
