"""Keep what was found in source files, so that a run does not parse the whole library again.

Parsing it takes more than a second, at every start of Snakemake: the user's, and on a cluster each
job's.
"""

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from freelunch.core.digest import file_digest, json_digest, sealed, unsealed
from freelunch.core.files import json_text

FILE = "freelunch_code.json"


class Source(NamedTuple):
    """What `freelunch.core.code_digest` needs to know about a source file.

    Attributes:
        code: The digest of its code without words, 64 hex digits.
        names: Full names of what its import statements name, sorted.
    """

    code: str
    names: list[str]


class CodeCache:
    """The sources that were parsed before, kept in a file in `__pycache__`.

    An entry holds for one content of a file, one version of Python and one version of the code that
    parses. A cache that is damaged or of another version is ignored.

    Args:
        scripts: The folder that paths are relative to.
        parsers: The source files of the code that parses.
    """

    def __init__(self, scripts: Path, parsers: list[Path]) -> None:
        self._scripts, self._file = scripts, scripts / "__pycache__" / FILE
        self._parsers = json_digest([sys.version, *map(file_digest, parsers)])
        self._sources: dict[str, list[object]] = self._read()
        self._changed = False

    def get(self, path: Path, content: bytes) -> Source | None:
        """Return what was found in a file with this content before; None if it is not known."""
        known = self._sources.get(self._key(path))
        if known is None or known[0] != hashlib.sha256(content).hexdigest():
            return None
        return Source(*known[1:])  # type: ignore[arg-type]

    def add(self, path: Path, content: bytes, source: Source) -> None:
        """Note what is in a file with this content."""
        self._sources[self._key(path)] = [hashlib.sha256(content).hexdigest(), *source]
        self._changed = True

    def save(self) -> None:
        """Write the file if anything was added and the folder is writable."""
        if not self._changed:
            return
        content = sealed({"parsers": self._parsers, "sources": self._sources})
        # Several runs may write at once, each to a name of its own; the last one stays.
        temporary = self._file.with_name(f".{FILE}.{os.getpid()}")
        with suppress(OSError):
            self._file.parent.mkdir(exist_ok=True)
            try:
                temporary.write_text(json_text(content))
                temporary.replace(self._file)
            finally:
                temporary.unlink(missing_ok=True)
        self._changed = False

    def _read(self) -> dict[str, list[object]]:
        # Another user's file may be unreadable, too.
        with suppress(OSError):
            content = unsealed(self._file.read_bytes())
            if content is not None and content["parsers"] == self._parsers:
                sources: dict[str, list[object]] = content["sources"]
                return sources
        return {}

    def _key(self, path: Path) -> str:
        return str(path.relative_to(self._scripts))
