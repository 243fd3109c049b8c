"""Masks from scores: the one place that decides which weights go.

Masks are by rank, never by a threshold on the value: each row (or matrix) loses exactly as many
weights as the pattern asks for, and of equal scores the one with the lower index goes first.
"""

import numpy as np
import torch
from torch import Tensor

from freelunch.errors import UserError
from freelunch.patterns import SCOPES, Pattern


def keep_mask(scores: Tensor, pattern: Pattern, scope: str, where: object = None) -> Tensor:
    """Return which weights stay.

    Args:
        scores: (rows, columns), any float dtype; the lowest go.
        pattern: How many go.
        scope: Within what scores are compared: "row" or "matrix".
        where: What the scores belong to, for messages.

    Returns:
        (rows, columns), bool, True where the weight stays.

    Raises:
        UserError: A score is not finite.
        ValueError: Another scope.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope {scope!r}; expected one of {SCOPES}")
    if not torch.isfinite(scores).all():
        raise UserError(
            "a pruning score is not finite",
            where=where,
            found=f"{int((~torch.isfinite(scores)).sum())} of {scores.numel()} scores",
            todo="look for non-finite weights or activations of this layer",
        )
    groups = scores if scope == "row" else scores.reshape(1, -1)
    count = pattern.zeros_in_group(groups.shape[1])
    if count == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    # Selection, not sorting. Everything below the count-th lowest goes, and of those equal to it
    # as many as are left, by index.
    threshold = groups.kthvalue(count, dim=1, keepdim=True).values
    below = groups < threshold
    tied = groups == threshold
    left = count - below.sum(dim=1, keepdim=True)
    pruned = below | (tied & (tied.cumsum(dim=1) <= left))
    return ~pruned.reshape(scores.shape)


def pack(mask: Tensor) -> Tensor:
    """Return a boolean mask as bits: (ceil(numel / 8),), uint8, row by row."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy()))


def unpack(bits: Tensor, shape: torch.Size) -> Tensor:
    """Return the boolean mask of a shape that `pack` made bits of."""
    flat = np.unpackbits(bits.numpy(), count=shape.numel())
    return torch.from_numpy(flat).bool().reshape(shape)
