"""The driver of every pass over blocks: all sequences go through one block, then through the next.

Each weight is read once, however many sequences there are. While a batch is computed, the next is
read, and the results of the one before are written.
"""

import torch
from torch import Tensor, nn

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
