"""Use files of the user's where they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.data.sources.folder import model_files
from freelunch.data.sources.obtained import Obtained, digests_of, origin_of


def file_at_path(where: str, entry: Mapping[str, Any], scratch: Path) -> Obtained:
    path = Path(entry["path"])
    if not path.is_file():
        raise _no_path(where, path, "a file")
    return Obtained(path, origin_of(entry, ("path",), {path.name: file_digest(path)}))


def model_at_path(where: str, entry: Mapping[str, Any], scratch: Path) -> Obtained:
    folder = Path(entry["path"])
    if not folder.is_dir():
        raise _no_path(where, folder, "a folder with config.json, tokenizer and safetensors")
    names = model_files(f"{where}.path", folder)
    return Obtained(folder, origin_of(entry, ("path",), digests_of(folder, names)))


def _no_path(where: str, path: Path, expected: str) -> UserError:
    found = f"{path.absolute()} {'is of another kind' if path.exists() else 'does not exist'}"
    todo = "correct the path; it is absolute, or relative to the repository"
    return UserError(
        "no such path", where=f"{where}.path", found=found, expected=expected, todo=todo
    )
