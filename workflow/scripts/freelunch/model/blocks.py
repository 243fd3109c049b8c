"""Decoder blocks: where they are in a model, how the model itself calls them, and what is outside.

Position embeddings, attention masks and caches differ between families and between releases of
transformers. No such argument is written by hand: the model runs once with stand-ins in place of
its blocks, which record the arguments they get, and each block is then called with these.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from freelunch.core.errors import UserError, first_of
from freelunch.study.families import Family, tested


def find_blocks(model: nn.Module, num_blocks: int) -> str:
    """Return the dotted name of the model's list of decoder blocks, e.g. `model.layers`; parameters
    may be on the meta device. UserError if not exactly one list has as many modules as its config
    announces blocks, all of one class.
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
    """Refuse a model whose blocks, at a dotted name, have no linear layer, or hold matrices outside
    of linear layers, which would not be pruned. Parameters may be on the meta device.
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
    """The arguments a model calls one block with, except for the hidden states: positional ones
    after them, and keyword arguments.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Return the block's output hidden states, (batch, length, d)."""
        return _hidden_of(block(hidden, *self.args, **self.kwargs))


class TakesTuples(Exception):
    """The model takes hidden states out of a tuple, and got them without one."""


class StandIn(nn.Module):
    """Take a block's place: record the call and return its hidden states, or those in `returns`, in
    a tuple if `in_tuple` says so, as blocks of some families do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None
        self.call: BlockCall | None = None
        self.returns: Tensor | None = None
        self.in_tuple = False

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor]:
        """Record the arguments and return hidden states, as a block would; TakesTuples if the model
        took the first sequence for a tuple's first entry.
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


class Outer:
    """Embeddings, final norm and head, which run as the model itself runs them: stand-ins take the
    places of the blocks at `path` in the module tree. Errors call the model by `name`.
    """

    def __init__(self, module: nn.Module, path: str, name: object) -> None:
        self.module, self._path, self._name = module, path, name
        parent, _, last = path.rpartition(".")
        blocks = list(module.get_submodule(path).children())
        self._stand_ins = [StandIn() for _ in blocks]
        for stand_in, block in zip(self._stand_ins, blocks, strict=True):
            copy_plain_attributes(block, stand_in)
        setattr(module.get_submodule(parent), last, nn.ModuleList(self._stand_ins))
        self._learn_output_()

    @torch.no_grad()
    def _learn_output_(self) -> None:
        """Find out whether the model takes the hidden states that a block returns out of a tuple.
        The table of families does not say it, since the model of any family shows it.
        """
        try:
            in_tuple = self._passed(torch.zeros((1, 2), dtype=torch.int64))[0].dim() < 3
        except TakesTuples:
            in_tuple = True
        for stand_in in self._stand_ins:
            stand_in.in_tuple = in_tuple
        self._forget_()

    def copy(self) -> "Outer":
        """Return a copy with parameters of its own, whose values share their memory with these. Who
        changes values in place gives their parameter a memory of its own first.
        """
        stand_ins = self.module.get_submodule(self._path)
        # deepcopy takes an object in its memo as copied already.
        memo: dict[int, Any] = {id(stand_ins): stand_ins}
        for parameter in self.module.parameters():
            memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
        return Outer(copy.deepcopy(self.module, memo), self._path, self._name)

    @property
    def device(self) -> torch.device:
        """Where the outer part runs."""
        return next(self.module.parameters()).device

    @property
    def head(self) -> nn.Linear:
        """The language-model head."""
        return self.module.get_output_embeddings()  # type: ignore[operator,no-any-return]

    @property
    def embedding(self) -> nn.Embedding:
        """The embedding of tokens."""
        return self.module.get_input_embeddings()  # type: ignore[operator,no-any-return]

    def embed(self, input_ids: Tensor, **arguments: Any) -> tuple[Tensor, list[BlockCall]]:
        """Return what the model passes to its blocks for (batch, length) token ids and further
        arguments, e.g. an attention mask: hidden states, (batch, length, d), and the call of each
        block.
        """
        self._passed(input_ids, **arguments)
        hidden = self._stand_ins[0].hidden
        calls = [stand_in.call for stand_in in self._stand_ins]
        self._forget_()
        if hidden is None or None in calls:
            raise UserError(
                "the model did not call every one of its blocks",
                where=self._name,
                found=f"calls of {len(calls) - calls.count(None)} blocks",
                expected=len(calls),
            )
        return hidden, calls  # type: ignore[return-value]

    @torch.no_grad()
    def calls(self, batch: int, length: int) -> list[BlockCall]:
        """Return the calls of the blocks for any tokens of this shape; UserError if they depend on
        the tokens, so that they cannot be recorded once.
        """
        tokens = torch.arange(batch * length).reshape(batch, length)
        vocabulary = self.embedding.num_embeddings
        first, second = (self.embed((tokens * step + 1) % vocabulary)[1] for step in (1, 7))
        if not all(map(same_call, first, second)):
            raise UserError(
                "this family passes its blocks arguments that depend on the tokens",
                where=self._name,
                found=type(self.module).__name__,
                todo="use a family whose blocks depend on the tokens through hidden states only",
            )
        return second

    def logits(self, input_ids: Tensor, hidden: Tensor) -> Tensor:
        """Return the logits, (batch, length, vocabulary), for hidden states after the last block,
        (batch, length, d); of the token ids, only the shape matters.
        """
        self._stand_ins[-1].returns = hidden
        try:
            output = self.module(input_ids=input_ids.to(self.device), use_cache=False)
        finally:
            self._forget_()
        return output.logits  # type: ignore[no-any-return]

    @property
    def backbone(self) -> nn.Module:
        """The module that takes token ids and calls the blocks."""
        return self.module.get_submodule(self.module.base_model_prefix)  # type: ignore[arg-type]

    def _passed(self, input_ids: Tensor, **arguments: Any) -> Any:
        return self.backbone(input_ids=input_ids.to(self.device), use_cache=False, **arguments)

    def _forget_(self) -> None:
        for stand_in in self._stand_ins:
            stand_in.hidden = stand_in.call = stand_in.returns = None


def copy_plain_attributes(block: nn.Module, stand_in: nn.Module) -> None:
    """Copy the attributes that a model reads before it calls a block (e.g. `attention_type`)."""
    for name, value in vars(block).items():
        if isinstance(value, str | int | bool) and not hasattr(stand_in, name):
            setattr(stand_in, name, value)


class InputsSeen(Exception):
    """All inputs of a block's linear layers were seen, and nothing needs its outputs."""


class LinearWatcher:
    """See the input and the output of each linear layer of a block; subclasses decide what to do
    with them.

    Layers that get the same tensor as input (q, k and v; gate and up) form a group, named after the
    first of them; their input is seen once. `groups` has the group of each layer that was called,
    in the order of calls. `ends_pass` raises InputsSeen before the last layer of a pass, a quarter
    of a block's products, once a whole pass has shown which that is.
    """

    def __init__(self, block: nn.Module, ends_pass: bool = False) -> None:
        self.linears = block_linears(block)
        self.groups: dict[str, str] = {}
        self._ends_pass = ends_pass
        self._last: tuple[str, Tensor] | None = None

    def see_input(self, group: str, inputs: Tensor) -> None:
        """Handle the input of a group, (batch, length, features)."""

    def see_output(self, name: str, outputs: Tensor) -> None:
        """Handle the output of a layer, (batch, length, outputs)."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch all passes through the block within the `with` statement."""
        handles = []
        for name, linear in self.linears.items():
            handles.append(linear.register_forward_pre_hook(self._before(name)))
            handles.append(linear.register_forward_hook(self._after(name)))
        try:
            yield
        finally:
            self._last = None
            for handle in handles:
                handle.remove()

    def _before(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            tensor = inputs[0]
            same = self._last is not None and self._last[1] is tensor
            group = self._last[0] if same and self._last is not None else name
            is_last = name in self.groups and name == next(reversed(self.groups))
            if self.groups.setdefault(name, group) != group:
                raise RuntimeError(f"{name} shares its input with other layers than before")
            if group == name:
                self.see_input(name, tensor)
                self._last = (name, tensor)
            if self._ends_pass and is_last:
                raise InputsSeen

        return note

    def _after(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, outputs: Tensor) -> None:
            self.see_output(name, outputs)

        return note


class _Out(nn.Module):
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
    """Return a half of a block, its attention or its MLP, with its norms and the residual stream:
    the block itself, called as the model calls it, whose modules named in `out` (`family.mlp_half`
    for the attention, `family.attention_half` for the MLP) add nothing. The others are shared.
    """
    part = copy.copy(block)
    part._modules = dict(block._modules)
    for name in out:
        setattr(part, name, _Out(name == family.attention, family.adds_residual))
    return part
