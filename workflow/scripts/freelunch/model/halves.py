"""Halves of a block: its attention or its MLP, each with its norms and the residual stream.

A half is the block itself, called as the model calls it, with every module of the other half
replaced by one that returns zeros, which add nothing to the residual stream (or, where attention
and MLP add the residual stream themselves, by one that returns it). No forward pass is written by
hand.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from freelunch.study.families import Family


class _Out(nn.Module):
    """Take a module's place and add nothing.

    Args:
        is_attention: Whether the module is an attention, which also returns attention weights.
        adds_residual: As in `Family`.
    """

    def __init__(self, is_attention: bool, adds_residual: bool) -> None:
        super().__init__()
        self.is_attention, self.adds_residual = is_attention, adds_residual

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return zeros of the input's shape, or the residual stream that the module would add."""
        # A norm gets no residual stream.
        given = self.adds_residual and args
        output = args[0] if given else torch.zeros_like(hidden_states)
        return (output, None) if self.is_attention else output


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
        setattr(part, name, _Out(name == family.attention, family.adds_residual))
    return part
