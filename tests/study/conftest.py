"""What all tests of the study room share."""

import pytest

from configs import ROOT


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of a config are relative to it."""
    monkeypatch.chdir(ROOT)
