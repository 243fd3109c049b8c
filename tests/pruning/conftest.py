"""Pruned models that tests of heads and channels share."""

import pytest

from slow_units import BIASED, SEQUENCES
from tiny_models import CROSSED, Prepared, prepare


@pytest.fixture(scope="module", params=CROSSED)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp(request.param), request.param, sequences=SEQUENCES)


@pytest.fixture(scope="module", params=BIASED)
def biased(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp(request.param), request.param, sequences=SEQUENCES)
