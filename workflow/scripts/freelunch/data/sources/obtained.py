"""The result of every source: files on this machine, and where they came from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freelunch.core.digest import file_digest
from freelunch.study.sources import Source


@dataclass(frozen=True)
class Obtained:
    """Raw files on this machine.

    Attributes:
        path: A model's folder, or one file: a GGUF model, a text, token ids. It is in the scratch
            folder, except that files of a `hub` source are beside it or, with HF_HUB_OFFLINE, in
            the hub's cache, and files of a `path` or `tokens` source are used where they are.
        origin: For the manifest: `source`; the keys that identify the files there; `files`, the
            sha256 of each file used, by its name in the source.
    """

    path: Path
    origin: dict[str, Any]


def digests_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the sha256 of files in a folder, by name."""
    return {name: file_digest(folder / name) for name in names}


def origin_of(entry: Source, keys: Iterable[str], files: Mapping[str, str]) -> dict[str, Any]:
    """Return the `origin` of files: `keys` are those of the entry that identify them."""
    identity = {key: getattr(entry, key) for key in ("source", *keys)}
    return {**identity, "files": dict(files)}
