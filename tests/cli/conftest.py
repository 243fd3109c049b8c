"""A folder for each test, and commands that have to succeed or to fail there."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from freelunch.cli import check as check_module
from freelunch.cli import new as new_module
from freelunch.cli.main import main
from freelunch.core.errors import STUDY_VARIABLE
from hub_standin import HubStandIn, hub_here
from own_models import check_here, machine
from pinned_studies import CONFIG, write_study

Captured = pytest.CaptureFixture[str]
Run = Callable[..., int]
Said = Callable[..., str]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # As below `make`.
    monkeypatch.setenv("MAKELEVEL", "1")
    for module in (new_module, check_module):
        monkeypatch.setattr(module, "check_as_fetched", check_here)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each family, made when it is asked for."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def command(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["freelunch", *map(str, arguments)])
        return main()

    return command


@pytest.fixture
def did(run: Run, capsys: Captured) -> Said:
    """Run a command that has to succeed; return what it printed."""

    def succeeded(*arguments: object) -> str:
        status, printed = run(*arguments), capsys.readouterr()
        assert status == 0, printed.err
        return printed.out

    return succeeded


@pytest.fixture
def refused(run: Run, capsys: Captured) -> Said:
    """Run a command that has to fail; return its one error."""

    def failed(*arguments: object) -> str:
        assert run(*arguments) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("error: ") == 1
        assert "Traceback" not in said
        return said

    return failed


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    with hub_here(monkeypatch, tmp_path) as standin:
        yield standin


@pytest.fixture
def team(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> HubStandIn:
    """A study of two models and a text on a hub."""
    monkeypatch.setenv(STUDY_VARIABLE, "config.yaml")
    monkeypatch.setattr("freelunch.cli.main.this_machine", lambda size: machine())
    for name in ("team/one", "team/two"):
        hub.add(name, {**CONFIG, "name": name.encode()})
    hub.add("team/words", {"a.txt": b"words"}, kind="datasets")
    write_study()
    return hub
