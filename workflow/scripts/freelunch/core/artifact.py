"""Artifacts: the output of a step, a folder of files and a manifest with the digest of each.

A long step writes many files, one per block or window. `ArtifactWriter` gives a file its final name
only when it is complete, and notes it in a journal, so that an interrupted step resumes where it
stopped. `manifest.json` is renamed into place last: a folder that has one is complete.

The manifest holds nothing that could differ between two equal computations (no times, no paths).
Snakemake compares small files by content, so a step that runs again with an equal result leaves
everything made from it valid.
"""

import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from freelunch.core.checked import CheckedFiles
from freelunch.core.digest import (
    SHA256,
    file_digest,
    json_digest,
    read_sealed,
    sealed,
    unsealed,
)
from freelunch.core.disk import disk_error
from freelunch.core.errors import UserError, mend, remake
from freelunch.core.lock import remove_lock, wait_for_lock

MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
LOCK = ".lock"
# The permissions that this process gives new files. Reading the umask means setting it, so this is
# done once, before there are threads.
os.umask(_umask := os.umask(0))
_NEW_FILE = 0o666 & ~_umask
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


class Artifact:
    """A finished folder, as its manifest describes it.

    Attributes:
        folder: Where the files are.
        kind: What the folder holds, e.g. "model".
        facts: What the step noted about the whole.
        files: For each file name: `sha256`, `bytes`, and what the step noted about the file.
        digest: Digest of the manifest, and so of everything in the folder.
        spent: What interrupted attempts spent on files that were kept: `wall_s` and `cpu_s`, in
            seconds, and `attempts`. Known only to the process that finished the folder.

    Raises:
        UserError: The manifest is missing or damaged or names another kind, or a file is missing or
            is not the file that was made: it has another size or digest than the manifest says.
            Digests are known for files that did not change since (`freelunch.core.checked`).
    """

    def __init__(self, folder: Path, kind: str) -> None:
        path = folder / MANIFEST
        if not path.is_file():
            raise UserError("there is no manifest", where=path, todo=mend())
        manifest = read_sealed(path, problem="the manifest is damaged")
        self.kind: str = manifest["kind"]
        self.facts: dict[str, Any] = manifest["facts"]
        self.files: dict[str, dict[str, Any]] = manifest["files"]
        if self.kind != kind:
            raise UserError(
                "wrong kind of folder",
                where=path,
                found=self.kind,
                expected=kind,
                todo=mend(),
            )
        self.folder = folder
        self.digest = file_digest(path)
        self.spent: dict[str, float] = {}
        self.check(*self.files)

    @classmethod
    def at(cls, manifest: str, kind: str) -> "Artifact":
        """Return the folder that a manifest stands for, as rules name it."""
        return cls(Path(manifest).parent, kind)

    def path(self, name: str) -> Path:
        """Return the path of a file that the manifest names; KeyError if it does not."""
        self.files[name]
        return self.folder / name

    def verify(self) -> None:
        """Read every file and compare its digest; UserError at the first that differs."""
        self.check(*self.files, anew=True)

    def check(self, *names: str, anew: bool = False) -> None:
        """Check some of the files; read those whose digest is not known, or all if `anew`.

        Raises:
            UserError: A file is missing, or is not the file that was made.
        """
        checked = CheckedFiles(self.folder)
        try:
            for name in names:
                self._check_file(name, checked, anew)
        finally:
            checked.save()

    def _check_file(self, name: str, checked: CheckedFiles, anew: bool) -> None:
        file, entry = self.folder / name, self.files[name]
        size = file.stat().st_size if file.is_file() else None
        if size != entry["bytes"]:
            raise UserError(
                "a file differs from what the manifest says",
                where=file,
                found="no file" if size is None else f"{size} bytes",
                expected=f"{entry['bytes']} bytes",
                todo=mend(),
            )
        if not checked.holds(file, entry[SHA256], anew):
            raise UserError(
                "a file's content differs from what the manifest says",
                where=file,
                found="another sha256",
                expected=f"sha256 {entry[SHA256]}",
                todo=mend(),
            )


class ArtifactWriter:
    """Fill a folder file by file, so that an interrupt at any moment loses no finished file.

    Args:
        folder: Made if missing. If an interrupted attempt with the same fingerprint left files here
            whose digests are still right, they are kept; everything else in the folder is removed.
        kind: As in `Artifact`.
        fingerprint: Digest of everything the content depends on.
        keep_journal: Whether the journal stays beside the manifest. Snakemake removes the manifest
            before it runs a job again; with the journal, a job that does more than fill this
            folder finds its files as an interrupted attempt would have left them.
    """

    def __init__(
        self, folder: Path, kind: str, fingerprint: str, keep_journal: bool = False
    ) -> None:
        self.folder, self.kind, self.fingerprint = folder, kind, fingerprint
        self._keep_journal = keep_journal
        # A job may outlive its killed Snakemake and still be at work here.
        self._lock = wait_for_lock(folder / LOCK)
        self._started = time.perf_counter(), time.process_time()
        self._spent: dict[str, float] = {"wall_s": 0.0, "cpu_s": 0.0, "attempts": 0}
        self._checked = CheckedFiles(folder)
        self._files = self._resume()
        for path in sorted(folder.iterdir()):
            if path.name not in {*self._files, JOURNAL, LOCK}:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not self._files:
            self._write_text(JOURNAL, _line({"fingerprint": fingerprint}))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def entry(self, name: str) -> dict[str, Any]:
        """Return what the manifest will say about a file; KeyError if it is not written yet."""
        return dict(self._files[name])

    def add(self, name: str, write: Callable[[Path], object], **facts: Any) -> None:
        """Have `write` fill a temporary path, then give the file its name and note its digest."""
        temporary = self.folder / f".{name}.part"
        with no_half_file(temporary):
            write(temporary)
            # safetensors makes files for their owner alone.
            temporary.chmod(_NEW_FILE)
            self._adopt(temporary, name, facts)

    def add_text(self, name: str, text: str, **facts: Any) -> None:
        """Add a small text file."""
        self.add(name, lambda path: path.write_text(text, encoding="utf-8"), **facts)

    def link(self, name: str, source: Artifact, source_name: str, **facts: Any) -> None:
        """Add a file of another artifact by a hard link, or by a copy across file systems.

        A file with several names becomes read-only, since an edit of one would change the others.

        Raises:
            UserError: The file is not the one that the other artifact was made with.
        """
        temporary, origin = self.folder / f".{name}.part", source.path(source_name)
        source.check(source_name)
        with no_half_file(temporary):
            # What a killed process left behind.
            temporary.unlink(missing_ok=True)
            try:
                os.link(origin, temporary)
            except OSError as error:
                # A file system without hard links, or a link across two of them.
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise
                shutil.copyfile(origin, temporary)
                self._adopt(temporary, name, facts)
            else:
                with suppress(PermissionError):
                    temporary.chmod(stat.S_IMODE(temporary.stat().st_mode) & ~_WRITABLE)
                self._adopt(temporary, name, facts, source.files[source_name][SHA256])

    def finish(self, **facts: Any) -> Artifact:
        """Write the manifest, which makes the folder complete, and return the artifact."""
        self._checked.save()
        self._write_text(MANIFEST, manifest_text(self.kind, facts, self._files))
        if not self._keep_journal:
            (self.folder / JOURNAL).unlink()
        remove_lock(self._lock)
        artifact = Artifact(self.folder, self.kind)
        artifact.spent = self._spent
        return artifact

    def _adopt(
        self, temporary: Path, name: str, facts: dict[str, Any], sha256: str | None = None
    ) -> None:
        entry = {
            SHA256: sha256 or file_digest(temporary),
            "bytes": temporary.stat().st_size,
            **facts,
        }
        line = {"name": name, "entry": entry, "wall_s": self._since(0), "cpu_s": self._since(1)}
        text = _line(line)
        # A process that is killed between these two makes the file once more.
        temporary.replace(self.folder / name)
        with (self.folder / JOURNAL).open("a") as journal:
            journal.write(text)
        self._checked.note(self.folder / name, entry[SHA256])
        self._files[name] = entry

    def _resume(self) -> dict[str, dict[str, Any]]:
        """Return the intact files of an interrupted attempt that had the same fingerprint."""
        journal = self.folder / JOURNAL
        if (self.folder / MANIFEST).exists() or not journal.is_file():
            return {}
        lines = journal.read_bytes().split(b"\n")
        try:
            # An interrupt may have cut the last line short; its file is then written again.
            first, *complete = map(_read_line, lines[:-1])
            written = first["fingerprint"]
            files = {item["name"]: item["entry"] for item in complete}
        except (ValueError, KeyError):
            # Nothing is written yet, or a power cut damaged the journal.
            return {}
        if written != self.fingerprint:
            return {}
        intact = {
            name: entry
            for name, entry in files.items()
            if (self.folder / name).is_file()
            and self._checked.holds(self.folder / name, entry[SHA256], anew=True)
        }
        if intact:
            before = first.get("spent", self._spent)
            last = complete[-1]
            self._spent = {
                "wall_s": before["wall_s"] + last.get("wall_s", 0.0),
                "cpu_s": before["cpu_s"] + last.get("cpu_s", 0.0),
                "attempts": before["attempts"] + 1,
            }
        first = {"fingerprint": written, "spent": self._spent}
        kept = [{"name": name, "entry": entry} for name, entry in intact.items()]
        self._write_text(JOURNAL, "".join(map(_line, [first, *kept])))
        return intact

    def _since(self, clock: int) -> float:
        """Return the wall (0) or processor (1) seconds since this attempt began."""
        now = time.perf_counter(), time.process_time()
        return round(now[clock] - self._started[clock], 3)

    def _write_text(self, name: str, text: str) -> None:
        write_atomically(self.folder / name, text)


def manifest_text(kind: str, facts: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """Return the content of a manifest; its arguments are attributes of `Artifact`."""
    content = {"kind": kind, "facts": facts, "files": dict(sorted(files.items()))}
    return json_text(sealed(content))


def _line(item: Mapping[str, Any]) -> str:
    """Return a line of a journal."""
    return json.dumps(sealed(item), allow_nan=False) + "\n"


def _read_line(line: bytes) -> dict[str, Any]:
    """Return an item of a journal; ValueError if its line is damaged."""
    item = unsealed(line)
    if item is None:
        raise ValueError("a damaged line")
    return item


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder and remove it afterwards.

    What a killed process left in it is removed. A job that outlived its killed Snakemake may still
    be at work in it; this waits until that job ends.
    """
    lock = wait_for_lock(path.with_name(f"{path.name}.lock"))
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        remove_lock(lock)


def check_belongs(artifact: Artifact, what: str, other: Artifact | None) -> None:
    """Check that an artifact was made from another one.

    Args:
        artifact: The artifact; its fact `what` is the digest of what it was made from.
        what: Name of the fact.
        other: The artifact that it should have been made from; None if from nothing of the kind.

    Raises:
        UserError: It was made from something else.
    """
    expected = None if other is None else other.digest
    if artifact.facts[what] != expected:
        raise UserError(
            f"this was made from a different artifact: {what}",
            where=artifact.folder,
            found=f"{what} {artifact.facts[what]}",
            expected="none" if other is None else f"{other.digest}, which is {other.folder}",
            todo=remake(artifact.folder / MANIFEST),
        )


def fingerprint(code: str, settings: Any, *inputs: Artifact) -> str:
    """Return the digest of everything a step's result depends on: code, settings and inputs."""
    return json_digest(
        {"code": code, "settings": settings, "inputs": [artifact.digest for artifact in inputs]}
    )


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
