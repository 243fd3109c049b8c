"""A pruned model in training: in memory as a whole, or one block at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from freelunch.adaptation.retraining.state import TrainedState
from freelunch.adaptation.retraining.trained_outer import Passes, TrainedOuter
from freelunch.adaptation.training.parameters import (
    TrainedParameters,
    nothing_trained,
    other_parameters,
)
from freelunch.core.artifact import Artifact
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.mask_store import load_masks, load_pruned_block, round_
from freelunch.model.transfer import load_ahead
from freelunch.study.cell import derive_seed
from freelunch.study.methods import Trained

# The loss of some sequences, 0-d, from their logits and their rows in the sample.
Loss = Callable[[Tensor, Tensor], Tensor]
# A pruned block, its masks, and its trained parameters, if it has some already.
Loaded = tuple[nn.Module, dict[str, Tensor], Sequence[Tensor] | None]


@dataclass
class Block:
    """A block in memory, and what is trained in it."""

    module: nn.Module
    trained: TrainedParameters


class Trainee:
    """A pruned model in training.

    Args:
        model: The dense model, whose outer part (embeddings, final norm, head) stays as it is.
        masks: Masks of the blocks.
        trained: What is trained, and how.
        passes: How the model is passed.
        seed: Seed of initial values and of dropout.
        state: Trained parameters; those that it lacks are added with their initial values.

    Attributes:
        outer: What is outside of the blocks.
        num_blocks: Number of blocks.
        device: Where the model is passed.
        is_streamed: Whether only one block is in memory at a time.

    Raises:
        UserError: Nothing is trained, or this model cannot be trained in this way.
    """

    def __init__(
        self,
        model: StreamedModel,
        masks: Artifact,
        trained: Trained,
        passes: Passes,
        seed: int,
        state: TrainedState,
    ) -> None:
        self._model, self._masks, self._trained = model, masks, trained
        self._passes, self._seed, self._state = passes, seed, state
        self.num_blocks, self.device = model.num_blocks, model.device
        self.is_streamed = passes.streamed
        self._merged = self._restored = False
        self._counts: dict[int, int] = {}
        self.outer = TrainedOuter(model, trained, passes, seed, state)
        self._held: list[Block] = []
        if not passes.streamed:
            self._held = [self._block(i, *self._load(i)) for i in range(model.num_blocks)]

    @property
    def count(self) -> int:
        """How many numbers are trained, once all blocks were in memory."""
        return sum(self._counts.values()) + self.outer.trained.count

    @torch.no_grad()
    def losses(self, input_ids: Tensor, batches: Sequence[Tensor], loss: Loss) -> list[float]:
        """Return the loss of each batch, without gradients and without dropout; a batch is rows of
        the sample, (batch,), int64.
        """
        hidden = [self.outer.embed(input_ids[rows]) for rows in batches]
        for index, block in self.visits(range(self.num_blocks)):
            hidden = [self.through(index, block, states) for states in hidden]
        pairs = zip(batches, hidden, strict=True)
        return [
            float(loss(self.outer.logits(input_ids[rows], states), rows)) for rows, states in pairs
        ]

    def visits(self, indices: Sequence[int]) -> Iterator[tuple[int, Block]]:
        """Yield blocks, one after another."""
        if self._held:
            yield from ((index, self._held[index]) for index in indices)
            return
        for index, loaded in self._loaded(indices):
            block = self._block(index, *loaded)
            # The loader still holds this dict, so emptying it frees the masks.
            loaded[1].clear()
            del loaded
            yield index, block
            # The caller still holds the block, and the reading of the one after next begins now.
            del block.module, block.trained

    def through(
        self, index: int, block: Block, hidden: Tensor, place: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the hidden states after a block, (batch, length, width); `place` is the step and
        micro-batch of a pass that trains, on which alone dropout depends.
        """
        batch, length, _ = hidden.shape
        call = self.outer.call(index, batch, length)
        drawn = None if place is None else derive_seed(self._seed, "dropout", *place, index)

        def run(states: Tensor) -> Tensor:
            block.trained.drop_(drawn)
            with self._passes.autocast(self.device):
                return call(block.module, states)

        if self._passes.recompute and torch.is_grad_enabled() and not self.is_streamed:
            recomputed: Tensor = checkpoint(
                run, hidden, use_reentrant=False, preserve_rng_state=False
            )
            return recomputed
        return run(hidden)

    def gathered(self, part: int, trained: TrainedParameters) -> None:
        """Take the gradients of a part, which are complete: those of pruned weights become 0."""
        trained.mask_gradients_()
        self._state.gathered(part, trained.parameters)

    def merge_(self) -> None:
        """Leave the trained weights in the model, rounded to the checkpoint's precision."""
        self._merged = True
        self.outer.merge_()
        for index, block in enumerate(self._held):
            self._merge_(index, block)

    def restore_(self) -> None:
        """Have the tensors below be those that pruning left."""
        self._restored = True

    def block_tensors(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Yield the number and the tensors of each block as a checkpoint stores them."""
        blocks = range(self.num_blocks)
        modules: Iterable[tuple[int, nn.Module]] = (
            ((index, module) for index, (module, _, _) in self._loaded(blocks))
            if self._restored
            else ((index, block.module) for index, block in self.visits(blocks))
        )
        for index, module in modules:
            yield (
                index,
                {
                    self._model.sharding.name(index, name): value.to(self._model.dtype)
                    for name, value in module.state_dict().items()
                },
            )

    def outer_tensors(self) -> dict[str, Tensor]:
        """Return the tensors outside the blocks as a checkpoint stores them; empty if none was
        trained.
        """
        return self.outer.tensors(self._restored)

    def _loaded(self, indices: Sequence[int]) -> Iterator[tuple[int, Loaded]]:
        return load_ahead(self.device, indices, self._load)

    def _load(self, index: int) -> Loaded:
        module, masks = load_pruned_block(self._model, self._masks.folder, index)
        return module, masks, self._state.parameters(index) if index in self._state else None

    def _block(
        self,
        index: int,
        module: nn.Module,
        masks: dict[str, Tensor],
        given: Sequence[Tensor] | None,
    ) -> Block:
        self._passes.widen_(module, is_block=True)
        layers = [
            (self._model.sharding.name(index, name), linear, masks[name])
            for name, linear in block_linears(module).items()
        ]
        others = other_parameters([module], self._trained)
        trained = TrainedParameters(layers, others, self._trained, self._seed, given)
        if given is None and trained.parameters:
            self._state.add(index, trained.parameters)
        if index not in self._counts:
            # Streamed, a block comes here twice a step, and counting reads its masks.
            self._counts[index] = trained.count
        if not (trained.parameters or self.outer.trained.parameters):
            raise nothing_trained(name for name, _, _ in layers)
        block = Block(module, trained)
        if self._merged:
            self._merge_(index, block)
        return block

    def _merge_(self, index: int, block: Block) -> None:
        block.trained.merge_()
        masks = load_masks(self._masks.folder, index, block.module)
        linears = block_linears(block.module)
        masked = ((linear, masks[name]) for name, linear in linears.items())
        round_(block.module.parameters(), masked, self._model.dtype)
