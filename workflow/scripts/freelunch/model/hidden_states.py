"""The driver of every pass over blocks, and the hidden states of the calibration sample between the
blocks of the dense and the sparse model.

All sequences go through one block, then through the next: each weight is read once, however many
sequences there are. While a batch is computed, the next is read, and the results of the one before
are written.

The folder that a dense pass keeps is a cache. Any or all of it may be missing: hidden states are
then computed from the nearest boundary before them, or from the token ids.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from freelunch.core.artifact import MANIFEST, Artifact, check_belongs
from freelunch.core.progress import Report, silent
from freelunch.model.blocks import BlockCall, InputsSeen
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.tensor_file import HiddenStates, create_hidden, hidden_file, open_hidden
from freelunch.model.token_ids import read_tokens
from freelunch.model.transfer import read_batches, writing_behind
from freelunch.study.steps import BATCH_TOKENS, HIDDEN_STATES


def sequence_batches(sequences: int, length: int) -> list[slice]:
    """Return the slices of sequences of so many tokens that run together."""
    size = max(1, BATCH_TOKENS // length)
    starts = range(0, sequences, size)
    return [slice(start, min(start + size, sequences)) for start in starts]


class Passing(Protocol):
    """What is done while the blocks of a checkpoint pass by."""

    def through_(self, index: int, block: nn.Module) -> None:
        """Pass batches through a block of the checkpoint, on its device, or look at the block
        itself; each comes once, in order.
        """


@torch.no_grad()
def pass_through(model: StreamedModel, passing: Sequence[Passing], report: Report = silent) -> None:
    """Load each block of a checkpoint once, and hand it to all that is done, in their order."""
    for index, block in model.load_blocks(range(model.num_blocks)):
        for each in passing:
            each.through_(index, block)
        report(index + 1, model.num_blocks, "blocks")


class BlockPass:
    """Pass sequences of so many tokens through a model block by block."""

    def __init__(self, model: StreamedModel, sequences: int, length: int) -> None:
        self.model, self.sequences, self.length = model, sequences, length
        self._calls: dict[int, list[BlockCall]] = {}

    @property
    def batches(self) -> list[slice]:
        """The slices of sequences that run together."""
        return sequence_batches(self.sequences, self.length)

    def calls(self, batch: int) -> list[BlockCall]:
        """Return the model's calls of its blocks for a batch of this size."""
        if batch not in self._calls:
            self._calls[batch] = self.model.calls(batch, self.length)
        return self._calls[batch]

    @torch.no_grad()
    def embed_(self, input_ids: Tensor, hidden: HiddenStates | Tensor) -> None:
        """Write the hidden states before the first block, (sequences, length, d), to `hidden`."""
        with writing_behind(self.model.device) as write:
            for batch in self.batches:
                write(hidden, batch, self.model.embed(input_ids[batch])[0])

    @torch.no_grad()
    def through_(
        self,
        index: int,
        block: nn.Module,
        hidden: HiddenStates | Tensor,
        outputs: HiddenStates | Tensor | None,
    ) -> None:
        """Write the hidden states after a block on the model's device to `outputs`, which may be
        `hidden` itself, or None to watch the block only.
        """
        arriving = read_batches(self.model.device, self.batches, hidden)
        with writing_behind(self.model.device) as write:
            for batch, (inputs,) in zip(self.batches, arriving, strict=True):
                with suppress(InputsSeen):
                    states = self.calls(len(inputs))[index](block, inputs)
                    if outputs is not None:
                        write(outputs, batch, states)


KIND = HIDDEN_STATES


def kept_states(folder: Path, model: Artifact, calibration: Artifact) -> Artifact | None:
    """Return the hidden states that a dense pass kept; None if it kept none. UserError if they
    belong to another model or calibration sample, or are damaged.
    """
    if not (folder / MANIFEST).is_file():
        return None
    kept = Artifact(folder, KIND)
    check_belongs(kept, "model", model)
    check_belongs(kept, "calibration", calibration)
    return kept


def open_states(
    model: StreamedModel, calibration: Artifact, folder: Path | None, scratch: Path
) -> "DenseStates":
    """Return the dense hidden states of a calibration sample, of which a folder may keep some; none
    are kept for an extended sample. UserError as in `kept_states`.
    """
    extends = "calibration" in calibration.facts
    kept = None
    if folder is not None and not extends:
        kept = kept_states(folder, model.artifact, calibration)
    return DenseStates(model, calibration, kept, scratch)


class DenseStates:
    """Hidden states of the calibration sample, (sequences, length, d) at each boundary, between the
    blocks of the dense model, those that are kept on disk or computed again.

    The scratch folder holds two boundaries computed again, and the states that the caller makes.
    `blocks` passes the sequences through the model's blocks; `passed` is how many blocks were
    passed to compute hidden states that were not on disk.
    """

    def __init__(
        self, model: StreamedModel, calibration: Artifact, kept: Artifact | None, scratch: Path
    ) -> None:
        self._model, self._kept, self.scratch = model, kept, scratch
        self.input_ids = read_tokens(calibration)
        self.calibration = calibration
        self.sequences, self.length = self.input_ids.shape
        self.blocks = BlockPass(model, self.sequences, self.length)
        self._paths: dict[int, Path] = {}
        self._made: list[int] = []
        self.passed = 0
        for boundary in range(model.num_blocks + 1):
            if kept is not None and (name := hidden_file(boundary)) in kept.files:
                self.note(boundary, kept.folder / name)

    def __contains__(self, boundary: int) -> bool:
        return boundary in self._paths

    def create(self, path: Path) -> HiddenStates:
        """Return the hidden states of one boundary, (sequences, length, d), to be filled."""
        shape = (self.sequences, self.length, self._model.config.hidden_size)
        return create_hidden(path, shape, self._model.dtype)

    def note(self, boundary: int, path: Path) -> None:
        """Note where hidden states are on disk."""
        self._paths[boundary] = path

    def make(self, boundary: int, work: Callable[[Path], None]) -> None:
        """Have `work` write hidden states into the scratch folder, which keeps two boundaries."""
        path = self.scratch / hidden_file(boundary)
        work(path)
        self.note(boundary, path)
        self._made.append(boundary)
        for old in self._made[:-2]:
            self._paths.pop(old).unlink()
        self._made = self._made[-2:]

    def at(self, boundary: int) -> HiddenStates:
        """Return the hidden states before block `boundary`, (sequences, length, d), from disk or
        computed.
        """
        if boundary not in self._paths:
            self.make(boundary, lambda path: self.write(boundary, path))
        return self._open(boundary)

    def _open(self, boundary: int) -> HiddenStates:
        path = self._paths[boundary]
        if self._kept is not None and path.parent == self._kept.folder:
            self._kept.path(path.name)
        return open_hidden(path)

    def write(self, boundary: int, path: Path) -> None:
        """Compute the hidden states before block `boundary` from the nearest ones before them."""
        made = self.create(path)
        start = max((at for at in self._paths if at < boundary), default=None)
        if start is None:
            self.blocks.embed_(self.input_ids, made)
        states = made if start is None else self._open(start)
        for index, block in self._model.load_blocks(range(start or 0, boundary)):
            self.blocks.through_(index, block, states, made)
            states = made
            self.passed += 1


class SparseStates:
    """Hidden states of the calibration sample in a sparse model that is made block by block:
    `hidden` are those before the next block, (sequences, length, d). Before the first, both models
    have the same.
    """

    def __init__(self, dense: DenseStates) -> None:
        self.blocks = dense.blocks
        self.hidden = dense.at(0)
        self._outputs = dense.create(dense.scratch / "sparse.safetensors")

    def on(self, index: int, block: nn.Module) -> None:
        """Replace `hidden` by a block's outputs, the inputs of the next block."""
        self.blocks.through_(index, block, self.hidden, self._outputs)
        self.hidden = self._outputs
