"""SparseGPT against plain loops written from the paper's algorithm, in float64."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from freelunch.pruning import criteria
from freelunch.pruning.criteria import sparsegpt
from freelunch.pruning.statistics import InputStatistics
from freelunch.pruning.swaps import refine
from freelunch.study.criteria import SparseGPT, read_criterion
from freelunch.study.patterns import Pattern
from refusals import refused
from tiny_models import prune_matrix

DAMPING = 0.01


def correlated_inputs(features: int, tokens: int = 0, seed: int = 0) -> Tensor:
    """Return inputs (tokens, features) that share a few directions, of very different size."""
    generator = torch.Generator().manual_seed(seed)
    tokens = tokens or 4 * features
    shared = torch.randn(tokens, 5, generator=generator) @ torch.randn(
        5, features, generator=generator
    )
    alone = torch.randn(tokens, features, generator=generator)
    size = torch.logspace(-0.5, 0.5, features)[torch.randperm(features, generator=generator)]
    return (shared + alone) * size


def random_weight(rows: int, columns: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def statistics_of(inputs: Tensor) -> InputStatistics:
    wide = inputs.double()
    return with_gram((wide.T @ wide).float(), len(inputs), inputs.mean(0))


def with_gram(gram: Tensor | None, tokens: int = 10, mean: Tensor | None = None) -> InputStatistics:
    """Return statistics of which SparseGPT has to read the Gram matrix alone."""
    mean = torch.zeros(1) if mean is None else mean
    squares = mean if gram is None else gram.diagonal().clone()
    return InputStatistics(tokens, mean, squares / tokens - mean**2, squares, gram)


def settings_of(**settings: Any) -> SparseGPT:
    found: SparseGPT = read_criterion({"score": "sparsegpt", "damping": DAMPING, **settings})
    return found


def prune(
    weight: Tensor, statistics: InputStatistics, pattern: str, **settings: Any
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    (found,) = sparsegpt.prune(
        [weight], statistics, Pattern.parse(pattern), settings_of(**settings)
    )
    return found


def slow_sparsegpt(
    weight: Tensor,
    gram: Tensor,
    pattern: str,
    scope: str = "matrix",
    column_block: int = 128,
    damping: float = DAMPING,
) -> tuple[Tensor, Tensor]:
    """Prune column by column with an explicit inverse Hessian, as section 3 of the paper has it.

    A weight that goes costs w_j^2 / H^-1[j, j] and changes each feature k after it by
    -w_j / H^-1[j, j] * H^-1[j, k]. Once feature j is done, it is eliminated from the inverse:
    H^-1 - H^-1[:, j] H^-1[j, :] / H^-1[j, j].
    """
    weight, hessian = weight.double().clone(), gram.double().clone()
    rows, columns = weight.shape
    average = sum(float(hessian[j, j]) for j in range(columns)) / columns
    for j in range(columns):
        if hessian[j, j] == 0:
            weight[:, j] = 0
            hessian[j, j] = 1
        else:
            hessian[j, j] += damping * average
    inverse = torch.linalg.inv(hessian)
    # Row j of the inverse at the time when all features before j are eliminated.
    at_turn = []
    for j in range(columns):
        at_turn.append(inverse[j].clone())
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    keep = torch.ones(rows, columns, dtype=torch.bool)

    def choose(i_range: range, j_range: range, count: int) -> None:
        costs = [
            (float(weight[i, j]) ** 2 / float(at_turn[j][j]), i, j)
            for i in i_range
            for j in j_range
        ]
        for _, i, j in sorted(costs)[:count]:
            keep[i, j] = False

    zeros, _, group = pattern.partition("of")
    share = Fraction(int(pattern[1:]), 100) if not group else Fraction(int(zeros), int(group))
    for start in range(0, columns, column_block):
        stop = min(start + column_block, columns)
        if not group and scope == "matrix":
            count = math.floor(share * stop * rows) - math.floor(share * start * rows)
            choose(range(rows), range(start, stop), count)
        elif not group:
            for i in range(rows):
                count = math.floor(share * stop) - math.floor(share * start)
                choose(range(i, i + 1), range(start, stop), count)
        for j in range(start, stop):
            if group and j % int(group) == 0:
                for i in range(rows):
                    choose(range(i, i + 1), range(j, j + int(group)), int(zeros))
            for i in range(rows):
                if not keep[i, j]:
                    error = weight[i, j] / at_turn[j][j]
                    weight[i, j:] -= error * at_turn[j][j:]
                    weight[i, j] = 0
    return weight, keep


def assert_same(
    found: tuple[Tensor, Tensor, dict[str, Any]], expected: tuple[Tensor, Tensor]
) -> None:
    weight, keep, _ = found
    assert torch.equal(keep, expected[1]), f"{int((keep != expected[1]).sum())} masked otherwise"
    assert not weight[~keep].any()
    difference = (weight.double() - expected[0]).norm() / expected[0].norm()
    assert difference < 1e-5


@pytest.mark.parametrize("scope", ["row", "matrix"])
@pytest.mark.parametrize("column_block", [4, 8, 128])
@pytest.mark.parametrize("shape", [(1, 7), (6, 21), (5, 70), (7, 150)])
@pytest.mark.parametrize("pattern", ["u50", "u33"])
def test_unstructured(pattern: str, shape: tuple[int, int], column_block: int, scope: str) -> None:
    weight, statistics = random_weight(*shape), statistics_of(correlated_inputs(shape[1]))
    assert statistics.gram is not None
    settings: dict[str, Any] = {"scope": scope, "column_block": column_block}
    expected = slow_sparsegpt(weight, statistics.gram, pattern, **settings)
    found = prune(weight, statistics, pattern, **settings)
    assert_same(found, expected)
    # The whole matrix loses what the pattern asks for, whatever the blocks.
    assert int((~found[1]).sum()) == Pattern.parse(pattern).zeros(*shape, scope)


@pytest.mark.parametrize(
    ("pattern", "column_block", "shape"),
    [
        ("2of4", 4, (6, 20)),
        ("2of4", 8, (5, 44)),
        ("2of4", 128, (7, 148)),
        ("4of8", 8, (6, 24)),
        ("4of8", 128, (7, 152)),
        ("1of3", 3, (6, 21)),
        ("1of3", 126, (5, 135)),
        ("3of40", 80, (5, 120)),
    ],
)
def test_zeros_in_groups(pattern: str, column_block: int, shape: tuple[int, int]) -> None:
    weight, statistics = random_weight(*shape), statistics_of(correlated_inputs(shape[1]))
    assert statistics.gram is not None
    expected = slow_sparsegpt(weight, statistics.gram, pattern, column_block=column_block)
    for scope in ("row", "matrix"):
        found = prune(weight, statistics, pattern, scope=scope, column_block=column_block)
        assert_same(found, expected)
    zeros, group = map(int, pattern.split("of"))
    assert set((~expected[1]).reshape(-1, group).sum(1).tolist()) == {zeros}


def test_of_equal_costs_the_lower_index_goes() -> None:
    weight, statistics = torch.ones(3, 8), with_gram(torch.eye(8))
    by_row = prune(weight, statistics, "u50", scope="row", column_block=4)[1]
    assert by_row.tolist() == [[False, False, True, True] * 2] * 3
    # In each block of columns 6 of 12: its first row, and half of its second.
    by_matrix = prune(weight, statistics, "u50", scope="matrix", column_block=4)[1]
    assert by_matrix.tolist() == [[False] * 8, [False, False, True, True] * 2, [True] * 8]
    in_groups = prune(weight, statistics, "3of4")[1]
    assert in_groups.tolist() == [[False, False, False, True] * 2] * 3


@pytest.mark.parametrize("pattern", ["u50", "2of4"])
@pytest.mark.parametrize("scope", ["row", "matrix"])
def test_weights_of_dead_features_go_first(pattern: str, scope: str) -> None:
    inputs = correlated_inputs(40)
    dead = torch.zeros(40, dtype=torch.bool)
    dead[[0, 3, 9, 17, 18, 39]] = True
    inputs[:, dead] = 0
    # Far larger than the others: their size is no reason to stay.
    weight = random_weight(6, 40) + 100.0 * dead
    statistics = statistics_of(inputs)
    assert statistics.gram is not None
    settings: dict[str, Any] = {"scope": scope, "column_block": 8}
    found = prune(weight, statistics, pattern, **settings)
    assert not found[1][:, dead].any()
    assert_same(found, slow_sparsegpt(weight, statistics.gram, pattern, **settings))


def test_more_dead_features_than_weights_that_go() -> None:
    inputs = correlated_inputs(16)
    inputs[:, 2:12] = 0
    weight, keep, _ = prune(random_weight(3, 16), statistics_of(inputs), "u25", scope="row")
    assert (~keep).sum(dim=1).tolist() == [4] * 3
    assert not weight[:, 2:12].any()
    # Nothing has to be made up for, and what a dead feature is worth is 0.
    assert torch.equal(weight[:, :2], random_weight(3, 16)[:, :2])
    none_alive = prune(random_weight(3, 16), with_gram(torch.zeros(16, 16)), "u25")
    assert not none_alive[0].any()


def indefinite(features: int, least: float) -> Tensor:
    """Return a Gram matrix of mean diagonal 1 whose least eigenvalue is negative."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(features, features, generator=generator).double()).Q
    values = torch.linspace(0.5, 1.5, features).double()
    values[0] = least
    values[1:] *= (features - least) / values[1:].sum()
    gram = basis @ torch.diag(values) @ basis.T
    return ((gram + gram.T) / 2).float()


@pytest.mark.parametrize(("least", "needed"), [(0.001, None), (-0.05, 0.1), (-0.5, 1.0)])
@pytest.mark.parametrize("pattern", ["u50", "2of4"])
def test_damping_grows_tenfold_until_it_is_enough(
    least: float, needed: float | None, pattern: str
) -> None:
    """What is enough from the start is not worth noting."""
    weight, gram = random_weight(6, 24), indefinite(24, least)
    found = prune(weight, with_gram(gram), pattern)
    assert found[2] == ({"damping": pytest.approx(needed)} if needed else {})
    assert_same(found, slow_sparsegpt(weight, gram, pattern, damping=needed or DAMPING))


@pytest.mark.parametrize(
    "gram",
    [torch.diag(torch.tensor([1.0, 1.0, -1.0, -1.0])), -torch.eye(4), indefinite(4, -1.1)],
    ids=["no mean diagonal", "negative", "far from definite"],
)
def test_what_no_damping_helps_is_an_error(gram: Tensor) -> None:
    weight, pattern = torch.ones(2, 4), Pattern.parse("u50")
    with refused(where="layer.7.up", found="with 1 times its mean diagonal"):
        sparsegpt.prune([weight], with_gram(gram), pattern, settings_of(), "layer.7.up")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gram_matrix_that_is_not_finite(value: float) -> None:
    gram = torch.eye(4)
    gram[1, 2] = gram[2, 1] = value
    with refused(found="2 of 16"):
        prune(torch.ones(2, 4), with_gram(gram), "u50")


def test_layers_of_one_input_share_its_factor_but_not_across_dampings() -> None:
    weight, statistics = random_weight(6, 40), statistics_of(correlated_inputs(40))
    factor = sparsegpt.factorise(statistics, 0.01)
    assert sparsegpt.factorise(statistics, 0.01) is factor
    other = sparsegpt.factorise(statistics, 0.5)
    assert not torch.allclose(other.upper, factor.upper)
    assert statistics.gram is not None
    found = prune(weight, statistics, "u50", damping=0.5)
    assert_same(found, slow_sparsegpt(weight, statistics.gram, "u50", damping=0.5))


@pytest.mark.parametrize("scope", ["row", "matrix"])
@pytest.mark.parametrize("pattern", ["u50", "2of4"])
def test_matrices_of_one_input_are_pruned_at_once_as_each_alone(pattern: str, scope: str) -> None:
    statistics, settings = statistics_of(correlated_inputs(40)), settings_of(scope=scope)
    weights = [random_weight(rows, 40, seed=rows) for rows in (6, 1, 9)]
    together = sparsegpt.prune(weights, statistics, Pattern.parse(pattern), settings)
    assert len(together) == len(weights)
    for weight, found in zip(weights, together, strict=True):
        alone = prune(weight, statistics, pattern, scope=scope)
        assert_same(found, (alone[0].double(), alone[1]))
        assert found[0].is_contiguous() and found[1].is_contiguous()


@pytest.mark.parametrize("contiguous", ["rows", "columns"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weight_and_the_gram_matrix_are_left_alone(dtype: torch.dtype, contiguous: str) -> None:
    """Also where a transposed weight is contiguous already."""
    weight, statistics = random_weight(6, 40).to(dtype), statistics_of(correlated_inputs(40))
    if contiguous == "columns":
        weight = weight.T.contiguous().T
    assert statistics.gram is not None
    before, gram = weight.clone(), statistics.gram.clone()
    found = prune(weight, statistics, "u50")
    assert found[0].dtype == torch.float32
    assert torch.equal(weight, before)
    assert torch.equal(statistics.gram, gram)
    assert_same(found, slow_sparsegpt(weight, gram, "u50"))


@pytest.mark.parametrize("pattern", ["u50", "2of4"])
def test_swaps_start_from_updated_weights_and_the_dense_ones(pattern: str) -> None:
    weight, statistics = random_weight(6, 40), statistics_of(correlated_inputs(40))
    assert statistics.gram is not None
    module, parsed = criteria.load("sparsegpt"), Pattern.parse(pattern)
    settings = read_criterion({"score": "sparsegpt", "swaps": 10})
    keep, changed, notes = prune_matrix(module, weight, statistics, parsed, settings, 0)
    pruned, first, _ = prune(weight, statistics, pattern)
    expected = refine(weight, pruned, first, statistics.gram, parsed.group, 10)
    assert expected.swaps > 0
    assert torch.equal(keep, expected.keep)
    assert changed is not None and torch.equal(changed, expected.weight)
    assert notes == {
        "swaps": expected.swaps,
        "error_before": expected.error_before,
        "error_after": expected.error_after,
    }
