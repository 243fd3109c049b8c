"""What the headers of a model's weights say, without reading a tensor."""

import json
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from freelunch.core.errors import UserError

# What the names of embeddings end with, and where names have the number of their block.
_EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "embed_in.weight")
_BLOCK = re.compile(r"\.(\d+)\.[^:]*$")
# A file with a longer header is damaged.
_HEADER_BYTES = 100_000_000


def check_weights(folder: Path, files: Iterable[str], config: Mapping[str, Any]) -> None:
    """Refuse weights that are not complete, or plainly do not belong to the config.

    Fetching compares every shape.

    Args:
        folder: The model's folder.
        files: The names of its safetensors files.
        config: The decoder's config.

    Raises:
        UserError: A file is not complete, the embedding has other rows than the vocabulary, or
            blocks are missing.
    """
    shapes = {
        f"{folder / file}: {tensor}": shape
        for file in files
        for tensor, shape in _shapes_in(folder / file).items()
    }
    rows, blocks = config.get("vocab_size"), config.get("num_hidden_layers")
    for tensor, shape in shapes.items():
        if tensor.endswith(_EMBEDDINGS) and isinstance(rows, int) and shape[:1] != [rows]:
            raise UserError(
                "the embedding does not have a row for each token of the config's vocabulary",
                where=tensor,
                found=" x ".join(map(str, shape)),
                expected=f"vocab_size = {rows:,} rows",
                todo="use the config.json that belongs to the weights",
            )
    there = {int(found[1]) for tensor in shapes if (found := _BLOCK.search(tensor))}
    missing = sorted(set(range(blocks if isinstance(blocks, int) else 0)) - there)
    if missing:
        raise UserError(
            "the weights lack blocks of the model",
            where=folder,
            found=f"no block {', '.join(map(str, missing[:5]))} ({len(missing)} in all)",
            expected=f"num_hidden_layers = {blocks} blocks",
            todo="complete the download of the model, or use the config.json that belongs to it",
        )


def _shapes_in(file: Path) -> dict[str, list[int]]:
    """Return the shape of each tensor in a safetensors file, by its name there.

    Raises:
        UserError: The file is shorter or longer than its header says.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header: Any = json.loads(opened.read(length)) if length <= _HEADER_BYTES else None
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        ends = [entry["data_offsets"][1] for entry in tensors.values()]
        shapes = {name: list(entry["shape"]) for name, entry in tensors.items()}
        announced = 8 + length + max(ends, default=0)
    except (struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(
            "not a complete safetensors file",
            where=file,
            found=f"{size:,} bytes that do not begin with a header",
            todo="complete the download of the model (a file of about 130 bytes is a pointer of Git"
            " LFS: run `git lfs pull`)",
        ) from error
    if announced != size:
        raise UserError(
            "not a complete safetensors file",
            where=file,
            found=f"{size:,} bytes",
            expected=f"{announced:,} bytes, as its header says",
            todo="complete the download of the model",
        )
    return shapes
