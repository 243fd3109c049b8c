"""Halves of a block: its attention or its MLP, each with its norms and the residual stream.

A half is the block itself, called as the model calls it, with every module of the other half put
out: what returns zeros adds nothing to the residual stream. No forward pass is written by hand.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from freelunch.errors import UserError
from freelunch.families import Family, family_of


class _Out(nn.Module):
    """Take a module's place and return zeros."""

    def __init__(self, is_attention: bool) -> None:
        super().__init__()
        self.is_attention = is_attention

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return zeros like the input, as an attention does beside its (absent) weights."""
        zeros = torch.zeros_like(hidden_states)
        return (zeros, None) if self.is_attention else zeros


def halves_of(config: PreTrainedConfig) -> Family:
    """Return the family of a model whose blocks have two halves.

    Raises:
        UserError: The family is not in the table, or its norms lie on the residual stream itself.
    """
    family = family_of(config.model_type)
    if getattr(config, "do_layer_norm_before", True) is False:
        raise UserError(
            "the norms of this model lie on the residual stream, so its blocks have no halves that "
            "add to it",
            where=config.model_type,
            found="do_layer_norm_before = false",
            expected="a window of whole blocks, or matrix",
        )
    return family


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
