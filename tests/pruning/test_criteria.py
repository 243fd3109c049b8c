"""Criteria against plain loops written from the papers' formulas."""

import dataclasses
import pkgutil
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from freelunch.core.errors import UserError
from freelunch.pruning import criteria
from freelunch.pruning.statistics import InputStatistics
from freelunch.study.criteria import CRITERIA, read_criterion
from freelunch.study.patterns import Pattern
from slow_scores import SCORES, slow_mask, slow_scores
from tiny_models import prune_matrix


def statistics_of(inputs: Tensor) -> InputStatistics:
    """Return the statistics of inputs (tokens, features)."""
    squares = inputs.square().sum(0)
    return InputStatistics(
        len(inputs), inputs.mean(0), inputs.var(0, correction=0), squares, inputs.T @ inputs
    )


def mask_of(
    name: str, weight: Tensor, inputs: Tensor, pattern: str = "u50", **settings: Any
) -> Tensor:
    entry = read_criterion({"score": name, **settings})
    module, told = criteria.load(name), statistics_of(inputs)
    keep, changed, notes = prune_matrix(module, weight, told, Pattern.parse(pattern), entry, 0)
    assert changed is None and not notes, "a score changes no weight"
    return keep


def random_case(seed: int, rows: int = 9, columns: int = 24) -> tuple[Tensor, Tensor]:
    """Return a weight, and inputs of which some features are far larger than others."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    weight *= torch.logspace(-1, 1, rows)[:, None]
    scale = torch.logspace(-2, 2, columns)[torch.randperm(columns, generator=generator)]
    return weight, torch.randn(20, columns, generator=generator) * scale


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scope", ["row", "matrix"])
@pytest.mark.parametrize("pattern", ["u10", "u50", "u75", "2of4", "4of8", "1of3"])
def test_masks_are_those_of_the_formulas(pattern: str, scope: str, seed: int) -> None:
    weight, inputs = random_case(seed)
    cases: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in SCORES]
    cases += [("ria", {"exponent": 1.3})]
    different = set()
    for name, more in cases:
        found = mask_of(name, weight, inputs, pattern, scope=scope, **more)
        scores = slow_scores(name, weight, inputs, read_criterion({"score": name, **more}))
        assert torch.equal(found, slow_mask(scores, pattern, scope)), name
        if name in ("magnitude", "wanda", "ria"):
            different.add(tuple(found.flatten().tolist()))
    assert len(different) == 4, "two of these agree: the comparison would not tell them apart"


def test_a_row_or_column_of_zeros_is_worth_nothing_to_ria() -> None:
    weight, inputs = random_case(0, 4, 6)
    weight[1], weight[:, 2] = 0.0, 0.0
    ria = read_criterion({"score": "ria"})
    scores = criteria.load("ria").score(weight, statistics_of(inputs), ria)
    assert torch.equal(scores == 0, weight == 0)


def test_the_published_cases_of_torchao() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    inputs = torch.tensor([[100.0, 10.0, 1.0, 0.1]])
    assert mask_of("wanda", weight, inputs).tolist() == [[True, True, False, False]]
    assert mask_of("magnitude", weight, inputs).tolist() == [[False, False, True, True]]
    ascending = torch.arange(1.0, 9.0)[None, :]
    kept = ascending[mask_of("wanda", ascending, torch.ones(5, 8), "2of4")]
    assert kept.tolist() == [3, 4, 7, 8]


@pytest.mark.parametrize("name", ["random", *SCORES])
def test_scores_are_float32_and_leave_the_weight_alone(name: str) -> None:
    weight = torch.randn(4, 6).to(torch.bfloat16)
    before, told = weight.clone(), statistics_of(torch.randn(8, 6))
    settings = read_criterion({"score": name})
    scores = criteria.load(name).score(weight, told, settings)
    assert scores.dtype == torch.float32
    assert scores.shape == weight.shape
    assert torch.equal(weight, before)
    # The sign of a weight says nothing about its worth.
    assert torch.equal(criteria.load(name).score(-weight, told, settings), scores)


def test_every_criterion_has_a_class_of_settings_and_the_other_way_round() -> None:
    assert {module.name for module in pkgutil.iter_modules(criteria.__path__)} == set(CRITERIA)


@pytest.mark.parametrize("name", CRITERIA)
def test_what_a_class_says_is_what_its_module_does(name: str) -> None:
    module, settings = criteria.load(name), read_criterion({"score": name})
    (function,) = (each for each in ("score", "unit_score", "prune") if hasattr(module, each))
    assert settings.structured == (function == "unit_score")
    if not settings.structured:
        assert settings.changes_parameters == (function == "prune")
    weight, inputs = random_case(0)
    without = dataclasses.replace(statistics_of(inputs), gram=None)
    arguments = {
        "score": (weight, without, settings, 0),
        "unit_score": (weight, without, settings),
        "prune": ([weight], without, Pattern.parse("u50"), settings),
    }
    with pytest.raises(UserError, match="Gram") if settings.needs_gram else nullcontext():
        getattr(module, function)(*arguments[function])
