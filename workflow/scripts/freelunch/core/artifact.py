"""Artifacts: the output of a step, a folder of files and a manifest with the digest of each.

The manifest is written last (`freelunch.core.artifact_writer`): a folder that has one is complete.

It holds nothing that could differ between two equal computations (no times, no paths). Snakemake
compares small files by content, so a step that runs again with an equal result leaves everything
made from it valid.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from freelunch.core.digest import (
    SHA256,
    comparing,
    digest_once,
    file_digest,
    json_digest,
    read_sealed,
    sealed,
    unsealed,
)
from freelunch.core.errors import UserError, mend
from freelunch.core.files import json_text
from freelunch.core.job_cost import Spent

MANIFEST = "manifest.json"


class Artifact:
    """A finished folder, as its manifest describes it, of a `kind` or (None) of any.

    Attributes:
        folder: Where the files are.
        kind: What the folder holds, e.g. "model".
        facts: What the step noted about the whole.
        files: For each file name: `sha256`, `bytes`, and what the step noted about the file.
        digest: Digest of the manifest, and so of everything in the folder.
        spent: What earlier attempts and other jobs spent on files that were kept. Only the process
            that finished the folder knows it.

    Raises:
        UserError: The manifest is missing or damaged or names another kind, or a file is missing or
            has another size than the manifest says.
    """

    def __init__(self, folder: Path, kind: str | None) -> None:
        path = folder / MANIFEST
        if not path.is_file():
            raise UserError("there is no manifest", where=path, todo=mend())
        manifest = read_sealed(path, problem="the manifest is damaged")
        self.kind: str = manifest["kind"]
        self.facts: dict[str, Any] = manifest["facts"]
        self.files: dict[str, dict[str, Any]] = manifest["files"]
        if kind not in (None, self.kind):
            problem = "wrong kind of folder"
            raise UserError(problem, where=path, found=self.kind, expected=kind, todo=mend())
        self.folder, self.digest, self.spent = folder, file_digest(path), Spent()
        for name in self.files:
            self._check(name)

    @classmethod
    def at(cls, manifest: str, kind: str) -> "Artifact":
        """Return the folder that a manifest stands for, as rules name it."""
        return cls(Path(manifest).parent, kind)

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def path(self, name: str) -> Path:
        """Return the path of a file to be read, whose digest is compared first, once a process;
        UserError if it differs, KeyError if the manifest does not name the file.
        """
        self._check(name, lambda path, sha256: digest_once(path) == sha256)
        return self.folder / name

    def verify(self, anew: bool = True) -> None:
        """Compare the digest of every file; UserError at the first that differs. Unless `anew`,
        only files of unknown digest are read.
        """
        with comparing(self.folder, anew) as holds:
            for name in self.files:
                self._check(name, holds)

    def _check(self, name: str, holds: Callable[[Path, str], bool] | None = None) -> None:
        """Refuse, by UserError, a file of another size, or with another digest if asked."""
        file, entry = self.folder / name, self.files[name]
        size = file.stat().st_size if file.is_file() else None
        found, expected = f"{size} bytes", f"{entry['bytes']} bytes"
        if size is None:
            found = "no file"
        elif size == entry["bytes"]:
            if holds is None or holds(file, entry[SHA256]):
                return
            found, expected = "another sha256", f"sha256 {entry[SHA256]}"
        problem = "a file differs from what the manifest says"
        raise UserError(problem, where=file, found=found, expected=expected, todo=mend())


def manifest_digest(folder: Path) -> str | None:
    """Return the digest of a folder's manifest, and so of all in it; None if there is none."""
    path = folder / MANIFEST
    return file_digest(path) if path.is_file() else None


def united_digest(folders: Iterable[Path]) -> str | None:
    """Return the digest of the manifest that one job would have written, of the folders of several
    that divided its work and so have equal facts; None if a manifest is missing or damaged.
    """
    paths = [folder / MANIFEST for folder in folders]
    parts = [unsealed(path.read_bytes()) if path.is_file() else None for path in paths]
    if not parts or None in parts:
        return None
    files = {name: entry for part in parts if part for name, entry in part["files"].items()}
    one = parts[0] or {}
    return hashlib.sha256(manifest_text(one["kind"], one["facts"], files).encode()).hexdigest()


def manifest_text(kind: str, facts: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """Return the content of a manifest; its arguments are attributes of `Artifact`."""
    content = {"kind": kind, "facts": facts, "files": dict(sorted(files.items()))}
    return json_text(sealed(content))


def check_belongs(artifact: Artifact, what: str, other: Artifact | None) -> None:
    """Refuse, by UserError, an artifact that was not made from another: its fact `what` is not the
    other's digest, or None if it should have been made from nothing of the kind.
    """
    expected = None if other is None else other.digest
    if artifact.facts[what] != expected:
        raise UserError(
            f"this was made from a different artifact: {what}",
            where=artifact.folder,
            found=f"{what} {artifact.facts[what]}",
            expected="none" if other is None else f"{other.digest}, which is {other.folder}",
            todo=mend(),
        )


def fingerprint(code: str, settings: Any, *inputs: Artifact) -> str:
    """Return the digest of everything a step's result depends on: code, settings and inputs."""
    return json_digest(
        {"code": code, "settings": settings, "inputs": [artifact.digest for artifact in inputs]}
    )
