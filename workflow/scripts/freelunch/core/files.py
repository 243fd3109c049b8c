"""Files that are whole or not there, whatever happens in between."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from freelunch.core.errors import disk_error
from freelunch.core.lock import remove_lock, wait_for_lock


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder and remove it afterwards.

    A job that outlived its killed Snakemake may still be at work in it: this waits for its end.
    """
    lock = wait_for_lock(path.with_name(f"{path.name}.lock"))
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        remove_lock(lock)


def remove_path(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there; never what a link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name in the same folder, then rename it; text is UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with no_half_file(temporary):
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented, refusing NaN and infinity."""
    write_atomically(path, json_text(value))


def json_text(value: Any) -> str:
    """Return a value as JSON, indented as in all files of this project; ValueError on NaN."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


@contextmanager
def no_half_file(temporary: Path) -> Iterator[None]:
    """Remove `temporary` if the body fails; report what a disk refuses as a UserError."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if (known := disk_error(error, temporary.parent)) is not None:
            raise known from error
        raise
