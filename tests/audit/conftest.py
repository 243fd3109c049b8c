"""What tests of the audit share."""

import pytest

from audits_for_tests import make_audited


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A study that was run and audited. Tests that change its files copy them first."""
    return make_audited(tmp_path_factory.mktemp("results") / "laptop")
