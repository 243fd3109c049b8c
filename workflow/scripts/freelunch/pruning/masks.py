"""Masks from scores: the one place that decides which weights are pruned.

Masks are made by rank, never by a threshold: each row, matrix or group loses exactly as many
weights as the pattern asks for. Ties: the lower-index weight is pruned.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from freelunch.core.errors import UserError
from freelunch.model.mask_store import check_finite
from freelunch.study.patterns import SCOPES, Pattern

# Groups up to this size are ranked by comparing every pair of scores; larger groups use selection.
_COMPARED_GROUP = 8
# Groups that are ranked at once, so that their comparisons stay in the processor's cache.
_CHUNK = 16384


def keep_mask(scores: Tensor, pattern: Pattern, scope: str, where: object = None) -> Tensor:
    """Return which weights are kept, (rows, columns), bool.

    Args:
        scores: (rows, columns), any float dtype; the lowest are pruned.
        pattern: How many weights are pruned; not a structured pattern.
        scope: Where scores are compared with each other: within a "row" or the "matrix". An NofM
            pattern compares them within each group of a row, whatever the scope.
        where: Name of the weight, for error messages.

    Raises:
        UserError: A score is not finite, or the pattern does not divide the columns.
        ValueError: The scope is unknown.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope {scope!r}; expected one of {SCOPES}")
    check_finite(scores, where, problem="a pruning score is not finite")
    check_divides(pattern, scores.shape[1], where)
    size = pattern.group or (scores.shape[1] if scope == "row" else scores.numel())
    groups = scores.reshape(-1, size)
    return ~lowest(groups, pattern.zeros_in_group(size)).reshape(scores.shape)


def lowest(groups: Tensor, count: int) -> Tensor:
    """Return where the `count` lowest scores of each group are, (groups, size), bool, for finite
    scores, (groups, size), of any float dtype; ties: the lower index is chosen.
    """
    if count == 0:
        return torch.zeros_like(groups, dtype=torch.bool)
    if groups.shape[1] <= _COMPARED_GROUP:
        parts = groups.split(_CHUNK)  # type: ignore[no-untyped-call]
        return torch.cat([_lowest_by_rank(part.T.contiguous(), count).T for part in parts])
    # Select instead of sorting. If ties leave more than `count` scores at or below the threshold,
    # only the first of the tied scores are chosen.
    threshold = _kth_lowest(groups, count)
    chosen = groups <= threshold
    excess = chosen.sum(dim=1, dtype=torch.int32) - count
    tied_groups = excess.nonzero()[:, 0]
    if len(tied_groups):
        tied = groups[tied_groups] == threshold[tied_groups]
        kept = tied.sum(dim=1, keepdim=True) - excess[tied_groups, None]
        chosen[tied_groups] &= ~(tied & (tied.cumsum(dim=1, dtype=torch.int32) > kept))
    return chosen


def lowest_of_columns(columns: Tensor, count: int) -> Tensor:
    """Return the result of `lowest` for groups stored as columns, (size, groups)."""
    if len(columns) <= _COMPARED_GROUP:
        return _lowest_by_rank(columns, count)
    return lowest(columns.T, count).T


def check_divides(pattern: Pattern, columns: int, where: object) -> None:
    """Raise UserError if an NofM pattern does not divide a matrix with this many columns."""
    if not pattern.divides(columns):
        raise UserError(
            "the pattern does not divide the width of this matrix",
            where=where,
            found=f"{columns} inputs",
            expected=f"a multiple of {pattern.group}, for {pattern.name}",
            todo="choose a pattern whose M divides the inputs of every linear layer",
        )


def _kth_lowest(groups: Tensor, count: int) -> Tensor:
    if groups.device.type != "cpu":
        return groups.kthvalue(count, dim=1, keepdim=True).values
    # NumPy selects with vector instructions, ten times as fast as torch.kthvalue.
    selected = np.partition(_for_numpy(groups), count - 1, axis=1)[:, count - 1 : count]
    return torch.from_numpy(selected.copy()).to(groups.dtype)


def _for_numpy(scores: Tensor) -> np.ndarray[Any, Any]:
    """Return scores as an array. NumPy has no bfloat16, whose values float32 represents exactly."""
    return (scores if scores.dtype == torch.float64 else scores.float()).numpy()


def _lowest_by_rank(columns: Tensor, count: int) -> Tensor:
    """Return the result of `lowest_of_columns`, fast for small groups: the rank of a score is the
    number of scores that come before it.
    """
    last = len(columns) - 1
    # Each rank starts as if no pair of scores were in order.
    ranks = torch.arange(last, -1, -1, dtype=torch.int8, device=columns.device)[:, None]
    ranks = ranks.repeat(1, columns.shape[1])
    if columns.device.type == "cpu":
        # NumPy counts bytes in a quarter of torch's time; both arrays share their memory.
        _rank_(_for_numpy(columns), ranks.numpy())
    else:
        _rank_(columns, ranks)
    return ranks < count


def _rank_(columns: Any, ranks: Any) -> None:
    """Complete ranks, (size, groups), int8, in place; both are tensors, or both are arrays."""
    for index in range(len(columns) - 1):
        # Ties: the lower index comes first.
        in_order = (columns[index] <= columns[index + 1 :]).view(ranks.dtype)
        ranks[index + 1 :] += in_order
        ranks[index] -= in_order.sum(0, dtype=ranks.dtype)
