"""What every source gives, files on this machine, and the source that has them there already."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.data.sources.model_folder import check_link, model_files
from freelunch.study.source_files import gguf_of
from freelunch.study.sources import LocalSource, Source, Tokens

# Keys of an entry that say which files it means, in the order of the manifest.
_IDENTITY = (
    "source",
    "package",
    "version",
    "sha256",
    "repository",
    "revision",
    "path",
    "member",
    "members",
)


@dataclass(frozen=True)
class Obtained:
    """Raw files on this machine.

    Attributes:
        files: The files, by their names in the source: one file, or those of a model, which are in
            one folder. They are in the scratch folder, except that files of a `hub` source are
            beside it or, with HF_HUB_OFFLINE, in the hub's cache, and files of a `path` or `tokens`
            source are used where they are.
        origin: For the manifest: the keys of the entry that identify the files, and `files`, the
            sha256 of each file, by its name in the source.
    """

    files: dict[str, Path]
    origin: dict[str, Any]

    @classmethod
    def of(
        cls, entry: Source, files: Mapping[str, Path], digests: Mapping[str, str] | None = None
    ) -> "Obtained":
        """Return the files of an entry, with their sha256 if it is known already."""
        digests = digests or {name: file_digest(path) for name, path in files.items()}
        identity = {key: getattr(entry, key) for key in _IDENTITY if hasattr(entry, key)}
        return cls(dict(files), {**identity, "files": dict(digests)})

    @property
    def path(self) -> Path:
        """Return the only file, or the first one."""
        return next(iter(self.files.values()))


def file_at_path(where: str, entry: LocalSource | Tokens) -> Obtained:
    """Return the file at the entry's path."""
    path = Path(entry.path)
    if not path.is_file():
        raise _no_path(where, path, "a file")
    return Obtained.of(entry, {path.name: path})


def model_at_path(where: str, entry: LocalSource) -> Obtained:
    """Return the GGUF file, or the files of a model in a folder, at the entry's path."""
    folder = Path(entry.path)
    gguf = gguf_of(folder, f"{where}.path")
    if gguf is not None:
        if gguf != folder and gguf.is_symlink():
            check_link(f"{where}.path", folder, gguf.name)
        return Obtained.of(entry, {gguf.name: gguf})
    if not folder.is_dir():
        expected = "a GGUF file, or a folder with config.json, tokenizer and safetensors"
        raise _no_path(where, folder, expected)
    names = model_files(f"{where}.path", folder)
    return Obtained.of(entry, {name: folder / name for name in names})


def _no_path(where: str, path: Path, expected: str) -> UserError:
    return UserError(
        "no such path",
        where=f"{where}.path",
        found=f"{path.absolute()} {'is of another kind' if path.exists() else 'does not exist'}",
        expected=expected,
        todo="correct the path: an absolute one, or one relative to the repository",
    )
