"""A folder for each test of `freelunch new`, and models that tests share."""

from pathlib import Path

import pytest

from freelunch.cli import check
from freelunch.cli import new as new_module
from own_models import check_here


@pytest.fixture(autouse=True)
def _checks_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (new_module, check):
        monkeypatch.setattr(module, "check_as_fetched", check_here)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each family, made when it is asked for."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # As below `make new`.
    monkeypatch.setenv("MAKELEVEL", "1")
