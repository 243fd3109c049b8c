"""ALPS against plain steps written from the paper's equations, in float64, and what it promises."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from freelunch.adaptation.reconstruction.least_squares import solve_rows
from freelunch.pruning.criteria import alps, sparsegpt
from freelunch.pruning.statistics import InputStatistics
from freelunch.records.read import validate
from freelunch.study.criteria import Alps, SparseGPT, read_criterion
from freelunch.study.patterns import Pattern
from repository import ROOT

DAMPING = 0.01


def statistics_of(features: int, seed: int = 0) -> InputStatistics:
    """Return statistics of inputs that share a few directions, of very different size."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = drawn(4 * features, 5) @ drawn(5, features) + drawn(4 * features, features)
    inputs *= torch.logspace(-0.5, 0.5, features, dtype=torch.float64)
    gram, squares = inputs.T @ inputs, inputs.square().sum(0)
    return InputStatistics(
        len(inputs), inputs.mean(0).float(), inputs.var(0).float(), squares.float(), gram.float()
    )


def random_weight(rows: int, columns: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def settings_of(**settings: Any) -> Alps:
    found: Alps = read_criterion({"score": "alps", "damping": DAMPING, **settings})
    return found


def prune(
    weight: Tensor, statistics: InputStatistics, pattern: str, **settings: Any
) -> tuple[Tensor | None, Tensor, dict[str, float]]:
    (found,) = alps.prune([weight], statistics, Pattern.parse(pattern), settings_of(**settings))
    return found


def test_a_limit_that_was_reached_is_noted_and_may_stand_in_a_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alps, "_ITERATIONS", 3)
    notes = prune(random_weight(8, 16), statistics_of(16), "u50")[2]
    assert notes == {"iterations": 3.0}
    record = json.loads(next((ROOT / "docs/full/records").glob("*alps-*none*.json")).read_text())
    validate({**record, "pruning": {"notes": {"layer": notes}}}, "a record")


def pruned_by(weight: Tensor, statistics: InputStatistics, pattern: str) -> tuple[Tensor, Tensor]:
    pruned, keep, _ = prune(weight, statistics, pattern)
    assert pruned is not None
    return pruned, keep


def damped(statistics: InputStatistics) -> Tensor:
    assert statistics.gram is not None
    gram = statistics.gram.double()
    return gram + DAMPING * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)


def error(weight: Tensor, pruned: Tensor, hessian: Tensor) -> float:
    """Return the share of the output's squared norm that is lost."""
    lost, weight = weight.double() - pruned.double(), weight.double()
    return float(((lost @ hessian) * lost).sum() / ((weight @ hessian) * weight).sum())


def slow_mask(values: Tensor, pattern: str, scope: str) -> Tensor:
    """Sort the weights of each set by size, one set after another."""
    zeros, _, group = pattern.partition("of")
    rows, columns = values.shape
    if group:
        sets = [(i, range(j, j + int(group))) for i in range(rows) for j in range(0, columns, 4)]
        places = [[(i, j) for j in each] for i, each in sets]
    elif scope == "row":
        places = [[(i, j) for j in range(columns)] for i in range(rows)]
    else:
        places = [[(i, j) for i in range(rows) for j in range(columns)]]
    share = int(zeros) / int(group) if group else int(pattern[1:]) / 100
    keep = torch.ones(rows, columns, dtype=torch.bool)
    for each in places:
        smallest = sorted(each, key=lambda place: abs(float(values[place])))
        for place in smallest[: int(share * len(each) + 1e-9)]:
            keep[place] = False
    return keep


def slow_alps(weight: Tensor, hessian: Tensor, pattern: str, scope: str) -> tuple[Tensor, Tensor]:
    """Return the weights before the gradient steps, and their mask: section 3 of the paper, with a
    linear system in each iteration, and the schedule of the authors' code.
    """
    scales = hessian.diagonal().sqrt()
    hessian = hessian / scales / scales[:, None]
    dense = weight.double() * scales
    identity = torch.eye(len(hessian), dtype=torch.float64)
    keep = first = slow_mask(dense, pattern, scope)
    kept, penalty, started = int(keep.sum()), 0.1, False
    sparse, dual = dense * keep, torch.zeros_like(dense)
    for iteration in range(1, 301):
        right = dense @ hessian - dual + penalty * sparse
        near = torch.linalg.solve(hessian + penalty * identity, right.T).T
        now = slow_mask(near + dual / penalty, pattern, scope)
        sparse = (near + dual / penalty) * now
        dual = dual + penalty * (near - sparse)
        if iteration % 3 == 0:
            share = int((now != keep).sum()) / kept
            keep = now
            started = started or share > 0.005
            if (started and share == 0) or (iteration > 30 and share < 0.0003):
                break
            if started:
                penalty *= 1.3 if share > 0.1 else 1.2 if share > 0.005 else 1.1
            else:
                penalty /= 5
                if share:
                    keep, sparse, dual = first, dense * first, torch.zeros_like(dense)
    keep = slow_mask(near, pattern, scope)
    return near * keep / scales, keep


@pytest.mark.parametrize("shape", [(1, 8), (6, 20), (5, 72)])
@pytest.mark.parametrize("scope", ["row", "matrix"])
@pytest.mark.parametrize("pattern", ["u30", "u50", "u70", "2of4"])
def test_masks_and_weights_are_those_of_the_equations(
    pattern: str, scope: str, shape: tuple[int, int]
) -> None:
    weight, statistics = random_weight(*shape), statistics_of(shape[1])
    hessian = damped(statistics)
    before, expected = slow_alps(weight, hessian, pattern, scope)
    pruned, keep, notes = prune(weight, statistics, pattern, scope=scope)
    assert pruned is not None and not notes
    assert torch.equal(keep, expected)
    assert not pruned[~keep].any()
    # The gradient steps go from there to the optimum under the mask.
    best = solve_rows(hessian, weight.double() @ hessian, keep, before, 1e-12)
    least = error(weight, best, hessian)
    assert least <= error(weight, pruned, hessian) < least * 1.05 + 1e-6
    assert error(weight, pruned, hessian) <= error(weight, before, hessian)


@pytest.mark.parametrize("pattern", ["u50", "u60", "u80", "2of4", "6of8"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_less_is_lost_than_by_sparsegpt(pattern: str, seed: int) -> None:
    """As in the paper's tables, and most at high sparsity."""
    weight, statistics = random_weight(24, 64, seed), statistics_of(64, seed)
    whole: SparseGPT = read_criterion({"score": "sparsegpt", "damping": DAMPING})
    ((other, _, _),) = sparsegpt.prune([weight], statistics, Pattern.parse(pattern), whole)
    hessian = damped(statistics)
    found = error(weight, pruned_by(weight, statistics, pattern)[0], hessian)
    assert found < 0.9 * error(weight, other, hessian)


def test_the_mask_alone_is_the_same_mask() -> None:
    weight, statistics = random_weight(6, 40), statistics_of(40)
    pruned, keep, _ = prune(weight, statistics, "u50", updates_weights=False)
    assert pruned is None
    assert torch.equal(keep, prune(weight, statistics, "u50")[1])


def test_an_input_that_is_always_zero_tells_nothing_of_the_weights() -> None:
    weight, zeros = random_weight(6, 40), torch.zeros(40)
    statistics = InputStatistics(10, zeros, zeros, zeros, torch.zeros(40, 40))
    pruned, keep = pruned_by(weight, statistics, "u50")
    assert int(keep.sum()) == 120
    torch.testing.assert_close(pruned, weight * keep)


def test_matrices_of_one_input_share_its_decomposition_and_nothing_is_changed() -> None:
    statistics = statistics_of(40)
    assert statistics.gram is not None
    weights, gram = [random_weight(rows, 40) for rows in (6, 9)], statistics.gram.clone()
    together = alps.prune(weights, statistics, Pattern.parse("u50"), settings_of())
    assert len(statistics.memo) == 1
    assert torch.equal(statistics.gram, gram)
    for rows, (weight, found) in zip((6, 9), zip(weights, together, strict=True), strict=True):
        assert torch.equal(weight, random_weight(rows, 40))
        assert torch.equal(found[1], prune(weight, statistics_of(40), "u50")[1])
