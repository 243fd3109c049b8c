"""Digests of files that were computed before, so that a second check of a file costs nothing.

The digests of a folder's files are kept in a hidden file beside the folder, each with the size, the
time of the last change and the inode that the file had. A digest is used again only while all three
are the same. What wrote a file notes its digest, so that only files which came from elsewhere, such
as a copy, are ever read for a check.

The hidden file is merely a cache: it may be deleted, damaged or impossible to write, and two jobs
may replace each other's. Files are then read once more.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from freelunch.core.digest import file_digest

SUFFIX = ".checked"


class CheckedFiles:
    """The known digests of the files in a folder.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder.with_name(f".{folder.name}{SUFFIX}")
        self._known = self._read()
        self._changed = False

    def holds(self, path: Path, sha256: str, anew: bool = False) -> bool:
        """Return whether a file has a digest; read it if that is not known, or if `anew`."""
        state = _state(path)
        if not anew and self._known.get(path.name) == [*state, sha256]:
            return True
        # Also if another digest is known: the cache itself may be damaged.
        found = file_digest(path)
        self._note(path.name, state, found)
        return found == sha256

    def note(self, path: Path, sha256: str) -> None:
        """Note the digest of a file that was just written or read."""
        self._note(path.name, _state(path), sha256)

    def save(self) -> None:
        """Keep what was noted for later processes, if possible."""
        if not self._changed:
            return
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        with suppress(OSError):
            try:
                temporary.write_text(json.dumps(self._known))
                temporary.replace(self._path)
            finally:
                temporary.unlink(missing_ok=True)
        self._changed = False

    def _note(self, name: str, state: tuple[int, int, int], sha256: str) -> None:
        self._known[name] = [*state, sha256]
        self._changed = True

    def _read(self) -> dict[str, list[int | str]]:
        try:
            known = json.loads(self._path.read_text()) if self._path.is_file() else {}
        except (OSError, ValueError, RecursionError):
            return {}
        return known if isinstance(known, dict) else {}


def _state(path: Path) -> tuple[int, int, int]:
    """Return size in bytes, time of the last change in nanoseconds, and inode of a file."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino
