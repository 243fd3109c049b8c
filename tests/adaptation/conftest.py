"""Pruned models that tests of adaptations share."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from tiny_models import CROSSED, SEQUENCES, Prepared, prepare


@pytest.fixture(scope="session")
def prepare_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Prepared]:
    """`prepare` without a folder, for tests that leave alone what it made: it makes each once."""

    @cache
    def prepared(*arguments: Any, **changes: Any) -> Prepared:
        return prepare(tmp_path_factory.mktemp("prepared"), *arguments, **changes)

    return prepared


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("llama"), sequences=SEQUENCES)


@pytest.fixture(scope="module", params=CROSSED)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp(request.param), request.param, sequences=SEQUENCES)


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("opt"), "opt", sequences=SEQUENCES)
