"""A hub, and commands that have to succeed or to fail, in a folder for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from freelunch.cli.main import main
from freelunch.core.errors import STUDY_VARIABLE
from hub_standin import HubStandIn, hub_here
from own_models import machine
from pinned_studies import CONFIG, Captured, Said, write_study


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(STUDY_VARIABLE, "config.yaml")
    monkeypatch.setattr("freelunch.cli.main.this_machine", lambda size: machine())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """A hub with two models and a dataset."""
    with hub_here(monkeypatch, tmp_path) as standin:
        for name in ("team/one", "team/two"):
            standin.add(name, {**CONFIG, "name": name.encode()})
        standin.add("team/words", {"a.txt": b"words"}, kind="datasets")
        write_study()
        yield standin


@pytest.fixture
def did(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Said:
    """Run a command that has to succeed; return what it printed."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["freelunch", *arguments])
        status, printed = main(), capsys.readouterr()
        assert status == 0, printed.err
        return printed.out

    return run


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Said:
    """Run a command that has to fail; return its one error."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["freelunch", *arguments])
        assert main() == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("error: ") == 1
        return said

    return run
