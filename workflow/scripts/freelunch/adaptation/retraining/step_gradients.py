"""The gradients of a step of retraining: of a model in memory, or streamed block by block.

Streamed, a step passes all its micro-batches forward through one block after another and keeps the
hidden states between blocks on disk. The backward pass runs each block again, from the last to the
first. Weights are read twice a step, however large the batch. Both ways compute the same numbers in
the same order, so that in float32 on a CPU their results are bit-equal.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from freelunch.adaptation.retraining.trainee import Loss, Trainee
from freelunch.model.tensor_file import HiddenStates, create_hidden
from freelunch.model.transfer import read_batches, writing_behind


@dataclass(frozen=True)
class Step:
    """A step: the sample, (sequences, length), int64; the sequences of the step, (batch,), int64;
    how many of them pass together; and the loss of such a micro-batch.
    """

    input_ids: Tensor
    rows: Tensor
    micro_batch: int
    loss: Loss

    @property
    def parts(self) -> Sequence[slice]:
        """Return the micro-batches, as slices of `rows`."""
        starts = range(0, len(self.rows), self.micro_batch)
        return [slice(start, min(start + self.micro_batch, len(self.rows))) for start in starts]

    def tokens(self, part: slice) -> Tensor:
        """Return the token ids of a micro-batch, (sequences, length)."""
        return self.input_ids[self.rows[part]]

    def share(self, part: slice) -> float:
        """Return the share of the step's sequences that are in a micro-batch."""
        return len(self.rows[part]) / len(self.rows)


def gather_(trainee: Trainee, step: Step, scratch: Path) -> float:
    """Gather the gradients of a step, and return its loss: the mean over its sequences. Hidden
    states between streamed blocks are in `scratch`.
    """
    loss = _streamed_(trainee, step, scratch) if trainee.is_streamed else _in_memory_(trainee, step)
    trainee.gathered(trainee.outer.part, trainee.outer.trained)
    return loss


def _in_memory_(trainee: Trainee, step: Step) -> float:
    total, entered = 0.0, []
    blocks = range(trainee.num_blocks)
    for part in step.parts:
        entering = trainee.outer.embed(step.tokens(part))
        leaf = entering.detach().requires_grad_(entering.requires_grad)
        hidden = leaf
        for index, block in trainee.visits(blocks):
            hidden = trainee.through(index, block, hidden)
        total += _end_(trainee, step, part, hidden)
        if entering.requires_grad:
            entered.append((entering, leaf))
    # As when streamed, embeddings get their gradients after all else: order decides rounding.
    for entering, leaf in entered:
        torch.autograd.backward(entering, leaf.grad)
    for index, block in trainee.visits(blocks):
        trainee.gathered(index, block.trained)
    return total


def _streamed_(trainee: Trainee, step: Step, scratch: Path) -> float:
    blocks, device = trainee.num_blocks, trainee.device
    between = [
        _Between(scratch / f"between-{at:03d}.safetensors", len(step.rows))
        for at in range(blocks + 1)
    ]
    gradient = _Between(scratch / "gradient.safetensors", len(step.rows))

    def read(*files: _Between) -> Iterator[tuple[slice, list[Tensor]]]:
        arriving = read_batches(device, step.parts, *(file.states for file in files))
        return zip(step.parts, arriving, strict=True)

    with torch.no_grad():
        with writing_behind(device) as write:
            for part in step.parts:
                write(between[0], part, trainee.outer.embed(step.tokens(part)))
        for index, block in trainee.visits(range(blocks)):
            with writing_behind(device) as write:
                for part, (hidden,) in read(between[index]):
                    after = trainee.through(index, block, hidden)
                    write(between[index + 1], part, after)
    total = 0.0
    with writing_behind(device) as write:
        for part, (hidden,) in read(between[blocks]):
            leaf = hidden.requires_grad_(True)
            total += _end_(trainee, step, part, leaf)
            write(gradient, part, _gradient(leaf))
    for index, block in trainee.visits(range(blocks - 1, -1, -1)):
        needed = index > 0 or trainee.outer.trains_embedding
        with writing_behind(device) as write:
            for part, (hidden, given) in read(between[index], gradient):
                leaf = hidden.requires_grad_(needed)
                # Under no name: what a block returns holds on to its trained parameters.
                torch.autograd.backward(trainee.through(index, block, leaf), given)
                if needed:
                    write(gradient, part, _gradient(leaf))
        trainee.gathered(index, block.trained)
    if trainee.outer.trains_embedding:
        for part, (given,) in read(gradient):
            entering = trainee.outer.embed(step.tokens(part))
            torch.autograd.backward(entering, given)
    return total


def _end_(trainee: Trainee, step: Step, part: slice, hidden: Tensor) -> float:
    """Return a micro-batch's share of the loss, and pass its gradient back to `hidden`."""
    total, rows, leaf = 0.0, step.rows[part], hidden.detach().requires_grad_()
    for value in trainee.outer.losses(step.tokens(part), leaf, rows, step.loss):
        value *= step.share(part)
        torch.autograd.backward(value)
        total += float(value.detach())
    if hidden.requires_grad:
        torch.autograd.backward(hidden, leaf.grad)
    return total


class _Between:
    """Hidden states of a step's sequences at one boundary, or their gradients, on disk."""

    def __init__(self, path: Path, sequences: int) -> None:
        self._path, self._sequences = path, sequences
        self._states: HiddenStates | None = None

    @property
    def states(self) -> HiddenStates:
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
