"""A Slurm for all tests of this folder, and a study that was run on it and beside it."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from real_slurm import Slurm
from slurm_folder import OnSlurm
from study_folder import Folder


def pytest_configure() -> None:
    """Stop Slurm, too, when these tests are terminated."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A running Slurm; if it cannot be started, the tests fail and say why."""
    with Slurm(tmp_path_factory.mktemp("slurm")) as slurm:
        OnSlurm.slurm = slurm
        yield slurm


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The smoke study, run by the local profile."""
    folder = Folder.new(tmp_path_factory.mktemp("local") / "study").warm()
    folder.run()
    return folder


@pytest.fixture(scope="session")
def finished(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> OnSlurm:
    """The smoke study, run on the Slurm, in a folder whose name has a space."""
    folder = OnSlurm.new(tmp_path_factory.mktemp("cluster") / "a study").warm()
    folder.said.write_text(folder.run_study())
    return folder


@pytest.fixture
def study(finished: OnSlurm, tmp_path: Path) -> OnSlurm:
    """A private copy of the finished study.

    Slurm neither counts the memory of what `warm()` has run nor ends it with a signal that it sees:
    tests of that take `study.cold()`.
    """
    return finished.copy(tmp_path / "a study")  # type: ignore[return-value]
