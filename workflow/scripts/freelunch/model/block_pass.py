"""The driver of every pass over blocks: all sequences go through one block, then through the next.

Each weight is read once, however many sequences there are. While a batch is computed, the next is
read, and the results of the one before are written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.files import scratch_folder
from freelunch.core.job import Job
from freelunch.core.progress import Report, silent
from freelunch.model.blocks import BlockCall
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_file import HiddenStates
from freelunch.model.transfer import read_batches, writing_behind
from freelunch.study.steps import BATCH_TOKENS


def sequence_batches(sequences: int, length: int) -> list[slice]:
    """Return the slices of sequences of so many tokens that run together."""
    size = max(1, BATCH_TOKENS // length)
    starts = range(0, sequences, size)
    return [slice(start, min(start + size, sequences)) for start in starts]


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
                states = self.calls(len(inputs))[index](block, inputs)
                if outputs is not None:
                    write(outputs, batch, states)


@dataclass(frozen=True)
class DensePass:
    """A pass of a sample's token ids through the dense model. Results go to `folder`, and the
    hidden states that are kept (`all`, `every_k` or `none`) to `hidden_folder`, others to
    `scratch`. The fingerprint is the digest of everything the results depend on; `report` is called
    after each block.
    """

    model: StreamedModel
    sample: Artifact
    keep: str
    folder: Path
    hidden_folder: Path
    fingerprint: str
    scratch: Path
    report: Report = silent


@contextmanager
def open_dense_pass(
    job: Job,
    *,
    model: Path,
    sample: Artifact,
    keep: str,
    folder: Path,
    hidden_folder: Path,
    settings: object,
    code: str,
) -> Iterator[DensePass]:
    """Open a dense pass of a running job through the model in a folder; the results depend on the
    settings and on the digest of the code, too. The other arguments are those of `DensePass`.
    """
    dense = StreamedModel(model, job.device)
    digest = fingerprint(code, settings, dense.artifact, sample)
    with scratch_folder(hidden_folder.with_name(f".{hidden_folder.name}.scratch")) as scratch:
        yield DensePass(dense, sample, keep, folder, hidden_folder, digest, scratch, job.report)
