"""Small folders of files with manifests."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

from freelunch.core.artifact import MANIFEST, Artifact
from freelunch.core.artifact_writer import ArtifactWriter


def write(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def fail_with(error: BaseException) -> Callable[[Path], object]:
    """Return a writer that fails when half of its file is there."""

    def half(path: Path) -> None:
        path.write_text("half of")
        raise error

    return half


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def finished(folder: Path, **facts: object) -> Artifact:
    writer = ArtifactWriter(folder, "test", "fingerprint")
    writer.add("one", write("first"))
    writer.add("two", write("second"))
    return writer.finish(**facts)


def write_facts(folder: Path, **facts: object) -> None:
    """Write a manifest with facts alone, as those that show what was fetched are read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps({"facts": facts}))


def write_at(path: Path, at: int, text: str = "") -> Path:
    """Write a file that says it was written at a time, in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (at, at))
    return path


def full(number: int = errno.ENOSPC) -> OSError:
    return OSError(number, os.strerror(number))
