"""Hidden states of all sequences at one block boundary, in a memory-mapped safetensors file."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

NAME = "hidden"
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def hidden_file(boundary: int) -> str:
    """Return the file name for a boundary: 0 is before the first block, i + 1 after block i."""
    return f"hidden-{boundary:03d}.safetensors"


def create_hidden(path: Path, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """Create a file and return its tensor, to be filled; it lives on disk, not in memory.

    Args:
        path: The file; overwritten.
        shape: (sequences, length, d).
        dtype: float32, bfloat16 or float16.

    Raises:
        OSError: The disk has no room. The space is reserved at once, since a write to a mapped page
            that finds no room would kill the process.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    header = json.dumps(
        {NAME: {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [0, size]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    start = 8 + len(header)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, start + size)
        file.write(len(header).to_bytes(8, "little") + header)
    mapped = np.memmap(path, dtype=np.uint8, mode="r+", offset=start, shape=(size,))
    return torch.from_numpy(mapped).view(dtype).reshape(shape)


def open_hidden(path: Path) -> Tensor:
    """Return the tensor of a file, (sequences, length, d); pages are read when they are used."""
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(NAME)
    return tensor
