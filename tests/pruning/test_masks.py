"""Masks: exact counts, ties by index, and what no rescaling may change."""

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from freelunch.model.mask_store import (
    mask_bits_,
    mask_values_,
    pack,
    unpack,
    unpack_there,
)
from freelunch.pruning import masks
from freelunch.pruning.masks import keep_mask, lowest, lowest_of_columns
from freelunch.study.patterns import SCOPES, Pattern
from refusals import refused

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 33))
PERCENTS = st.integers(1, 99)
# N, M and groups in a row, of patterns NofM.
GROUPED = st.integers(2, 20).flatmap(
    lambda size: st.tuples(st.integers(1, size - 1), st.just(size), st.integers(1, 5))
)
SCOPE = st.sampled_from(SCOPES)
SEEDS = st.integers(0, 2**31)


def continuous_scores(shape: tuple[int, int], seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def tied_scores(shape: tuple[int, int], seed: int, levels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels, shape, generator=generator).float()


def slow_lowest(groups: Tensor, count: int) -> Tensor:
    """Mark the first `count` of each group, sorted by (score, index)."""
    chosen = torch.zeros(groups.shape, dtype=torch.bool)
    for number, group in enumerate(groups.tolist()):
        for index in sorted(range(len(group)), key=lambda index: (group[index], index))[:count]:
            chosen[number, index] = True
    return chosen


def slow_mask(scores: Tensor, share: Fraction, size: int) -> Tensor:
    """Prune the first floor(share * size) of each `size` scores that follow each other."""
    groups = scores.reshape(-1, size)
    return ~slow_lowest(groups, math.floor(share * size)).reshape(scores.shape)


def size_of(scores: Tensor, scope: str) -> int:
    return scores.shape[1] if scope == "row" else scores.numel()


@given(SHAPES, PERCENTS, SCOPE, SEEDS)
@example((3, 100), 29, "row", 0)  # 0.29 * 100 is 28.999999999999996
@example((1, 1), 99, "matrix", 0)
def test_masks_are_those_of_a_stable_sort(
    shape: tuple[int, int], percent: int, scope: str, seed: int
) -> None:
    pattern = Pattern.parse(f"u{percent:02d}")
    for scores in (continuous_scores(shape, seed), tied_scores(shape, seed)):
        found = keep_mask(scores, pattern, scope)
        expected = slow_mask(scores, Fraction(percent, 100), size_of(scores, scope))
        assert torch.equal(found, expected)
        assert int((~found).sum()) == pattern.zeros(*shape, scope)


@given(GROUPED, st.integers(1, 7), SCOPE, SEEDS)
def test_every_group_has_its_zeros(
    grouped: tuple[int, int, int], rows: int, scope: str, seed: int
) -> None:
    zeros, size, groups = grouped
    shape, pattern = (rows, size * groups), Pattern.parse(f"{zeros}of{size}")
    for scores in (continuous_scores(shape, seed), tied_scores(shape, seed)):
        found = keep_mask(scores, pattern, scope)
        assert (~found).reshape(-1, size).sum(dim=1).tolist() == [zeros] * (rows * groups)
        assert torch.equal(found, slow_mask(scores, Fraction(zeros, size), size))
        assert int((~found).sum()) == pattern.zeros(*shape, scope)


@given(st.integers(1, 300_000_000), PERCENTS)
@settings(max_examples=300)
def test_counts_are_exact_for_any_size(size: int, percent: int) -> None:
    assert Pattern.parse(f"u{percent:02d}").zeros_in_group(size) == percent * size // 100


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("name", "size"), [("u50", 24), ("2of4", 4), ("6of12", 12)])
def test_any_float_dtype(dtype: torch.dtype, name: str, size: int) -> None:
    scores = continuous_scores((50, 24), 0).to(dtype)
    found = keep_mask(scores, Pattern.parse(name), "row")
    assert torch.equal(found, slow_mask(scores, Fraction(1, 2), size))


def test_differences_that_only_float64_has_count() -> None:
    scores = torch.tensor([[1.0 + 2e-12, 1.0 + 1e-12] * 6], dtype=torch.float64)
    for name in ("1of2", "6of12"):
        assert keep_mask(scores, Pattern.parse(name), "row").tolist() == [[True, False] * 6]


def test_a_transposed_matrix_is_read_by_its_own_rows() -> None:
    scores = tied_scores((8, 9), 1).T
    assert not scores.is_contiguous()
    for scope in SCOPES:
        found = keep_mask(scores, Pattern.parse("u40"), scope)
        assert torch.equal(found, slow_mask(scores, Fraction(40, 100), size_of(scores, scope)))
        found = keep_mask(scores, Pattern.parse("1of4"), scope)
        assert torch.equal(found, slow_mask(scores, Fraction(1, 4), 4))


@given(st.integers(1, 20), st.integers(1, 40), st.integers(1, 9), SEEDS)
def test_the_lowest_are_those_of_a_stable_sort(
    size: int, groups: int, chunk: int, seed: int
) -> None:
    """More groups than are compared at a time, too."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(masks, "_CHUNK", chunk)
        for scores in (
            continuous_scores((groups, size), seed),
            tied_scores((groups, size), seed),
            # Zeros of both signs are equal.
            tied_scores((groups, size), seed, levels=2) * -1.0,
        ):
            # As on a GPU, where tensors are not shared with NumPy.
            ranks = torch.arange(size - 1, -1, -1, dtype=torch.int8)[:, None].repeat(1, groups)
            masks._rank_(scores.T, ranks)
            for count in range(size + 1):
                expected = slow_lowest(scores, count)
                assert torch.equal(lowest(scores, count), expected)
                assert torch.equal(lowest_of_columns(scores.T.contiguous(), count).T, expected)
                assert torch.equal(lowest_of_columns(scores.T, count).T, expected)
                assert torch.equal((ranks < count).T, expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", ["u50", "1of3"])
def test_scores_that_are_not_finite(value: float, scope: str, name: str) -> None:
    scores = torch.rand(4, 6)
    scores[2, 3] = value
    with refused(where="layer.7.up", found="1 of 24"):
        keep_mask(scores, Pattern.parse(name), scope, "layer.7.up")


@pytest.mark.parametrize("scope", SCOPES)
def test_a_pattern_that_does_not_divide_the_columns(scope: str) -> None:
    # The matrix has a multiple of 4 weights, its rows have not.
    with refused(where="layer.7.up", found="6 inputs", expected="a multiple of 4"):
        keep_mask(torch.rand(4, 6), Pattern.parse("2of4"), scope, "layer.7.up")


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
    # As on a GPU.
    assert torch.equal(unpack_there(bits, mask.shape), mask)
    # `unpackbits` would fill up with zeros, that is with weights that go.
    with pytest.raises(ValueError, match="do not hold a mask of shape"):
        unpack(bits, torch.Size((shape[0] + 8, shape[1])))


def test_packed_bits_are_read_row_by_row() -> None:
    mask = torch.tensor([[True, False, False], [False, True, True], [False, False, True]])
    assert pack(mask).tolist() == [0b10001100, 0b10000000]
    assert torch.equal(unpack(pack(mask.T), mask.T.shape), mask.T)


@pytest.mark.parametrize("mask", [mask_bits_, mask_values_])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_zeros_of_a_masked_weight_are_its_mask(
    dtype: torch.dtype, mask: Callable[[Tensor, Tensor], None]
) -> None:
    weight = torch.tensor([[0.0, -0.0, 1.5, -2.0, 0.0, -0.0, 3.0, -4.0, math.nan]], dtype=dtype)
    keep = torch.tensor([[True, True, True, True, False, False, False, False, False]])
    # float16's least normal number, 6e-5, would matter. The others' does not, and is not lost where
    # smaller ones are flushed to 0.
    least = 2.0**-24 if dtype == torch.float16 else torch.finfo(dtype).tiny
    mask(weight, keep)
    assert weight[0].tolist() == [least, least, 1.5, -2.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    # A removed weight becomes a positive zero, so that equal models have equal files.
    assert not weight.signbit()[~keep].any()


_FORMS = r"expected u01 \.\.\. u99.*NofM.*s01 \.\.\. s99"
_OF = "expected NofM with 0 < N < M"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["u00", "s00"], "prunes nothing"),
        (["0of4", "4of4", "5of4", "02of4", "2of04", "0of0", "1of1"], _OF),
        (["u5", "u100", "s100", "50", "U50", "u5.0", "u-5", "", "u50 ", " u50", "u50\n"], _FORMS),
        (["2:4", "of4", "2of", "2OF4", "2of4 ", "-2of4", "1000of2000", "dense", "none"], _FORMS),
        # Digits, but not of ASCII.
        (["u\uff15\uff10", "s\u0662\u0660", "\uff12of\uff14"], "expected"),
    ],
)
def test_what_is_no_pattern(names: list[str], message: str) -> None:
    for name in names:
        with pytest.raises(ValueError, match=message) as error:
            Pattern.parse(name)
        assert name in str(error.value) or repr(name) in str(error.value)


def test_a_pattern_of_groups() -> None:
    assert Pattern.parse("2of4") == Pattern("2of4", 0.5, 4)
    assert [columns for columns in (8, 12, 24) if Pattern.parse("4of8").divides(columns)] == [8, 24]
    assert Pattern.parse("u50").divides(7)
    with pytest.raises(ValueError, match="counts units"):
        Pattern.parse("s50").zeros(4, 4, "row")
