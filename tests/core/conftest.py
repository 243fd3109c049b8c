"""What tests of code digests share."""

import shutil
from pathlib import Path

import pytest

# The module's name is also that of its function.
from freelunch.core import code_digest as digest
from freelunch.core.code_digest import SCRIPTS


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the scripts and the library, which is what digests are of from now on."""
    folder = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(digest, "SCRIPTS", folder)
    monkeypatch.setattr(digest, "LIBRARY", folder / "freelunch")
    return folder
