"""Hidden states of all sequences at one place of the model, in a safetensors file.

They are read and written a few sequences at a time. A memory mapping would do the same, but its
pages count as the process's own memory while the system has room for them, so that the memory a job
needs could be neither measured nor limited.
"""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

NAME = "hidden"
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def hidden_file(boundary: int) -> str:
    """Return the file name for a boundary: 0 is before the first block, i + 1 after block i."""
    return f"hidden-{boundary:03d}.safetensors"


class HiddenStates:
    """A tensor of (sequences, length, features) on disk, read and written by sequences.

    `states[rows]` gives a tensor in memory, for an index, a slice or a 1-d tensor of indices;
    `states[slice] = tensor` writes one.

    Attributes:
        shape: (sequences, length, features).
        dtype: float32, bfloat16 or float16.
    """

    def __init__(
        self, path: Path, shape: tuple[int, int, int], dtype: torch.dtype, start: int, mode: str
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._start, self._row_bytes = start, shape[1] * shape[2] * dtype.itemsize
        self._file = path.open(mode, buffering=0)

    def __del__(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        """Yield each sequence, (length, features)."""
        return (self[row] for row in range(len(self)))

    def __getitem__(self, rows: int | slice | Tensor) -> Tensor:
        """Return sequences, (rows, length, features), or one, (length, features)."""
        if isinstance(rows, int):
            return self[rows : rows + 1][0]
        if isinstance(rows, slice):
            first, stop, step = rows.indices(len(self))
            runs = (
                [(first, stop)]
                if step == 1
                else [(row, row + 1) for row in range(first, stop, step)]
            )
        else:
            runs = [(row, row + 1) for row in rows.tolist()]
        count = sum(stop - first for first, stop in runs)
        found = torch.empty((count, *self.shape[1:]), dtype=self.dtype)
        view = _bytes(found)
        for first, stop in runs:
            size = (stop - first) * self._row_bytes
            self._file.seek(self._start + first * self._row_bytes)
            _read(self._file, view[:size])
            view = view[size:]
        return found

    def __setitem__(self, rows: slice, states: Tensor) -> None:
        """Write sequences, (rows, length, features)."""
        first, stop, _ = rows.indices(len(self))
        if states.shape != (stop - first, *self.shape[1:]):
            raise ValueError(f"{tuple(states.shape)} does not fit {stop - first} of {self.shape}")
        view = _bytes(states.detach().to("cpu", self.dtype).contiguous())
        self._file.seek(self._start + first * self._row_bytes)
        while len(view):
            view = view[self._file.write(view) :]


def create_hidden(path: Path, shape: tuple[int, int, int], dtype: torch.dtype) -> HiddenStates:
    """Create a file and return its hidden states, to be filled.

    Args:
        path: The file; its content is lost.
        shape: (sequences, length, features).
        dtype: float32, bfloat16 or float16.

    Raises:
        OSError: The disk is full; the space is reserved at once.
    """
    size = math.prod(shape) * dtype.itemsize
    header = json.dumps(
        {NAME: {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [0, size]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    start = 8 + len(header)
    # Without truncation, a file of the right size keeps its place on disk and in the page cache.
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, start + size)
        file.truncate(start + size)
        file.write(len(header).to_bytes(8, "little") + header)
    return HiddenStates(path, shape, dtype, start, "r+b")


def open_hidden(path: Path) -> HiddenStates:
    """Return the hidden states of a file, to be read."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))[NAME]
    dtype = next(dtype for dtype, name in _DTYPES.items() if name == entry["dtype"])
    sequences, length, features = entry["shape"]
    return HiddenStates(path, (sequences, length, features), dtype, 8 + size, "rb")


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _read(file, view: memoryview) -> None:  # type: ignore[no-untyped-def]
    while len(view):
        count = file.readinto(view)
        if not count:
            raise EOFError(f"{file.name} ends early")
        view = view[count:]
