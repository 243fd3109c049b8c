"""A pruned model in training: in memory as a whole, or streamed through memory block by block.

Streamed, a step passes all its micro-batches forward through one block after another and keeps the
hidden states between blocks on disk. The backward pass runs each block again, from the last to the
first. Weights are therefore read twice a step, however large the batch. Both ways compute the same
numbers in the same order, so that in float32 on a CPU their results are bit-equal.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from freelunch.adaptation.retraining.state import TrainedState
from freelunch.adaptation.training.parameters import (
    Masked,
    TrainedParameters,
    nothing_trained,
    other_parameters,
)
from freelunch.core.artifact import Artifact
from freelunch.core.errors import UserError
from freelunch.model.blocks import BlockCall, block_linears
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_file import HiddenStates, create_hidden
from freelunch.model.mask_store import load_masks, load_pruned_block, round_
from freelunch.model.transfer import load_ahead, read_batches, writing_behind
from freelunch.study.cell import derive_seed
from freelunch.study.methods import FULL, HEAD, Trained

# The loss of some sequences, 0-d, from their logits and their rows in the sample.
Loss = Callable[[Tensor, Tensor], Tensor]
# A pruned block, its masks, and its trained parameters, if it has some already.
Loaded = tuple[nn.Module, dict[str, Tensor], Sequence[Tensor] | None]


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


@dataclass
class Block:
    """A block in memory.

    Attributes:
        module: The block.
        trained: What is trained in it.
    """

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
        scratch: Folder for hidden states between blocks.

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
        scratch: Path,
    ) -> None:
        self._model, self._masks, self._trained = model, masks, trained
        self._passes, self._seed, self._state = passes, seed, state
        self._scratch = scratch
        self._merged = self._restored = False
        # What is trained in each part: the blocks, and after them what is outside of the blocks.
        self._counts: dict[int, int] = {}
        self._calls: dict[tuple[int, int], list[BlockCall]] = {}
        self._outer = model.outer.copy()
        self._outer_trained = self._train_outer_()
        self._embedding_trained = self._embed(torch.zeros((1, 1), dtype=torch.int64)).requires_grad
        self._held: list[Block] = []
        if not passes.streamed:
            self._held = [self._block(i, *self._load(i)) for i in range(model.num_blocks)]

    @property
    def count(self) -> int:
        """How many numbers are trained, once all blocks were in memory."""
        return sum(self._counts.values())

    @torch.no_grad()
    def losses(self, input_ids: Tensor, batches: Sequence[Tensor], loss: Loss) -> list[float]:
        """Return the loss of each of some batches, without gradients and without dropout.

        Args:
            input_ids: The sample, (sequences, length), int64.
            batches: The sequences of each batch, (batch,), int64.
            loss: The loss of a batch.
        """
        hidden = [self._embed(input_ids[rows]) for rows in batches]
        for index, block in self._visits(range(self._model.num_blocks)):
            hidden = [self._through(index, block, states) for states in hidden]
        pairs = zip(batches, hidden, strict=True)
        return [float(loss(self._logits(input_ids[it], states), it)) for it, states in pairs]

    def gather_(
        self, input_ids: Tensor, rows: Tensor, micro_batch: int, loss: Loss, step: int
    ) -> float:
        """Gather the gradients of a step, and return its loss: the mean over its sequences.

        Args:
            input_ids: The sample, (sequences, length), int64.
            rows: The sequences of the step, (batch,), int64.
            micro_batch: Number of sequences that pass together.
            loss: The loss of a micro-batch.
            step: Number of the step, for dropout.
        """
        starts = range(0, len(rows), micro_batch)
        parts = [slice(start, min(start + micro_batch, len(rows))) for start in starts]
        work = _Step(input_ids, rows, parts, loss, step)
        gather = self._gather_streamed_ if self._passes.streamed else self._gather_in_memory_
        found = gather(work)
        self._gathered(self._model.num_blocks, self._outer_trained)
        return found

    def merge_(self) -> None:
        """Leave the trained weights in the model, rounded to the checkpoint's precision."""
        self._merged = True
        self._outer_trained.merge_()
        with torch.no_grad():
            for parameter in self._trained_outer.values():
                parameter.copy_(parameter.to(self._model.dtype))
        for index, block in enumerate(self._held):
            self._merge_(index, block)

    def restore_(self) -> None:
        """Have the tensors below be those that pruning left."""
        self._restored = True

    def block_tensors(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Yield the number and the tensors of each block as a checkpoint stores them."""
        blocks = range(self._model.num_blocks)
        modules: Iterable[tuple[int, nn.Module]] = (
            ((index, module) for index, (module, _, _) in self._loaded(blocks))
            if self._restored
            else ((index, block.module) for index, block in self._visits(blocks))
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
        if not self._trained_outer:
            return {}
        dense = self._model.outer_tensors()
        if self._restored:
            return dense
        return dense | {
            self._stored_name(name): value.detach().to(self._model.dtype)
            for name, value in self._trained_outer.items()
        }

    # --- Gradients of a step

    def _gather_in_memory_(self, work: "_Step") -> float:
        total, entered = 0.0, []
        for part in work.parts:
            entering = self._embed(work.tokens(part))
            leaf = entering.detach().requires_grad_(entering.requires_grad)
            hidden = leaf
            for index, block in enumerate(self._held):
                hidden = self._through(index, block, hidden, work.place(part))
            total += self._end_(work, part, hidden)
            if entering.requires_grad:
                entered.append((entering, leaf))
        # As when streamed, embeddings get their gradients after all else: order decides rounding.
        for entering, leaf in entered:
            entering.backward(leaf.grad)  # type: ignore[no-untyped-call]
        for index, block in enumerate(self._held):
            self._gathered(index, block.trained)
        return total

    def _gather_streamed_(self, work: "_Step") -> float:
        blocks, device = self._model.num_blocks, self._model.device
        between = [
            _Between(self._scratch / f"between-{at:03d}.safetensors", len(work.rows))
            for at in range(blocks + 1)
        ]
        gradient = _Between(self._scratch / "gradient.safetensors", len(work.rows))

        def read(*files: _Between) -> Iterator[tuple[slice, list[Tensor]]]:
            arriving = read_batches(device, work.parts, *(file.states for file in files))
            return zip(work.parts, arriving, strict=True)

        with torch.no_grad():
            with writing_behind(device) as write:
                for part in work.parts:
                    write(between[0], part, self._embed(work.tokens(part)))
            for index, block in self._visits(range(blocks)):
                with writing_behind(device) as write:
                    for part, (hidden,) in read(between[index]):
                        after = self._through(index, block, hidden, work.place(part))
                        write(between[index + 1], part, after)
        total = 0.0
        with writing_behind(device) as write:
            for part, (hidden,) in read(between[blocks]):
                leaf = hidden.requires_grad_(True)
                total += self._end_(work, part, leaf)
                write(gradient, part, _gradient(leaf))
        for index, block in self._visits(range(blocks - 1, -1, -1)):
            needed = index > 0 or self._embedding_trained
            with writing_behind(device) as write:
                for part, (hidden, given) in read(between[index], gradient):
                    leaf = hidden.requires_grad_(needed)
                    # Under no name: what a block returns holds on to its trained parameters.
                    self._through(index, block, leaf, work.place(part)).backward(given)  # type: ignore[no-untyped-call]
                    if needed:
                        write(gradient, part, _gradient(leaf))
            self._gathered(index, block.trained)
        if self._embedding_trained:
            for part, (given,) in read(gradient):
                entering = self._embed(work.tokens(part))
                entering.backward(given)  # type: ignore[no-untyped-call]
        return total

    def _end_(self, work: "_Step", part: slice, hidden: Tensor) -> float:
        """Return a micro-batch's share of the loss, and pass its gradient back to `hidden`."""
        logits = self._logits(work.tokens(part), hidden, work.place(part))
        value = work.loss(logits, work.rows[part]) * work.share(part)
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    def _gathered(self, part: int, trained: TrainedParameters) -> None:
        trained.mask_gradients_()
        self._state.gathered(part, trained.parameters)

    # --- Passes

    def _embed(self, input_ids: Tensor) -> Tensor:
        with self._autocast():
            return self._outer.embed(input_ids)[0]

    def _through(
        self, index: int, block: Block, hidden: Tensor, place: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the hidden states after a block; `place` is the step and micro-batch of a pass
        that trains.
        """
        batch, length, _ = hidden.shape
        if (batch, length) not in self._calls:
            with self._autocast():
                self._calls[batch, length] = self._outer.calls(batch, length)
        call = self._calls[batch, length][index]

        def run(states: Tensor) -> Tensor:
            self._drop_(block.trained, index, place)
            with self._autocast():
                return call(block.module, states)

        if self._passes.recompute and torch.is_grad_enabled() and not self._passes.streamed:
            recomputed: Tensor = checkpoint(
                run, hidden, use_reentrant=False, preserve_rng_state=False
            )
            return recomputed
        return run(hidden)

    def _logits(
        self, input_ids: Tensor, hidden: Tensor, place: tuple[int, int] | None = None
    ) -> Tensor:
        self._drop_(self._outer_trained, self._model.num_blocks, place)
        with self._autocast():
            return self._outer.logits(input_ids, hidden)

    def _drop_(self, trained: TrainedParameters, part: int, place: tuple[int, int] | None) -> None:
        """Turn dropout on in a pass that trains, with numbers that depend on its place alone."""
        if self._trained.dropout:
            trained.drop_(place is not None)
            if place is not None:
                torch.manual_seed(derive_seed(self._seed, "dropout", *place, part))

    def _autocast(self) -> AbstractContextManager[object]:
        if self._passes.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self._model.device.type, self._passes.precision)

    # --- Blocks and what is outside of them

    def _visits(self, indices: Sequence[int]) -> Iterator[tuple[int, Block]]:
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

    def _loaded(self, indices: Sequence[int]) -> Iterator[tuple[int, Loaded]]:
        return load_ahead(self._model.device, indices, self._load)

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
        self._widen_(module)
        layers = [
            (self._model.sharding.name(index, name), linear, masks[name])
            for name, linear in block_linears(module).items()
        ]
        trained = self._trained_of(index, layers, [module], self._trained, given)
        if not (trained.parameters or self._outer_trained.parameters):
            raise nothing_trained(name for name, _, _ in layers)
        block = Block(module, trained)
        if self._merged:
            self._merge_(index, block)
        return block

    def _trained_of(
        self,
        part: int,
        layers: Sequence[Masked],
        modules: Sequence[nn.Module],
        trained: Trained,
        given: Sequence[Tensor] | None,
    ) -> TrainedParameters:
        others = other_parameters(modules, trained)
        found = TrainedParameters(layers, others, trained, self._seed, given)
        if given is None and found.parameters:
            self._state.add(part, found.parameters)
        if part not in self._counts:
            self._counts[part] = found.count
        return found

    def _train_outer_(self) -> TrainedParameters:
        """Mark what is trained outside of the blocks, and note it by name."""
        outer, trained = self._outer, self._trained
        outer.module.requires_grad_(False)
        if trained.head:
            # The dense model's own must not move along.
            outer.head.weight.data = outer.head.weight.data.clone()
        self._widen_(outer.module)
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
            keep = torch.ones_like(head.weight, dtype=torch.bool)
            layers = [(HEAD, head, keep)]
        # Of linear layers outside of the blocks, only the head may be trained.
        modules = {
            name: module
            for name, module in outer.module.named_modules()
            if any(True for _ in module.parameters(recurse=False))
            and not isinstance(module, nn.Linear)
        }
        part, head_alone = self._model.num_blocks, replace(trained, linears=None)
        given = self._state.parameters(part) if part in self._state else None
        found = self._trained_of(part, layers, list(modules.values()), head_alone, given)
        if trained.head and tied:
            # A saved weight takes the head's place, and has to stay the embedding's.
            outer.embedding.weight = outer.head.weight
        names = {id(module): name for name, module in modules.items()}
        self._trained_outer: dict[str, Tensor] = {
            f"{names[id(module)]}.{name}": getattr(module, name)
            for module, name in other_parameters(modules.values(), trained)
        }
        if trained.head:
            self._trained_outer[HEAD] = outer.head.weight
        return found

    def _stored_name(self, name: str) -> str:
        """Return the name of an outer parameter in a checkpoint."""
        if name != HEAD:
            return name
        wanted = self._outer.head.weight
        # A tied head is stored as the embedding.
        return next(
            stored
            for stored, parameter in self._outer.module.named_parameters()
            if parameter is wanted
        )

    def _widen_(self, root: nn.Module) -> None:
        """Widen norms and biases, in which passes need float32, and in passes in float32 everything
        but the matrices of blocks, which are widened when they are used.
        """
        everything = self._passes.precision == torch.float32
        for module in root.modules():
            is_matrix = isinstance(module, nn.Linear) and root is not self._outer.module
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                # In some families, the weight of a norm must not be narrower than its input.
                narrow = isinstance(tensor, nn.Parameter) and tensor.dim() == 1
                if tensor.is_floating_point() and (narrow or (everything and not is_matrix)):
                    # Norms and biases may be trained in place, and the outer part shares its values
                    # with the dense model: they are copied even if they are float32.
                    tensor.data = tensor.data.to(torch.float32, copy=narrow)

    def _merge_(self, index: int, block: Block) -> None:
        block.trained.merge_()
        masks = load_masks(self._masks.folder, index, block.module)
        linears = block_linears(block.module)
        masked = ((linear, masks[name]) for name, linear in linears.items())
        round_(block.module.parameters(), masked, self._model.dtype)


@dataclass(frozen=True)
class _Step:
    """A step: its sequences, and how they are passed.

    Attributes:
        input_ids: The sample, (sequences, length), int64.
        rows: The sequences of the step, (batch,), int64.
        parts: The micro-batches, as slices of `rows`.
        loss: The loss of a micro-batch.
        number: Number of the step.
    """

    input_ids: Tensor
    rows: Tensor
    parts: Sequence[slice]
    loss: Loss
    number: int

    def tokens(self, part: slice) -> Tensor:
        """Return the token ids of a micro-batch, (sequences, length)."""
        return self.input_ids[self.rows[part]]

    def share(self, part: slice) -> float:
        """Return the share of the step's sequences that are in a micro-batch."""
        return len(self.rows[part]) / len(self.rows)

    def place(self, part: slice) -> tuple[int, int]:
        """Return the place of a micro-batch in the training."""
        return self.number, part.start


class _Between:
    """Hidden states of a step's sequences at one boundary, or their gradients, on disk."""

    def __init__(self, path: Path, sequences: int) -> None:
        self._path, self._sequences = path, sequences
        self._states: HiddenStates | None = None

    @property
    def states(self) -> HiddenStates:
        """The hidden states, once some were written."""
        assert self._states is not None
        return self._states

    def __setitem__(self, part: slice, states: Tensor) -> None:
        if self._states is None:
            _, length, width = states.shape
            shape = self._sequences, length, width
            self._states = create_hidden(self._path, shape, states.dtype)
        self._states[part] = states


def _gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad
