"""Halves of a block: its attention or its MLP, each with its norms and the residual stream.

A half is the block itself, called as the model calls it, with every module of the other half
replaced by one that returns zeros, which add nothing to the residual stream. No forward pass is
written by hand.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from freelunch.study.families import Family


class _Out(nn.Module):
    """Take a module's place and return zeros."""

    def __init__(self, is_attention: bool) -> None:
        super().__init__()
        self.is_attention = is_attention

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return zeros of the input's shape; an attention also returns (no) attention weights."""
        zeros = torch.zeros_like(hidden_states)
        return (zeros, None) if self.is_attention else zeros


def half(block: nn.Module, family: Family, out: tuple[str, ...]) -> nn.Module:
    """Return a block without the modules named in `out`; the others are shared, not copied.

    Args:
        block: A decoder block.
        family: Its family.
        out: `family.mlp_half` for the attention, `family.attention_half` for the MLP.
    """
    part = copy.copy(block)
    part._modules = dict(block._modules)
    for name in out:
        setattr(part, name, _Out(is_attention=name == family.attention))
    return part
