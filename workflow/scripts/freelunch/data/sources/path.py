"""Use the user's own files where they are."""

from pathlib import Path

from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.data.sources.folder import check_link, model_files
from freelunch.data.sources.obtained import Obtained, digests_of, origin_of
from freelunch.study.source_files import gguf_of
from freelunch.study.sources import LocalSource, Tokens


def file_at_path(where: str, entry: LocalSource | Tokens) -> Obtained:
    """Return the file at the entry's path."""
    path = Path(entry.path)
    if not path.is_file():
        raise _no_path(where, path, "a file")
    return Obtained(path, origin_of(entry, ("path",), {path.name: file_digest(path)}))


def model_at_path(where: str, entry: LocalSource) -> Obtained:
    """Return the GGUF file, or the folder of a model, at the entry's path."""
    folder = Path(entry.path)
    gguf = gguf_of(folder, f"{where}.path")
    if gguf is not None:
        if gguf != folder and gguf.is_symlink():
            check_link(f"{where}.path", folder, gguf.name)
        return Obtained(gguf, origin_of(entry, ("path",), {gguf.name: file_digest(gguf)}))
    if not folder.is_dir():
        expected = "a GGUF file, or a folder with config.json, tokenizer and safetensors"
        raise _no_path(where, folder, expected)
    names = model_files(f"{where}.path", folder)
    return Obtained(folder, origin_of(entry, ("path",), digests_of(folder, names)))


def _no_path(where: str, path: Path, expected: str) -> UserError:
    found = f"{path.absolute()} {'is of another kind' if path.exists() else 'does not exist'}"
    todo = "correct the path: an absolute one, or one relative to the repository"
    return UserError(
        "no such path", where=f"{where}.path", found=found, expected=expected, todo=todo
    )
