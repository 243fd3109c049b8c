"""The study that Snakemake's config chooses."""

import os
from pathlib import Path
from typing import Any

import pytest

from configs import ROOT, STUDIES, config
from freelunch.core.errors import UserError
from freelunch.study.base import read_yaml
from freelunch.study.choice import DEVICE, chosen_study


def refusal(given: dict[str, Any]) -> str:
    """Return the message of the UserError that a choice has to raise."""
    with pytest.raises(UserError) as caught:
        chosen_study(given)
    return str(caught.value)


def test_the_default_study_is_chosen_by_nothing() -> None:
    found = chosen_study({})
    assert (found.name, found.source) == ("laptop", "config.yaml")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
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


def test_the_memory_of_a_device_is_no_study() -> None:
    assert chosen_study({DEVICE: 80}).name == "laptop"
    assert chosen_study({DEVICE: 80, "study": "studies/smoke.yaml"}).name == "smoke"
    assert "nothing else but `device_memory`" in refusal({DEVICE: 80, "memory": 80})


def test_a_file_outside_of_the_repository(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
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
    assert refusal({"study": name}) == f"{name}: there is no such file"


def test_what_is_wrong_with_the_study_is_said_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((ROOT / "studies" / "smoke.yaml").read_text().replace(", wanda]", ", wnda]"))
    named = os.path.relpath(path)
    message = refusal({"study": str(path)})
    assert message.startswith(f"{named}: ") and "'wnda' is not in `criteria`" in message
