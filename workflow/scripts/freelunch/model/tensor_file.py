"""Tensors in a safetensors file that is read and written in place, a part at a time; among them the
hidden states of all sequences at one place of the model.

A memory mapping would do the same, but its pages count as the process's own memory while the system
has room for them, so that the memory a job needs could be neither measured nor limited.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = {
    **{torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"},
    **{torch.uint8: "U8", torch.bool: "BOOL"},
}
# Shape and dtype of a tensor.
Entry = tuple[tuple[int, ...], torch.dtype]


class TensorFile:
    """An open file of tensors, to be read ("rb") or written as well ("r+b"); threads may use
    different parts of it at once. `entries` has the shape and the dtype of each tensor, by its
    name.
    """

    def __init__(self, path: Path, mode: str = "rb") -> None:
        self._file = path.open(mode, buffering=0)
        size = int.from_bytes(self._file.read(8), "little")
        header = json.loads(self._file.read(size))
        header.pop("__metadata__", None)
        names = {name: dtype for dtype, name in _DTYPES.items()}
        self.entries: dict[str, Entry] = {
            name: (tuple(entry["shape"]), names[entry["dtype"]]) for name, entry in header.items()
        }
        self._starts: dict[str, int] = {
            name: 8 + size + entry["data_offsets"][0] for name, entry in header.items()
        }

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, "_file"):
            self._file.close()

    def read(self, name: str, first: int = 0, tensor: Tensor | None = None) -> Tensor:
        """Return a tensor of the file, or fill a contiguous one from it, whose elements begin at
        element `first` of that in the file.
        """
        shape, dtype = self.entries[name]
        filled = torch.empty(shape, dtype=dtype) if tensor is None else tensor
        view, place = _bytes(filled), self._place(name, first)
        while len(view):
            count = os.preadv(self._file.fileno(), [view], place)
            if not count:
                raise EOFError(f"{self._file.name} ends early")
            view, place = view[count:], place + count
        return filled

    def write(self, name: str, tensor: Tensor, first: int = 0) -> None:
        """Write a tensor, or a part that begins at element `first`, in the file's dtype."""
        view = _bytes(tensor.detach().to("cpu", self.entries[name][1]).contiguous())
        place = self._place(name, first)
        while len(view):
            count = os.pwrite(self._file.fileno(), view, place)
            view, place = view[count:], place + count

    def sync(self) -> None:
        """Have the system write the file to its disk, so that a power cut cannot undo it."""
        os.fsync(self._file.fileno())

    def _place(self, name: str, first: int) -> int:
        return self._starts[name] + first * self.entries[name][1].itemsize


def create_tensor_file(path: Path, entries: Mapping[str, Entry]) -> TensorFile:
    """Create a file and return it, open, with tensors of these shapes and dtypes that are to be
    written. OSError if the disk is full, since the space is reserved at once.
    """
    header, size = {}, 0
    for name, (shape, dtype) in entries.items():
        start, size = size, size + math.prod(shape) * dtype.itemsize
        described = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, size]}
        header[name] = described
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # Without truncation, a file of the right size keeps its place on disk and in the page cache.
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, 8 + len(text) + size)
        except OSError as error:
            # The call knows no name, and an error without one says nothing.
            raise OSError(error.errno, error.strerror, str(path)) from error
        file.truncate(8 + len(text) + size)
        file.write(len(text).to_bytes(8, "little") + text)
    return TensorFile(path, "r+b")


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


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
