"""Pruned models that tests of adaptations share."""

import pytest

from tiny_models import CROSSED, SEQUENCES, Prepared, prepare


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("llama"), sequences=SEQUENCES)


@pytest.fixture(scope="module", params=CROSSED)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp(request.param), request.param, sequences=SEQUENCES)


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("opt"), "opt", sequences=SEQUENCES)
