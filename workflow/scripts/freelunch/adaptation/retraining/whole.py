"""A whole pruned model, held in memory for training."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from freelunch.adaptation.training.matrices import Masked, TrainedParameters, other_parameters
from freelunch.core.artifact import Artifact
from freelunch.core.errors import UserError
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import StreamedModel, copy_plain_attributes
from freelunch.model.mask_store import load_pruned_block, round_
from freelunch.study.methods import BRANCHES, HEAD, Trained


class WholeModel:
    """A pruned model held in memory as a whole; it runs as transformers runs it.

    Args:
        model: The dense model, whose outer part (embeddings, final norm, head) is copied.
        masks: Masks of the blocks.
        precision: Precision of the passes; trained parameters are always float32.
        recompute: Whether the backward pass runs blocks again instead of keeping their activations
            (gradient checkpointing).
    """

    def __init__(
        self, model: StreamedModel, masks: Artifact, precision: torch.dtype, recompute: bool
    ) -> None:
        self._model, self._masks = model, masks
        self.device, self._precision = model.device, precision
        loaded = [
            load_pruned_block(model, masks.folder, index) for index in range(model.num_blocks)
        ]
        self.blocks = [block for block, _ in loaded]
        self.keep_masks = [keep for _, keep in loaded]
        called = [_Recomputed(block) for block in self.blocks] if recompute else self.blocks
        self.module = model.with_blocks(called)
        self._trained_outer: dict[str, Tensor] = {}

    def train_(self, trained: Trained, seed: int) -> TrainedParameters:
        """Mark the parameters to train, convert them to float32 and return them.

        Args:
            trained: Which parameters to train, and how.
            seed: Seed of random initial values.

        Raises:
            UserError: Nothing is trained, or this model cannot be trained in this way.
        """
        outer = self._outer_modules()
        self.module.requires_grad_(False)
        if self._precision == torch.float32:
            self.module.float()
        for name, linear, _ in self.linears(trained):
            if trained.needs_weight_gradient:
                linear.float()
            elif name == HEAD and linear.weight is self._embedding:
                raise UserError(
                    "the head of this model is tied to its embedding, so an adapter of the head "
                    "cannot be merged",
                    where="train_head",
                    found=trained.weights,
                    expected="train_head: false, or a method other than " + ", ".join(BRANCHES),
                )
        # Norms and biases: in some families, the weight of a norm must not be narrower than its
        # input.
        for module in (*self.blocks, *outer.values()):
            for parameter in module.parameters():
                if parameter.dim() == 1:
                    parameter.data = parameter.data.float()
        others = other_parameters([*self.blocks, *outer.values()], trained)
        found = TrainedParameters(self.linears(trained), others, trained, seed)
        if trained.head:
            self._trained_outer[HEAD] = self._head.weight
        of_outer = {id(parameter) for parameter in others}
        for module_name, module in outer.items():
            for name, parameter in module.named_parameters():
                if id(parameter) in of_outer:
                    self._trained_outer[f"{module_name}.{name}"] = parameter
        return found

    def linears(self, trained: Trained) -> Iterator[Masked]:
        """Yield each linear layer that may be trained, with its name and mask."""
        for index, (block, masks) in enumerate(zip(self.blocks, self.keep_masks, strict=True)):
            for name, linear in block_linears(block).items():
                yield self._model.sharding.name(index, name), linear, masks[name]
        if trained.head:
            yield HEAD, self._head, torch.ones_like(self._head.weight, dtype=torch.bool)

    def logits(self, input_ids: Tensor) -> Tensor:
        """Return the logits, (batch, length, vocabulary), for token ids of (batch, length)."""
        half = self._precision != torch.float32
        with torch.autocast(self.device.type, self._precision) if half else nullcontext():
            output = self.module(input_ids=input_ids.to(self.device), use_cache=False)
        return output.logits  # type: ignore[no-any-return]

    def round_(self) -> None:
        """Round the trained parameters to the checkpoint's precision; their own dtype does not
        change.
        """
        parameters = [it for block in self.blocks for it in block.parameters()]
        masked = (
            (linear, masks[name])
            for block, masks in zip(self.blocks, self.keep_masks, strict=True)
            for name, linear in block_linears(block).items()
        )
        round_([*parameters, *self._trained_outer.values()], masked, self._model.dtype)

    def block_tensors(self, index: int) -> dict[str, Tensor]:
        """Return the tensors of a block as a checkpoint stores them."""
        return {
            self._model.sharding.name(index, name): value.to(self._model.dtype)
            for name, value in self.blocks[index].state_dict().items()
        }

    def outer_tensors(self) -> dict[str, Tensor]:
        """Return the tensors outside the blocks as a checkpoint stores them; empty if none was
        trained.
        """
        if not self._trained_outer:
            return {}
        dtype = self._model.dtype
        changed = {
            self._stored_name(name): value.detach().to(dtype)
            for name, value in self._trained_outer.items()
        }
        return self._model.outer_tensors() | changed

    @torch.no_grad()
    def restore_(self) -> None:
        """Restore the weights that pruning left."""
        for index, block in enumerate(self.blocks):
            before, _ = load_pruned_block(self._model, self._masks.folder, index)
            block.load_state_dict(before.state_dict())
        dense = self._model.outer_tensors()
        for name, parameter in self._trained_outer.items():
            parameter.copy_(dense[self._stored_name(name)])

    @property
    def _head(self) -> nn.Linear:
        return self.module.get_output_embeddings()  # type: ignore[operator,no-any-return]

    @property
    def _embedding(self) -> Tensor:
        return self.module.get_input_embeddings().weight  # type: ignore[operator,no-any-return]

    def _outer_modules(self) -> dict[str, nn.Module]:
        """Return the modules outside the blocks that hold parameters, except linear layers.

        Of these linear layers, only the head may be trained; it is trained as a matrix.
        """
        inside = self._model.sharding.path + "."
        return {
            name: module
            for name, module in self.module.named_modules()
            if not name.startswith(inside)
            and any(True for _ in module.parameters(recurse=False))
            and not isinstance(module, nn.Linear)
        }

    def _stored_name(self, name: str) -> str:
        """Return the name of an outer parameter in a checkpoint."""
        if name != HEAD:
            return name
        wanted = self._head.weight
        # A tied head is stored as the embedding.
        return next(
            stored for stored, parameter in self.module.named_parameters() if parameter is wanted
        )


class _Recomputed(nn.Module):
    """A block that the backward pass runs again."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        copy_plain_attributes(block, self)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the block returns."""
        if not torch.is_grad_enabled():
            return self.block(*args, **kwargs)
        return checkpoint(self.block, *args, use_reentrant=False, **kwargs)
