"""What all tests of the study room share."""

import pytest


@pytest.fixture(autouse=True)
def _there(in_the_repository: None) -> None:
    """Run all of these tests in the repository."""
