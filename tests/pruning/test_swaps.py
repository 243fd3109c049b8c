"""Swaps against a plain loop that computes the error after every possible swap from scratch."""

import pytest
import torch
from torch import Tensor

from freelunch.pruning import swaps as swaps_module
from freelunch.pruning.swaps import Refined, refine

ROWS, COLUMNS, TOKENS = 5, 12, 20
GROUPS = [None, 4]


def inputs_of(seed: int, tokens: int = TOKENS, columns: int = COLUMNS) -> Tensor:
    """Return correlated inputs of features of different size, (tokens, columns)."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(tokens, columns, generator=generator) @ torch.randn(
        columns, columns, generator=generator
    )
    return (mixed + 2.0) * torch.logspace(-1, 1, columns)[
        torch.randperm(columns, generator=generator)
    ]


def gram_of(inputs: Tensor) -> Tensor:
    gram = inputs.double().T @ inputs.double()
    return ((gram + gram.T) / 2).float()


def wanda_mask(dense: Tensor, gram: Tensor, group: int | None) -> Tensor:
    """Keep the better half of each row or group."""
    width = group or dense.shape[1]
    scores = (dense.abs() * gram.diagonal().sqrt()).reshape(-1, width)
    keep = torch.zeros_like(scores, dtype=torch.bool)
    return keep.scatter_(1, scores.topk(width // 2).indices, True).reshape(dense.shape)


def case(
    seed: int, group: int | None, updated: bool, rows: int = ROWS, columns: int = COLUMNS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return inputs, dense weight, pruned weight and mask; a random mask, to have much to swap."""
    generator = torch.Generator().manual_seed(1000 + seed)
    inputs = inputs_of(seed, columns=columns)
    dense = torch.randn(rows, columns, generator=generator)
    keep = wanda_mask(torch.rand(dense.shape, generator=generator), torch.eye(columns), group)
    noise = torch.randn(rows, columns, generator=generator)
    return inputs, dense, (dense + 0.3 * updated * noise) * keep, keep


def outputs_error(inputs: Tensor, dense: Tensor, weight: Tensor) -> float:
    """Return || X (dense - weight)^T ||^2."""
    return float((inputs.double() @ (dense - weight).double().T).square().sum())


def slow_best(
    dense: Tensor, weight: Tensor, keep: Tensor, gram: Tensor, group: int | None
) -> tuple[float, Tensor, Tensor]:
    """Return the error, weight and mask of a row, all (C,), after the best swap, helping or not."""
    columns = len(dense)
    best = (torch.inf, weight, keep)
    for i in range(columns):
        for j in range(columns):
            if not keep[i] or keep[j] or (group is not None and i // group != j // group):
                continue
            new_weight, new_keep = weight.clone(), keep.clone()
            new_weight[i], new_weight[j] = 0.0, dense[j]
            new_keep[i], new_keep[j] = False, True
            residual = dense - new_weight
            error = float(residual @ gram @ residual)
            if error < best[0]:
                best = (error, new_weight, new_keep)
    return best


def slow_refine(
    dense: Tensor, pruned: Tensor, keep: Tensor, gram: Tensor, group: int | None, swaps: int
) -> tuple[Tensor, Tensor, int]:
    gram, made = gram.double(), 0
    weights, masks = [], []
    for wanted, weight, mask in zip(dense.double(), pruned.double(), keep, strict=True):
        residual = wanted - weight
        error = float(residual @ gram @ residual)
        for _ in range(swaps):
            new_error, new_weight, new_mask = slow_best(wanted, weight, mask, gram, group)
            if not new_error < error * (1 - 1e-9):
                break
            error, weight, mask, made = new_error, new_weight, new_mask, made + 1
        weights.append(weight)
        masks.append(mask)
    return torch.stack(masks), torch.stack(weights).float(), made


def same(one: Refined, two: Refined) -> bool:
    return (
        torch.equal(one.keep, two.keep)
        and torch.equal(one.weight, two.weight)
        and one.swaps == two.swaps
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("updated", [False, True])
@pytest.mark.parametrize("swaps", [1, 2, 5])
def test_the_swaps_are_those_of_the_plain_loop(
    seed: int, group: int | None, updated: bool, swaps: int
) -> None:
    inputs, dense, pruned, keep = case(seed, group, updated)
    gram = gram_of(inputs)
    refined = refine(dense, pruned, keep, gram, group, swaps)
    expected_keep, expected_weight, expected_swaps = slow_refine(
        dense, pruned, keep, gram, group, swaps
    )
    assert refined.swaps == expected_swaps > 0
    assert torch.equal(refined.keep, expected_keep)
    assert torch.equal(refined.weight, expected_weight)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("updated", [False, True])
def test_rows_with_many_candidates(seed: int, updated: bool) -> None:
    """With 40 nearly parallel features the bounds leave more to try than one round does."""
    inputs, dense, pruned, keep = case(seed, None, updated, rows=3, columns=40)
    inputs = inputs + 20 * inputs[:, :1] / inputs[:, :1].norm() * inputs.norm(dim=0)
    gram = gram_of(inputs)
    refined = refine(dense, pruned, keep, gram, None, 4)
    expected = slow_refine(dense, pruned, keep, gram, None, 4)
    assert torch.equal(refined.keep, expected[0])
    assert torch.equal(refined.weight, expected[1])
    assert refined.swaps == expected[2] > 0


def test_bounds_are_below_every_swap_and_near_the_best() -> None:
    """A bound that is too high loses swaps, and one that is far too low saves nothing."""
    inputs, dense, pruned, keep = case(0, None, True, rows=8, columns=40)
    gram = gram_of(inputs).double()
    rows = swaps_module._Rows.of(dense.double(), pruned.double(), keep, gram)
    terms = swaps_module._Terms(rows, torch.arange(8), gram.diagonal())
    bounds = swaps_module._RowSearch(gram)._bounds(terms)
    mixed = 2 * terms.weight[:, :, None] * terms.lost[:, None] * gram
    effects = (terms.cut[:, :, None] + terms.gain[:, None] - mixed).amin(2)
    assert (bounds <= effects)[keep].all()
    assert torch.equal(bounds.isinf(), ~keep)
    assert int((bounds <= effects.amin(1, keepdim=True)).sum()) < keep.sum() / 2


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("updated", [False, True])
def test_the_error_is_that_of_the_outputs_and_never_rises(group: int | None, updated: bool) -> None:
    inputs, dense, pruned, keep = case(0, group, updated)
    gram = gram_of(inputs)
    first = outputs_error(inputs, dense, pruned)
    errors = []
    for swaps in range(8):
        refined = refine(dense, pruned, keep, gram, group, swaps)
        assert refined.error_before == pytest.approx(first, rel=1e-5)
        expected = outputs_error(inputs, dense, refined.weight)
        assert refined.error_after == pytest.approx(expected, rel=1e-5)
        errors.append(refined.error_after)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("group", GROUPS)
def test_how_rows_are_split_changes_nothing(
    group: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, dense, pruned, keep = case(4, group, True, rows=13, columns=24)
    gram = gram_of(inputs)
    whole = refine(dense, pruned, keep, gram, group, 5)
    for elements in (1, 5 * 24 * 8):
        monkeypatch.setattr(swaps_module, "_CPU_ELEMENTS", elements)
        split = refine(dense, pruned, keep, gram, group, 5)
        assert same(split, whole)
        assert split.error_after == whole.error_after
    monkeypatch.setattr(swaps_module, "_STRIP", 5)
    assert same(refine(dense, pruned, keep, gram, group, 5), whole)
    order = torch.randperm(13)
    shuffled = refine(dense[order], pruned[order], keep[order], gram, group, 5)
    assert torch.equal(shuffled.keep, whole.keep[order])


@pytest.mark.parametrize("group", GROUPS)
def test_equal_swaps_go_by_index(group: int | None) -> None:
    dense = torch.tensor([[2.0, 1.0, 1.0, 2.0]])
    keep = torch.tensor([[False, True, True, False]])
    first = refine(dense, dense * keep, keep, torch.eye(4), group, 1)
    assert first.keep.tolist() == [[True, False, True, False]]


def test_ties_among_more_than_are_tried_at_once() -> None:
    """All 400 swaps are equal, and the first must win.

    Correlation among kept features changes no effect, but lowers bounds: the first is tried last.
    """
    keep = torch.arange(40)[None] >= 20
    dense = torch.where(keep, 1.0, 2.0)
    gram = torch.eye(40)
    gram[20:39, 39] = gram[39, 20:39] = 0.01 * torch.arange(19)
    refined = refine(dense, dense * keep, keep, gram, None, 1)
    assert refined.keep[0].nonzero()[:, 0].tolist() == [0, *range(21, 40)]


@pytest.mark.parametrize("group", GROUPS)
def test_rows_that_keep_all_or_nothing_stay(group: int | None) -> None:
    """A mask chosen within the whole matrix has rows of every count."""
    inputs, dense, _, keep = case(5, group, False)
    gram = gram_of(inputs)
    keep[0], keep[1], keep[2] = True, False, torch.arange(COLUMNS) == 3
    refined = refine(dense, dense * keep, keep, gram, group, 3)
    expected = slow_refine(dense, dense * keep, keep, gram, group, 3)
    assert torch.equal(refined.keep, expected[0])
    assert torch.equal(refined.keep[:2], keep[:2])
    only = refine(dense[:2], dense[:2] * keep[:2], keep[:2], gram, group, 3)
    assert only.swaps == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_less_precision(dtype: torch.dtype) -> None:
    inputs, dense, _, keep = case(7, None, False)
    gram, low = gram_of(inputs), dense.to(dtype)
    expected = refine(low.float(), low.float() * keep, keep, gram, None, 3)
    assert same(refine(low, low * keep, keep, gram, None, 3), expected)
