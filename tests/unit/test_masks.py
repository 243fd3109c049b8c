"""Masks: exact counts, ties by index, and what no rescaling may change."""

import math
from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from freelunch.errors import UserError
from freelunch.masks import keep_mask, pack, unpack
from freelunch.patterns import SCOPES, Pattern

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 33))
PERCENTS = st.integers(1, 99)
SCOPE = st.sampled_from(SCOPES)
SEEDS = st.integers(0, 2**31)


def continuous_scores(shape: tuple[int, int], seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def tied_scores(shape: tuple[int, int], seed: int, levels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels, shape, generator=generator).float()


def groups_of(scores: Tensor, scope: str) -> Iterator[tuple[int, list[float]]]:
    """Yield the flat index of each group's first score, and the group's scores."""
    rows, columns = scores.shape
    flat = scores.flatten().tolist()
    size = columns if scope == "row" else rows * columns
    for start in range(0, rows * columns, size):
        yield start, flat[start : start + size]


def slow_mask(scores: Tensor, percent: int, scope: str) -> Tensor:
    """Prune the first floor(percent / 100 * size) of each group, sorted by (score, index)."""
    keep = [True] * scores.numel()
    for start, group in groups_of(scores, scope):
        by_rank = sorted(range(len(group)), key=lambda index: (group[index], index))
        for index in by_rank[: math.floor(Fraction(percent, 100) * len(group))]:
            keep[start + index] = False
    return torch.tensor(keep).reshape(scores.shape)


@given(SHAPES, PERCENTS, SCOPE, SEEDS)
def test_masks_are_those_of_a_stable_sort(
    shape: tuple[int, int], percent: int, scope: str, seed: int
) -> None:
    for scores in (continuous_scores(shape, seed), tied_scores(shape, seed)):
        found = keep_mask(scores, Pattern.parse(f"u{percent:02d}"), scope)
        assert torch.equal(found, slow_mask(scores, percent, scope))


@given(SHAPES, PERCENTS, SCOPE, SEEDS)
@example((3, 100), 29, "row", 0)  # 0.29 * 100 is 28.999999999999996
@example((1, 1), 99, "matrix", 0)
def test_counts_are_exact(shape: tuple[int, int], percent: int, scope: str, seed: int) -> None:
    rows, columns = shape
    pattern = Pattern.parse(f"u{percent:02d}")
    pruned = ~keep_mask(tied_scores(shape, seed), pattern, scope)
    if scope == "row":
        expected = math.floor(Fraction(percent, 100) * columns)
        assert pruned.sum(dim=1).tolist() == [expected] * rows
    else:
        assert int(pruned.sum()) == math.floor(Fraction(percent, 100) * (rows * columns))
    assert int(pruned.sum()) == pattern.zeros(rows, columns, scope)


@given(st.integers(1, 300_000_000), PERCENTS)
@settings(max_examples=300)
def test_counts_are_exact_for_any_size(size: int, percent: int) -> None:
    found = Pattern.parse(f"u{percent:02d}").zeros_in_group(size)
    assert found == percent * size // 100


@given(SHAPES, PERCENTS, SCOPE, SEEDS)
def test_of_equal_scores_the_lower_index_goes(
    shape: tuple[int, int], percent: int, scope: str, seed: int
) -> None:
    keep = keep_mask(torch.full(shape, 0.5), Pattern.parse(f"u{percent:02d}"), scope)
    groups = keep if scope == "row" else keep.reshape(1, -1)
    # False ... False True ... True: sorted by index.
    assert torch.equal(groups, groups.sort(dim=1, stable=True).values)


@given(SHAPES, PERCENTS, PERCENTS, SCOPE, SEEDS)
@example((4, 20), 50, 60, "row", 0)
@example((4, 20), 50, 60, "matrix", 0)
def test_masks_are_nested(
    shape: tuple[int, int], one: int, other: int, scope: str, seed: int
) -> None:
    sparser, denser = max(one, other), min(one, other)
    for scores in (continuous_scores(shape, seed), tied_scores(shape, seed)):
        few = ~keep_mask(scores, Pattern.parse(f"u{denser:02d}"), scope)
        many = ~keep_mask(scores, Pattern.parse(f"u{sparser:02d}"), scope)
        assert not (few & ~many).any(), "a weight that u50 prunes came back in u60"


@given(SHAPES, PERCENTS, SCOPE, SEEDS, st.sampled_from([2.0**-20, 0.5, 2.0, 2.0**30]))
def test_scale_changes_nothing(
    shape: tuple[int, int], percent: int, scope: str, seed: int, factor: float
) -> None:
    pattern = Pattern.parse(f"u{percent:02d}")
    scores = continuous_scores(shape, seed)
    assert torch.equal(
        keep_mask(scores, pattern, scope), keep_mask(scores * factor, pattern, scope)
    )


@given(st.integers(2, 40), PERCENTS, SEEDS)
def test_a_permutation_of_the_columns_permutes_the_mask(
    columns: int, percent: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Distinct scores: with ties the index decides, and that is what a permutation changes.
    scores = torch.stack([torch.randperm(columns, generator=generator) for _ in range(3)]).float()
    order = torch.randperm(columns, generator=generator)
    pattern = Pattern.parse(f"u{percent:02d}")
    found = keep_mask(scores[:, order], pattern, "row")
    assert torch.equal(found, keep_mask(scores, pattern, "row")[:, order])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scope", SCOPES)
def test_any_float_dtype(dtype: torch.dtype, scope: str) -> None:
    scores = continuous_scores((5, 24), 0).to(dtype)
    found = keep_mask(scores, Pattern.parse("u50"), scope)
    assert torch.equal(found, slow_mask(scores, 50, scope))


def test_a_transposed_matrix_is_read_by_its_own_rows() -> None:
    scores = tied_scores((6, 9), 1).T
    assert not scores.is_contiguous()
    for scope in SCOPES:
        found = keep_mask(scores, Pattern.parse("u40"), scope)
        assert torch.equal(found, slow_mask(scores, 40, scope))


def test_nothing_is_pruned_where_the_share_is_less_than_one_weight() -> None:
    assert keep_mask(torch.rand(3, 4), Pattern.parse("u10"), "row").all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("scope", SCOPES)
def test_scores_that_are_not_finite(value: float, scope: str) -> None:
    scores = torch.rand(4, 6)
    scores[2, 3] = value
    with pytest.raises(UserError, match="not finite") as error:
        keep_mask(scores, Pattern.parse("u50"), scope)
    assert "1 of 24" in str(error.value)


def test_an_unknown_scope() -> None:
    with pytest.raises(ValueError, match="column"):
        keep_mask(torch.rand(2, 4), Pattern.parse("u50"), "column")


@given(SHAPES, SEEDS)
@example((1, 1), 0)
@example((3, 3), 0)
@example((7, 11), 0)
def test_pack_and_unpack(shape: tuple[int, int], seed: int) -> None:
    mask = tied_scores(shape, seed, levels=2).bool()
    bits = pack(mask)
    assert bits.dtype == torch.uint8
    assert bits.shape == (math.ceil(mask.numel() / 8),)
    assert torch.equal(unpack(bits, mask.shape), mask)


def test_packed_bits_are_read_row_by_row() -> None:
    mask = torch.tensor([[True, False, False], [False, True, True], [False, False, True]])
    assert pack(mask).tolist() == [0b10001100, 0b10000000]
    assert torch.equal(unpack(pack(mask.T), mask.T.shape), mask.T)


@pytest.mark.parametrize("name", ["u00", "u5", "u100", "50", "U50", "u5.0", "2of4", "", "u50 "])
def test_what_is_no_pattern(name: str) -> None:
    with pytest.raises(ValueError, match=r"u00|not a pattern"):
        Pattern.parse(name)


@given(PERCENTS)
def test_a_pattern_is_its_percent(percent: int) -> None:
    pattern = Pattern.parse(f"u{percent:02d}")
    assert pattern.sparsity == percent / 100
    assert pattern.name == f"u{percent:02d}"
    assume(percent > 1)
    assert pattern.zeros_in_group(100) == percent
