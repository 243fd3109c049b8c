"""The part of a model outside its decoder blocks, which runs with stand-ins in their places."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from freelunch.core.errors import UserError
from freelunch.model.blocks import BlockCall, StandIn, TakesTuples, same_call


class Outer:
    """Embeddings, final norm and head, which run as the model itself runs them.

    Args:
        module: The model's module tree.
        path: Dotted name of its list of blocks, which stand-ins replace.
        name: What an error calls the model.

    Attributes:
        module: The module tree, with stand-ins in place of the blocks.
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
        """Return a copy with parameters of its own, whose values share their memory with these.

        Who changes values in place gives their parameter a memory of its own first.
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
        """Return the calls of the blocks for any tokens of this shape.

        Raises:
            UserError: The calls depend on the tokens, so they cannot be recorded once.
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
