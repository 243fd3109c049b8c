"""How a model in training is passed, and its part outside of the blocks: embeddings, norm, head."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from freelunch.adaptation.retraining.state import TrainedState
from freelunch.adaptation.training.parameters import Masked, TrainedParameters, other_parameters
from freelunch.core.errors import UserError
from freelunch.model.blocks import BlockCall
from freelunch.model.checkpoint import StreamedModel
from freelunch.study.cell import derive_seed
from freelunch.study.methods import FULL, HEAD, Trained


@dataclass(frozen=True)
class Passes:
    """How a model in training is passed.

    Attributes:
        precision: Precision of the passes; trained parameters are always float32.
        recompute: Whether the backward pass of a model in memory runs blocks again instead of
            keeping their activations (gradient checkpointing).
        streamed: Whether only one block is in memory at a time.
    """

    precision: torch.dtype
    recompute: bool = False
    streamed: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which the model is passed."""
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(device.type, self.precision)

    def widen_(self, root: nn.Module, is_block: bool) -> None:
        """Widen norms and biases, in which passes need float32, and in passes in float32 everything
        but the matrices of blocks, which are widened when they are used.
        """
        everything = self.precision == torch.float32
        for module in root.modules():
            is_matrix = isinstance(module, nn.Linear) and is_block
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                # In some families, the weight of a norm must not be narrower than its input.
                narrow = isinstance(tensor, nn.Parameter) and tensor.dim() == 1
                if tensor.is_floating_point() and (narrow or (everything and not is_matrix)):
                    # Norms and biases may be trained in place, and the outer part shares its values
                    # with the dense model: they are copied even if they are float32.
                    tensor.data = tensor.data.to(torch.float32, copy=narrow)


class TrainedOuter:
    """The outer part of a model in training; the dense model's own stays as it is.

    Args:
        model: The dense model.
        trained: What is trained, and how.
        passes: How the model is passed.
        seed: Seed of initial values and of dropout.
        state: Trained parameters; if it lacks those of this part, they are added with their initial
            values.

    Attributes:
        part: The number of this part in the state: that of the blocks.
        trained: What is trained in it.
        trains_embedding: Whether gradients go on to the embedding.

    Raises:
        UserError: The head is to have an adapter, and is tied to the embedding.
    """

    def __init__(
        self,
        model: StreamedModel,
        trained: Trained,
        passes: Passes,
        seed: int,
        state: TrainedState,
    ) -> None:
        self.part = model.num_blocks
        self._model, self._passes, self._seed = model, passes, seed
        self._calls: dict[tuple[int, int], list[BlockCall]] = {}
        self._outer = outer = model.outer.copy()
        outer.module.requires_grad_(False)
        if trained.head:
            # The dense model's own must not move along.
            outer.head.weight.data = outer.head.weight.data.clone()
        passes.widen_(outer.module, is_block=False)
        layers: list[Masked] = []
        tied = outer.head.weight is outer.embedding.weight
        if trained.head:
            head = outer.head
            if trained.weights != FULL and tied:
                raise UserError(
                    "the head of this model is tied to its embedding, so it has no adapter of its "
                    "own",
                    where="train_head",
                    found=trained.weights,
                    expected=f"train_head: false, or the method {FULL}",
                )
            layers = [(HEAD, head, torch.ones_like(head.weight, dtype=torch.bool))]
        # Of linear layers outside of the blocks, only the head may be trained.
        modules = {
            name: module
            for name, module in outer.module.named_modules()
            if any(True for _ in module.parameters(recurse=False))
            and not isinstance(module, nn.Linear)
        }
        others = other_parameters(modules.values(), trained)
        given = state.parameters(self.part) if self.part in state else None
        head_alone = replace(trained, linears=None)
        self.trained = TrainedParameters(layers, others, head_alone, seed, given)
        if given is None and self.trained.parameters:
            state.add(self.part, self.trained.parameters)
        if trained.head and tied:
            # A saved weight takes the head's place, and has to stay the embedding's.
            outer.embedding.weight = outer.head.weight
        names = {id(module): name for name, module in modules.items()}
        self._trained_by_name: dict[str, Tensor] = {
            f"{names[id(module)]}.{name}": getattr(module, name) for module, name in others
        }
        if trained.head:
            self._trained_by_name[HEAD] = outer.head.weight
        one_token = torch.zeros((1, 1), dtype=torch.int64)
        self.trains_embedding = self.embed(one_token).requires_grad

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return the hidden states before the first block, (batch, length, width)."""
        with self._passes.autocast(self._model.device):
            return self._outer.embed(input_ids)[0]

    def call(self, index: int, batch: int, length: int) -> BlockCall:
        """Return how a block is called."""
        if (batch, length) not in self._calls:
            with self._passes.autocast(self._model.device):
                self._calls[batch, length] = self._outer.calls(batch, length)
        return self._calls[batch, length][index]

    def logits(
        self, input_ids: Tensor, hidden: Tensor, place: tuple[int, int] | None = None
    ) -> Tensor:
        """Return logits, (batch, length, vocabulary), for hidden states after the last block;
        `place` is the step and micro-batch of a pass that trains.
        """
        drawn = None if place is None else derive_seed(self._seed, "dropout", *place, self.part)
        self.trained.drop_(drawn)
        with self._passes.autocast(self._model.device):
            return self._outer.logits(input_ids, hidden)

    def merge_(self) -> None:
        """Leave the trained weights in the modules, rounded to the checkpoint's precision."""
        self.trained.merge_()
        with torch.no_grad():
            for parameter in self._trained_by_name.values():
                parameter.copy_(parameter.to(self._model.dtype))

    def tensors(self, restored: bool) -> dict[str, Tensor]:
        """Return the tensors as a checkpoint stores them, the dense model's if `restored`; empty if
        none was trained.
        """
        if not self._trained_by_name:
            return {}
        dense = self._model.outer_tensors()
        if restored:
            return dense
        return dense | {
            self._stored_name(name): value.detach().to(self._model.dtype)
            for name, value in self._trained_by_name.items()
        }

    def _stored_name(self, name: str) -> str:
        """Return the name of a parameter in a checkpoint."""
        if name != HEAD:
            return name
        wanted = self._outer.head.weight
        # A tied head is stored as the embedding.
        return next(
            stored
            for stored, parameter in self._outer.module.named_parameters()
            if parameter is wanted
        )
