"""The header of a GGUF file: its keys, and the shapes of its tensors; no tensor is read.

The gguf package makes several arrays for each token of a vocabulary, which takes ten seconds for
the 262,144 tokens of Gemma 3 (0.2 s here), and transformers' own reader imports torch. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
# Codes of `struct` by GGUF's numbers of types, and the two types of any length.
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32
# Keys of a transformers config by those of a header, which begin with the family.
_SIZES = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings",
}
# Their heads always share the embedding's weights, as transformers converts them.
_TIED = ("bloom", "falcon")


class StoredTensor(NamedTuple):
    """A tensor of a file: its shape, the last dimension first, as the file has it; the number of
    its type; and where it begins in the file.
    """

    shape: tuple[int, ...]
    kind: int
    start: int


class GgufHeader(NamedTuple):
    """The keys of a file, where an array of texts, such as a vocabulary, is only counted; and its
    tensors by their names.
    """

    keys: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @property
    def family(self) -> str:
        """Return llama.cpp's name of the architecture. It names Mistral `llama`, too: their blocks
        are alike.
        """
        return str(self.keys["general.architecture"])

    @property
    def config(self) -> dict[str, Any]:
        """Return what is said of a model's shapes and kind, under the keys of a transformers
        config. A size that the header lacks, or states for each block, is left out.
        """
        stated = {ours: self.keys.get(f"{self.family}.{key}") for key, ours in _SIZES.items()}
        config: dict[str, Any] = {key: at for key, at in stated.items() if isinstance(at, int)}
        # Of Mixtral, llama.cpp writes `llama` as the architecture: the experts tell them apart.
        experts = [each for key, each in self.keys.items() if key.endswith(".expert_count")]
        config["num_experts"] = max(experts, default=0)
        config["model_type"] = self.family.replace("-", "_")
        if self.family == "gemma3":
            config["model_type"] = "gemma3_text"
        if "token_embd.weight" in self.tensors:
            config["vocab_size"] = self.tensors["token_embd.weight"].shape[-1]
        is_tied = "output.weight" not in self.tensors or self.family in _TIED
        return {**config, "tie_word_embeddings": is_tied}


def read_header(file: Path) -> GgufHeader:
    """Return the header of a GGUF file; ValueError or OSError if it is none, or cut off."""
    found = file.stat()
    return _read(file.absolute(), found.st_size, found.st_mtime_ns)


@cache
def _read(file: Path, size: int, changed: int) -> GgufHeader:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Reader(data).header()
        except (struct.error, KeyError, OverflowError, MemoryError) as error:
            raise ValueError(f"{file} is no whole GGUF file: {error}") from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def header(self) -> GgufHeader:
        magic, version, tensors, keys = self._take("4sIQQ")
        if magic != _MAGIC or version not in _VERSIONS:
            raise ValueError(f"found {magic!r}, version {version}")
        named = {}
        for _ in range(keys):
            key = self._text()
            named[key] = self._value(*self._take("I"))
        stored = {}
        for _ in range(tensors):
            name, (dimensions,) = self._text(), self._take("I")
            shape = self._take(f"{dimensions}Q")
            stored[name] = StoredTensor(shape, *self._take("IQ"))
        alignment = named.get("general.alignment", _ALIGNMENT)
        start = -(-self._at // alignment) * alignment
        placed = {name: at._replace(start=start + at.start) for name, at in stored.items()}
        return GgufHeader(named, placed)

    def _take(self, codes: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{codes}", self._data, self._at)
        self._at += struct.calcsize(f"<{codes}")
        return values

    def _text(self) -> str:
        (length,) = self._take("Q")
        text: bytes = self._take(f"{length}s")[0]
        return text.decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._take(_CODES[kind])[0]
        kind, count = self._take("IQ")
        if kind != _STRING:
            return self._take(f"{count}{_CODES[kind]}")
        at, unpack = self._at, struct.Struct("<Q").unpack_from
        for _ in range(count):
            at += 8 + unpack(self._data, at)[0]
        self._at = at
        return count
