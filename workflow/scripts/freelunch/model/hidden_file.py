"""Hidden states of all sequences at one place of the model, in a safetensors file."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from freelunch.model.tensor_file import TensorFile, create_tensor_file

NAME = "hidden"


def hidden_file(boundary: int) -> str:
    """Return the file name for a boundary: 0 is before the first block, i + 1 after block i."""
    return f"hidden-{boundary:03d}.safetensors"


class HiddenStates:
    """A tensor of (sequences, length, features) on disk, read and written by sequences.

    `states[rows]` gives a tensor in memory, for an index, a slice or a 1-d tensor of indices;
    `states[slice] = tensor` writes one.
    """

    def __init__(self, file: TensorFile) -> None:
        self._file = file
        (sequences, length, features), self.dtype = file.entries[NAME]
        self.shape = sequences, length, features

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        """Yield each sequence, (length, features)."""
        return (self[row] for row in range(len(self)))

    def __getitem__(self, rows: int | slice | Tensor) -> Tensor:
        """Return sequences, (rows, length, features), or one, (length, features)."""
        if isinstance(rows, int):
            return self[rows : rows + 1][0]
        return self.read(rows)

    def read(self, rows: slice | Tensor, pinned: bool = False) -> Tensor:
        """Return sequences, (rows, length, features); in pinned memory, from which a GPU copies
        while it computes, if asked.
        """
        if isinstance(rows, slice):
            first, stop, step = rows.indices(len(self))
            each = range(first, stop, step)
            runs = [(first, stop)] if step == 1 else [(row, row + 1) for row in each]
        else:
            runs = [(row, row + 1) for row in rows.tolist()]
        count = sum(stop - first for first, stop in runs)
        states = torch.empty((count, *self.shape[1:]), dtype=self.dtype, pin_memory=pinned)
        row = 0
        for first, stop in runs:
            part = states[row : row + stop - first]
            self._file.read(NAME, first * math.prod(self.shape[1:]), part)
            row += stop - first
        return states

    def __setitem__(self, rows: slice, states: Tensor) -> None:
        """Write sequences, (rows, length, features)."""
        first, stop, _ = rows.indices(len(self))
        if states.shape != (stop - first, *self.shape[1:]):
            raise ValueError(f"{tuple(states.shape)} does not fit {stop - first} of {self.shape}")
        self._file.write(NAME, states, first * math.prod(self.shape[1:]))


def create_hidden(path: Path, shape: tuple[int, int, int], dtype: torch.dtype) -> HiddenStates:
    """Create a file and return its hidden states, (sequences, length, features), to be filled;
    OSError if the disk is full, since the space is reserved at once.
    """
    return HiddenStates(create_tensor_file(path, {NAME: (shape, dtype)}))


def open_hidden(path: Path) -> HiddenStates:
    """Return the hidden states of a file, to be read."""
    return HiddenStates(TensorFile(path))
