"""The study that Snakemake's config chooses."""

import os
from pathlib import Path
from typing import Any

import pytest

from configs import STUDIES, config
from freelunch.core.errors import STUDY_VARIABLE, UserError, run_again
from freelunch.study.open_study import DEVICE, chosen_study, claim_results
from freelunch.study.pins import hub_entries
from freelunch.study.study import Study
from freelunch.study.yaml_file import read_yaml
from repository import ROOT


def refusal(given: dict[str, Any]) -> str:
    """Return the message of the UserError that a choice has to raise."""
    with pytest.raises(UserError) as caught:
        chosen_study(given)
    return str(caught.value)


def test_the_default_study_is_chosen_by_nothing() -> None:
    found = chosen_study({})
    assert (found.name, found.source) == ("laptop", "config.yaml")


# Others would need pins.
WITHOUT_HUB = [path for path in STUDIES if not hub_entries(Study.load(path))]


@pytest.mark.parametrize("path", WITHOUT_HUB, ids=lambda path: path.stem)
def test_a_study_is_chosen_by_the_name_of_its_file(path: Path) -> None:
    named = str(path.relative_to(ROOT))
    found = chosen_study({"study": named})
    assert found.source == named
    assert found.name == read_yaml(path)["study"]["name"]


@pytest.mark.parametrize(
    "name",
    [
        "./studies/smoke.yaml",
        "studies/../studies//smoke.yaml",
        str(ROOT / "studies" / "smoke.yaml"),
    ],
)
def test_another_name_of_the_same_file_is_the_same_choice(name: str) -> None:
    """A name that goes into a job's settings would else make it run again."""
    assert chosen_study({"study": name}).source == "studies/smoke.yaml"


@pytest.mark.parametrize("name", ["my{own}.yaml", "my{own/study.yaml"])
def test_braces_in_the_path_of_a_study_which_snakemake_reads_as_wildcards(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text((ROOT / "studies" / "criteria.yaml").read_text())
    message = refusal({"study": name})
    assert message.startswith(f"{name}: ") and "has no { and }" in message


@pytest.mark.parametrize(
    "name", ["run #2.yaml", "run: 2.yaml", "#2.yaml", "- a.yaml", "&a b.yaml", "!x y.yaml", "2024"]
)
def test_what_snakemake_would_read_otherwise_in_the_path_of_a_study(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text((ROOT / "studies" / "criteria.yaml").read_text())
    assert refusal({"study": name}).startswith(f"{name}: Snakemake would read this path as YAML")


def test_the_memory_of_a_device_is_no_study() -> None:
    assert chosen_study({DEVICE: 80}).name == "laptop"
    assert chosen_study({DEVICE: 80, "study": "studies/smoke.yaml"}).name == "smoke"
    known = "nothing else but `models`, `claims`, `seeds`, `device_memory` and `tflops`"
    assert known in refusal({DEVICE: 80, "memory": 80})


PAPER = {"study": "studies/paper.yaml"}


@pytest.fixture
def _without_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose studies whose branches have no pins."""
    monkeypatch.setattr("freelunch.study.open_study.check_pinned", lambda study: None)


@pytest.mark.usefixtures("_without_pins")
@pytest.mark.parametrize(
    "names", ["opt-125m,qwen2.5-72b", "opt-125m qwen2.5-72b", " opt-125m, qwen2.5-72b,"]
)
def test_models_and_claims_choose_a_part(names: str) -> None:
    found = chosen_study({**PAPER, "models": names, "claims": "C3"})
    assert {cell.model for cell in found.cells} == {"opt-125m", "qwen2.5-72b"}
    assert {cell.adaptation for cell in found.cells} == {"none", "recon_block"}
    assert "STUDY=studies/paper.yaml CLAIMS=C3 MODELS=opt-125m,qwen2.5-72b " in run_again("x")
    assert len(chosen_study(PAPER).cells) > len(found.cells)
    assert "STUDY=studies/paper.yaml FORCE" in run_again("x")


@pytest.mark.usefixtures("_without_pins")
def test_models_alone_or_claims_alone_choose_a_part() -> None:
    assert {cell.model for cell in chosen_study({**PAPER, "models": "opt-13b"}).cells} == {
        "opt-13b"
    }
    assert len(chosen_study({**PAPER, "claims": "C4"}).cells) == 14


@pytest.mark.usefixtures("_without_pins")
@pytest.mark.parametrize(
    ("given", "seeds"), [(0, {0}), ("1, 2", {0, 1, 2}), ("2", {0, 2}), ("2,02", {0, 2})]
)
def test_seeds_choose_a_part(given: object, seeds: set[int]) -> None:
    """The dense model is always there, as seed 0. Snakemake reads `seeds=0` as a number."""
    found = chosen_study({**PAPER, "models": "opt-125m", "claims": "C4,C2", "seeds": given})
    assert {cell.seed for cell in found.cells} == seeds
    assert {cell.seed for cell in found.cells if not cell.is_dense} == seeds - {0} or given == 0


@pytest.mark.parametrize("given", ["", "one", "0,x", "-1", "0.5", 1.5, [0], 2**32])
def test_what_are_no_seeds_is_refused(given: object) -> None:
    message = refusal({**PAPER, "seeds": given})
    assert message.startswith("seeds: a part of a study is chosen by whole numbers")
    assert "expected: whole numbers separated by commas, or no `seeds`" in message


def test_a_name_of_digits_which_snakemake_reads_as_a_number() -> None:
    assert "no grid is for '7'" in refusal({**PAPER, "models": 7})


@pytest.mark.parametrize("names", ["", " , ", 7.5, True, ["opt-125m"]])
def test_what_are_no_names_is_refused(names: object) -> None:
    message = refusal({**PAPER, "models": names})
    assert message.startswith("models: a part of a study is chosen by names")
    assert "expected: names separated by commas, or no `models`" in message


def test_an_unknown_name_is_refused() -> None:
    message = refusal({**PAPER, "models": "opt-125", "claims": "C9"})
    assert "study.part.models: no grid is for 'opt-125'; expected opt-125m (nearest)" in message
    assert "study.part.claims: no grid is for 'C9'; expected one of: C1, C2" in message


def test_messages_name_the_study_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STUDY_VARIABLE, raising=False)
    chosen_study({"study": "./studies/smoke.yaml"})
    assert "STUDY=studies/smoke.yaml " in run_again("prune_model")


@pytest.fixture
def two_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two study files with one name; the first has results."""
    monkeypatch.chdir(tmp_path)
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / name).write_text((ROOT / "studies" / "criteria.yaml").read_text())
    claim_results(chosen_study({"study": "one.yaml"}))
    return Path("one.yaml"), Path("two.yaml")


def test_results_are_not_replaced_by_those_of_another_file(
    two_of_a_name: tuple[Path, Path],
) -> None:
    one, two = two_of_a_name
    message = refusal({"study": str(two)})
    assert message.startswith("two.yaml: study.name: results/criteria has the results of another")
    assert "found:    criteria, which is also the name of the study in one.yaml" in message
    assert message.endswith("if two.yaml is to replace one.yaml, remove results/criteria/study.txt")
    assert chosen_study({"study": str(one)}).name == "criteria"


def test_the_ways_out_when_two_files_have_one_name(two_of_a_name: tuple[Path, Path]) -> None:
    one, two = two_of_a_name
    two.write_text(two.read_text().replace("name: criteria ", "name: other "))
    assert chosen_study({"study": str(two)}).name == "other"
    two.write_text(one.read_text())
    Path("results/criteria/study.txt").unlink()
    assert chosen_study({"study": str(two)}).name == "criteria"


def test_a_file_whose_study_was_renamed_no_longer_owns_the_results(
    two_of_a_name: tuple[Path, Path],
) -> None:
    one, two = two_of_a_name
    one.write_text(one.read_text().replace("name: criteria ", "name: other "))
    assert chosen_study({"study": str(two)}).name == "criteria"


def test_a_link_to_a_study_is_that_study(two_of_a_name: tuple[Path, Path]) -> None:
    one, two = two_of_a_name
    two.unlink()
    two.symlink_to(one)
    assert chosen_study({"study": str(two)}).name == "criteria"


def test_a_renamed_file_keeps_its_results(two_of_a_name: tuple[Path, Path]) -> None:
    one, two = two_of_a_name
    one.replace(two)
    assert chosen_study({"study": str(two)}).name == "criteria"


def test_a_file_outside_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(folder)
    path.write_text((ROOT / "studies" / "smoke.yaml").read_text())
    found = chosen_study({"study": str(path)})
    assert found.name == "smoke"
    assert found.source == os.path.relpath(path)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_keys_that_configfile_brings_are_refused(path: Path) -> None:
    """Snakemake would merge a study with another one, key by key."""
    message = refusal(read_yaml(path))
    assert message.startswith("Snakemake's config: a study is chosen by its file's name")
    for key in read_yaml(path):
        assert key in message
    assert "to do:    use `--config study=FILE`, without --configfile" in message


def test_a_key_beside_the_study_is_refused() -> None:
    message = refusal({"study": "studies/smoke.yaml", "models": {}, "threads": 2})
    assert "found:    study, models, threads\n" in message
    assert "expected: `study`, the name of a file, and nothing else" in message


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (config()["study"], "{'name': 'tests', "),
        ({}, "{}"),
        (["studies/smoke.yaml"], "['studies/smoke.yaml']"),
        (72, "72"),
        (True, "True"),
        (None, "None"),
        ("", "''"),
    ],
)
def test_a_study_that_is_no_name_of_a_file(value: object, shown: str) -> None:
    """Such as the block `study` of a study's file that says nothing else."""
    message = refusal({"study": value})
    assert f"found:    study: {shown}" in message
    assert "expected: `study`, the name of a file, and nothing else" in message


@pytest.mark.parametrize("name", ["studies/none.yaml", "studies"])
def test_a_file_that_is_not_there(name: str) -> None:
    said = refusal({"study": name})
    assert said.startswith(f"{name}: there is no such study file")
    assert "studies/smoke.yaml" in said and "freelunch new MODEL TEXT" in said


def test_what_is_wrong_with_the_study_is_said_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((ROOT / "studies" / "smoke.yaml").read_text().replace(", wanda]", ", wnda]"))
    named = os.path.relpath(path)
    message = refusal({"study": str(path)})
    assert message.startswith(f"{named}: ") and "'wnda' is not in `criteria`" in message
