"""Decoder blocks: where they are in a model, and how the model itself calls them.

Position embeddings, attention masks and caches differ between families and between releases of
transformers. No such argument is written by hand: the model runs once with stand-ins in place of
its blocks, which record the arguments they get, and each block is then called with these.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from freelunch.core.errors import UserError, first_of
from freelunch.study.families import tested


def find_blocks(model: nn.Module, num_blocks: int) -> str:
    """Return the dotted name of the model's list of decoder blocks, e.g. `model.layers`.

    Args:
        model: A causal language model; parameters may be on the meta device.
        num_blocks: How many blocks its config announces.

    Raises:
        UserError: Not exactly one list has this length and holds modules of one class.
    """
    lists = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)
    }
    matching = [
        name
        for name, module in lists.items()
        if len(module) == num_blocks and len({type(block) for block in module}) == 1
    ]
    if len(matching) != 1:
        listed = ", ".join(f"{name} ({len(module)})" for name, module in lists.items())
        raise UserError(
            "the decoder blocks of this model cannot be found",
            where=type(model).__name__,
            found=f"module lists {listed or 'none'}",
            expected=f"exactly one list of {num_blocks} modules of one class",
            todo=f"use a decoder-only causal language model; {tested()}",
        )
    return str(matching[0])


def block_linears(block: nn.Module) -> dict[str, nn.Linear]:
    """Return every linear layer of a block by its name in the block: the layers that are pruned."""
    linears = {name: mod for name, mod in block.named_modules() if isinstance(mod, nn.Linear)}
    if not linears:
        raise UserError(
            "a decoder block has no linear layer",
            where=type(block).__name__,
            expected=f"modules of torch.nn.Linear; {tested()}",
            todo="use another model",
        )
    return linears


def check_blocks(model: nn.Module, path: str) -> None:
    """Refuse a model whose blocks hold matrices that would not be pruned.

    Args:
        model: A causal language model; parameters may be on the meta device.
        path: The dotted name of its list of blocks.

    Raises:
        UserError: A block has no linear layer, or a matrix outside of linear layers.
    """
    block = next(model.get_submodule(path).children())
    linears = {f"{name}.weight" for name in block_linears(block)}
    other = [
        name
        for name, parameter in block.named_parameters()
        if parameter.dim() > 1 and name not in linears
    ]
    if other:
        raise UserError(
            "the blocks of this model hold matrices that are not linear layers, so that they would "
            "be neither pruned nor counted",
            where=type(model).__name__,
            found=", ".join(first_of(other, 3)),
            expected=f"matrices in modules of torch.nn.Linear; {tested()}",
            todo="use another model",
        )


def has_bias(linear: nn.Linear) -> bool:
    """Return whether a linear layer has a bias; torch's annotation says that it always has."""
    return isinstance(linear.bias, Tensor)


@dataclass(frozen=True)
class BlockCall:
    """The arguments a model calls one block with, except for the hidden states.

    Attributes:
        args: Positional arguments after the hidden states.
        kwargs: Keyword arguments.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Return the block's output hidden states, (batch, length, d)."""
        return _hidden_of(block(hidden, *self.args, **self.kwargs))


class TakesTuples(Exception):
    """The model takes hidden states out of a tuple, and got them without one."""


class StandIn(nn.Module):
    """Take a block's place: record the call and return its hidden states, or those in `returns`.

    Attributes:
        in_tuple: Whether hidden states are returned in a tuple, as blocks of some families do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None
        self.call: BlockCall | None = None
        self.returns: Tensor | None = None
        self.in_tuple = False

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor]:
        """Record the arguments and return hidden states, as a block would.

        Raises:
            TakesTuples: The model took the first sequence for a tuple's first entry.
        """
        if hidden.dim() < 3:
            raise TakesTuples
        self.hidden, self.call = hidden, BlockCall(args, kwargs)
        states = hidden if self.returns is None else self.returns
        return (states,) if self.in_tuple else states


def same_call(one: BlockCall, other: BlockCall) -> bool:
    """Return whether two calls have equal arguments."""
    return _equal((one.args, one.kwargs), (other.args, other.kwargs))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return type(one) is type(other) and bool(one == other)


def _hidden_of(output: Any) -> Tensor:
    """Return the hidden states in a block's output; some families wrap them in a tuple."""
    hidden = output[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, Tensor):
        raise TypeError(f"a block returned {type(output).__name__}, expected hidden states")
    return hidden
