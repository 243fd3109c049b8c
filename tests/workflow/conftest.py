"""A copy of the repository with the smoke study run in it, made once for all workflow tests."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from study_folder import Folder


@pytest.fixture
def folder() -> type[Folder]:
    """Folders in which Snakemake runs."""
    return Folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The smoke study, run to its end. Tests copy it before they change anything.

    `test_warm_python.py` compares it with what jobs in processes of their own make.

    All processes that run tests share it: the first that needs it runs it, the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = Folder(shared / "finished")
    with FileLock(shared / "finished.lock"):
        if not folder.said.exists():
            folder.said.write_text(Folder.new(folder.path).warm().run())
    return folder


@pytest.fixture
def study(finished: Folder, tmp_path: Path) -> Folder:
    """A private copy of the finished smoke study."""
    return finished.copy(tmp_path / "study").warm()
