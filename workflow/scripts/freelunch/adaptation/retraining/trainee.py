"""A pruned model in training, in memory as a whole or one block at a time, and its part outside of
the blocks: embeddings, norm, head.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from freelunch.adaptation.job import AdaptationJob
from freelunch.adaptation.retraining.state import TrainedState
from freelunch.adaptation.training.parameters import (
    Masked,
    TrainedParameters,
    nothing_trained,
    other_parameters,
)
from freelunch.core.errors import UserError
from freelunch.model.blocks import BlockCall, block_linears
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.mask_store import load_masks, round_
from freelunch.model.transfer import load_ahead
from freelunch.study.methods import FULL, HEAD, Trained
from freelunch.study.retraining import Retraining
from freelunch.study.steps import HEAD_BYTES

# The part that some places have in the mean loss of sequences, 0-d: from their logits, (batch,
# places, vocabulary), the sequences' rows in the sample, (batch,), and the first place.
Loss = Callable[[Tensor, Tensor, int], Tensor]
# A pruned block, its masks, and its trained parameters, if it has some already.
Loaded = tuple[nn.Module, dict[str, Tensor], Sequence[Tensor] | None]


@dataclass(frozen=True)
class Passes:
    """How a model in training is passed: the precision, trained parameters being always float32;
    whether the backward pass of a model in memory runs blocks again instead of keeping their
    activations (gradient checkpointing); whether only one block is in memory at a time.
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
    """The outer part of a model in training, the part of the state behind the blocks; the dense
    model's own stays as it is. `trains_embedding` says whether gradients go on to the embedding.
    UserError: the head is to have an adapter, and is tied to the embedding.
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
        self._model, self._passes = model, passes
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
            if trained.weights != FULL and tied:
                raise UserError(
                    "the head of this model is its embedding, and has no adapter of its own",
                    where="train_head",
                    found=trained.weights,
                    expected=f"train_head: false, or the method {FULL}",
                )
            keep = torch.ones_like(outer.head.weight, dtype=torch.bool)
            layers = [(HEAD, outer.head, keep)]
        # Of linear layers outside of the blocks, only the head may be trained.
        modules = {
            name: module
            for name, module in outer.module.named_modules()
            if any(True for _ in module.parameters(recurse=False))
            and not isinstance(module, nn.Linear)
        }
        others = other_parameters(modules.values(), trained)
        given = state.parameters(self.part) if self.part in state else None
        self.trained = TrainedParameters(layers, others, trained, seed, given)
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

    def logits(self, input_ids: Tensor, hidden: Tensor) -> Tensor:
        """Return logits, (batch, length, vocabulary), for hidden states after the last block."""
        with self._passes.autocast(self._model.device):
            return self._outer.logits(input_ids, hidden)

    def losses(
        self, input_ids: Tensor, hidden: Tensor, rows: Tensor, loss: Loss
    ) -> Iterator[Tensor]:
        """Yield the parts of the mean loss of the sequences `rows`, 0-d, for token ids, (batch,
        length), and hidden states after the last block, so that few logits are in memory at once.
        """
        places = max(1, HEAD_BYTES // (4 * len(rows) * self._outer.head.out_features))
        for start in range(0, hidden.shape[1], places):
            here = slice(start, start + places)
            yield loss(self.logits(input_ids[:, here], hidden[:, here]), rows, start)

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
        # A tied head is stored as the embedding: the first name of its weight.
        names = {id(each): name for name, each in self._outer.module.named_parameters()}
        return dense | {
            names[id(value)] if name == HEAD else name: value.detach().to(self._model.dtype)
            for name, value in self._trained_by_name.items()
        }


@dataclass
class Block:
    """A block in memory, and what is trained in it."""

    module: nn.Module
    trained: TrainedParameters


class Trainee:
    """A pruned model in training; the outer part of the dense one (embeddings, final norm, head)
    stays as it is. What the state lacks is added with initial values by the seed. UserError:
    nothing is trained, or this model cannot be trained in this way.
    """

    def __init__(
        self, job: AdaptationJob[Retraining], passes: Passes, seed: int, state: TrainedState
    ) -> None:
        self._job, self._model, self._trained = job, job.model, job.settings.trained
        self._passes, self._seed, self._state = passes, seed, state
        self.num_blocks, self.device = job.model.num_blocks, job.model.device
        self.is_streamed = passes.streamed
        self._merged = self._restored = False
        self._counts: dict[int, int] = {}
        self.outer = TrainedOuter(job.model, self._trained, passes, seed, state)
        self._held: list[Block] = []
        if not passes.streamed:
            self._held = [self._block(i, *self._load(i)) for i in range(self.num_blocks)]

    @property
    def count(self) -> int:
        """How many numbers are trained, once all blocks were in memory."""
        return sum(self._counts.values()) + self.outer.trained.count

    @torch.no_grad()
    def losses(self, input_ids: Tensor, batches: Sequence[Tensor], loss: Loss) -> list[float]:
        """Return the loss of each batch (rows of the sample, (batch,), int64)."""
        hidden = [self.outer.embed(input_ids[rows]) for rows in batches]
        for index, block in self.visits(range(self.num_blocks)):
            hidden = [self.through(index, block, states) for states in hidden]
        return [
            float(sum(self.outer.losses(input_ids[rows], states, rows, loss)))
            for rows, states in zip(batches, hidden, strict=True)
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

    def through(self, index: int, block: Block, hidden: Tensor) -> Tensor:
        """Return the hidden states after a block, (batch, length, width)."""
        batch, length, _ = hidden.shape
        call = self.outer.call(index, batch, length)

        def run(states: Tensor) -> Tensor:
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
        modules: Iterable[tuple[int, nn.Module]]
        if self._restored:
            modules = ((index, module) for index, (module, _, _) in self._loaded(blocks))
        else:
            modules = ((index, block.module) for index, block in self.visits(blocks))
        name, dtype = self._model.sharding.name, self._model.dtype
        for index, module in modules:
            state = module.state_dict()
            yield index, {name(index, key): value.to(dtype) for key, value in state.items()}

    def outer_tensors(self) -> dict[str, Tensor]:
        """Return the tensors outside the blocks as a checkpoint stores them; empty if none was
        trained.
        """
        return self.outer.tensors(self._restored)

    def _loaded(self, indices: Sequence[int]) -> Iterator[tuple[int, Loaded]]:
        return load_ahead(self.device, indices, self._load)

    def _load(self, index: int) -> Loaded:
        module, masks = self._job.load_block(index)
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
        masks = load_masks(self._job.masks, index, block.module)
        linears = block_linears(block.module)
        masked = ((linear, masks[name]) for name, linear in linears.items())
        round_(block.module.parameters(), masked, self._model.dtype)
