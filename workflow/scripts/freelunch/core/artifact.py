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
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from freelunch.core.errors import UserError, mend
from freelunch.core.lock import remove_lock, wait_for_lock
from freelunch.core.spent import Spent

MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
# The journal of a finished folder whose work may be divided among jobs in another way later.
FINISHED_JOURNAL = "finished.jsonl"
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
        spent: What earlier attempts, and jobs that divided the work in another way, spent on files
            that were kept. Known only to the process that finished the folder.

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
        self.spent = Spent()
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
        others: Folders with files of the same work, divided among jobs in another way. `find` looks
            for files there. None if the work is never divided.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        fingerprint: str,
        keep_journal: bool = False,
        others: Iterable[Path] | None = None,
    ) -> None:
        self.folder, self.kind, self.fingerprint = folder, kind, fingerprint
        self._keep_journal, self._others = keep_journal, others
        # A job may outlive its killed Snakemake and still be at work here.
        self._lock = wait_for_lock(folder / LOCK)
        self._last = time.perf_counter(), time.process_time()
        self._spent = Spent()
        self._checked = CheckedFiles(folder)
        self._files = self._resume()
        for path in sorted(folder.iterdir()):
            if path.name not in {*self._files, JOURNAL, LOCK}:
                remove_path(path)
        if not self._files:
            self._write_text(JOURNAL, _line({"fingerprint": fingerprint}))
        self._elsewhere = self._look_elsewhere()

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def find(self, name: str) -> bool:
        """Return whether a file is here, or can be linked here from one of the other folders."""
        if name not in self._files and name in self._elsewhere:
            origin, line = self._elsewhere[name]
            sha256 = line["entry"][SHA256]
            if origin.is_file() and file_digest(origin) == sha256:
                facts = {key: line["entry"][key] for key in line["entry"] if key != SHA256}
                spent = Spent.of(line["spent"])
                self._link(origin, name, facts, sha256, spent)
                self._spent += spent
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
        source.check(source_name)
        self._link(source.path(source_name), name, facts, source.files[source_name][SHA256])

    def finish(self, **facts: Any) -> Artifact:
        """Write the manifest, which makes the folder complete, and return the artifact."""
        self._checked.save()
        self._write_text(MANIFEST, manifest_text(self.kind, facts, self._files))
        if self._others is not None:
            (self.folder / JOURNAL).replace(self.folder / FINISHED_JOURNAL)
        elif not self._keep_journal:
            (self.folder / JOURNAL).unlink()
        remove_lock(self._lock)
        artifact = Artifact(self.folder, self.kind)
        artifact.spent = self._spent
        return artifact

    def _link(
        self,
        origin: Path,
        name: str,
        facts: dict[str, Any],
        sha256: str,
        spent: Spent | None = None,
    ) -> None:
        temporary = self.folder / f".{name}.part"
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
                self._adopt(temporary, name, facts, spent=spent)
            else:
                with suppress(PermissionError):
                    temporary.chmod(stat.S_IMODE(temporary.stat().st_mode) & ~_WRITABLE)
                self._adopt(temporary, name, facts, sha256, spent)

    def _adopt(
        self,
        temporary: Path,
        name: str,
        facts: dict[str, Any],
        sha256: str | None = None,
        spent: Spent | None = None,
    ) -> None:
        entry = {
            SHA256: sha256 or file_digest(temporary),
            "bytes": temporary.stat().st_size,
            **facts,
        }
        spent = spent or self._spent_since_last()
        text = _line({"name": name, "entry": entry, "spent": spent.as_json()})
        # A process that is killed between these two makes the file once more.
        temporary.replace(self.folder / name)
        # Renaming one hard link to another of the same file does nothing.
        temporary.unlink(missing_ok=True)
        with (self.folder / JOURNAL).open("a") as journal:
            journal.write(text)
        self._checked.note(self.folder / name, entry[SHA256])
        self._files[name] = entry

    def _resume(self) -> dict[str, dict[str, Any]]:
        """Return the intact files of an interrupted attempt that had the same fingerprint."""
        if (self.folder / MANIFEST).exists():
            return {}
        first, lines = self._journal(self.folder / JOURNAL)
        intact = {
            name: line
            for name, line in lines.items()
            if (self.folder / name).is_file()
            and self._checked.holds(self.folder / name, line["entry"][SHA256], anew=True)
        }
        if not intact:
            return {}
        attempts = first.get("attempts", 0) + 1
        spent = (Spent.of(line["spent"]) for line in intact.values())
        self._spent = sum(spent, Spent(attempts=attempts))
        first = {"fingerprint": self.fingerprint, "attempts": attempts}
        self._write_text(JOURNAL, "".join(map(_line, [first, *intact.values()])))
        return {name: line["entry"] for name, line in intact.items()}

    def _look_elsewhere(self) -> dict[str, tuple[Path, dict[str, Any]]]:
        """Return the paths and journal lines of files of this fingerprint in the other folders."""
        return {
            name: (folder / name, line)
            for folder in self._others or ()
            if folder.resolve() != self.folder.resolve()
            for journal in (JOURNAL, FINISHED_JOURNAL)
            for name, line in self._journal(folder / journal)[1].items()
        }

    def _journal(self, path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Return the first line of a journal and the line of each file, by the file's name.

        Nothing is returned if the journal is missing or damaged, or has another fingerprint.
        """
        try:
            # An interrupt may have cut the last line short; its file is then written again.
            first, *lines = map(_read_line, path.read_bytes().split(b"\n")[:-1])
            found = {line["name"]: line for line in lines if line["entry"] and line["spent"]}
            return (first, found) if first["fingerprint"] == self.fingerprint else ({}, {})
        except (OSError, ValueError, KeyError):
            # Nothing is written yet, or a power cut damaged the journal.
            return {}, {}

    def _spent_since_last(self) -> Spent:
        """Return what this attempt spent since it last finished a file."""
        now = time.perf_counter(), time.process_time()
        (wall_s, cpu_s), self._last = self._last, now
        return Spent.now(now[0] - wall_s, now[1] - cpu_s)

    def _write_text(self, name: str, text: str) -> None:
        write_atomically(self.folder / name, text)


def manifest_digest(folder: Path) -> str | None:
    """Return the digest of a folder's manifest, and so of all in it; None if there is none."""
    path = folder / MANIFEST
    return file_digest(path) if path.is_file() else None


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
            todo=mend(),
        )


def fingerprint(code: str, settings: Any, *inputs: Artifact) -> str:
    """Return the digest of everything a step's result depends on: code, settings and inputs."""
    return json_digest(
        {"code": code, "settings": settings, "inputs": [artifact.digest for artifact in inputs]}
    )


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
