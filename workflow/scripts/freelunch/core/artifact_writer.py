"""Fill the folder of an artifact file by file, so that an interrupted step resumes where it was.

A long step writes many files, one per block or window. A file gets its final name only when it is
complete, and a journal notes it. `manifest.json` is renamed into place last.
"""

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import BaseFileLock

from freelunch.core.artifact import MANIFEST, Artifact, manifest_text
from freelunch.core.digest import SHA256, digest_once, sealed, unsealed
from freelunch.core.files import no_half_file, remove_path, write_atomically
from freelunch.core.job_cost import Clock, Spent
from freelunch.core.lock import lock_if_free, remove_lock, wait_for_lock

JOURNAL = "journal.jsonl"
# The journal of a finished folder: for a job that waited while another one filled it, and for jobs
# that divide the same work in another way later.
FINISHED_JOURNAL = "finished.jsonl"
# Key of a journal's first line: the folder is complete but for its manifest, which the job that it
# belongs to writes.
LEFT = "left"
LOCK = ".lock"
# The manifest of a finished folder whose job Snakemake runs again only because it did not see its
# end: Snakemake would remove `manifest.json` (`keep_manifest`).
KEPT = ".manifest.kept"
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
# What a file system without hard links raises, or a link across two of them.
_UNLINKABLE = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK)


class ArtifactWriter:
    """Fill a folder file by file, so that an interrupt at any moment loses no finished file.

    Files that an interrupted attempt with the same fingerprint left in the folder are kept if their
    digests are still right; everything else there is removed. Snakemake removes the manifest before
    it runs a job, so a finished folder was finished by another job; its files are kept as well. So
    are those of a folder whose manifest was kept.

    Args:
        folder: Made if missing.
        kind: As in `Artifact`.
        fingerprint: Digest of everything the content depends on.
        keep_journal: Whether the journal stays beside the manifest, so that a job that does more
            than fill this folder finds its files when it runs again.
        others: Folders with files of the same work, divided among jobs in another way, for `find`.
        clock: Shared by folders that are filled in turns.
        lock: The folder's lock, if the caller holds it.

    Attributes:
        finished: The facts of the manifest, if another job has finished the folder; else None. Who
            has nothing to add may `finish` with them.
        left: Whether another job left the folder complete but for its manifest, and every file is
            still as that job made it.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        fingerprint: str,
        keep_journal: bool = False,
        others: Iterable[Path] = (),
        clock: Clock | None = None,
        lock: BaseFileLock | None = None,
    ) -> None:
        self.folder, self.kind, self.fingerprint = folder, kind, fingerprint
        self._keep_journal = keep_journal
        # A job may outlive its killed Snakemake and still be at work here.
        self._lock = lock or wait_for_lock(folder / LOCK)
        with suppress(FileNotFoundError):
            (folder / KEPT).rename(folder / MANIFEST)
        self._clock = clock or Clock()
        self._spent, self._spent_here, self._uncounted = Spent(), Spent(), Spent()
        self.left = False
        self._files = self._resume()
        self.finished: dict[str, Any] | None = None
        if self._files and (folder / MANIFEST).is_file():
            manifest = unsealed((folder / MANIFEST).read_bytes()) or {}
            if (manifest.get("kind"), manifest.get("files")) == (kind, self._files):
                self.finished = manifest["facts"]
        for path in sorted(folder.iterdir()):
            if path.name not in {*self._files, JOURNAL, LOCK}:
                remove_path(path)
        if not self._files:
            self._write_journal({"fingerprint": fingerprint})
        # The paths and journal lines of files of this fingerprint in the other folders.
        self._elsewhere = {
            name: (other / name, line)
            for other in others
            if other.resolve() != folder.resolve()
            for journal in (JOURNAL, FINISHED_JOURNAL)
            for name, line in _read_journal(other / journal, fingerprint)[1].items()
        }

    @classmethod
    def of_another_job(
        cls, folder: Path, kind: str, fingerprint: str, clock: Clock
    ) -> "ArtifactWriter | None":
        """Return the writer of a folder that this job is to leave to another one; None if a process
        works there, or it is left or finished: its own job may not write the manifest again.
        """
        lock = lock_if_free(folder / LOCK)
        if lock is None:
            return None
        if is_left(folder, fingerprint) or is_finished(folder, fingerprint):
            remove_lock(lock)
            return None
        return cls(folder, kind, fingerprint, clock=clock, lock=lock)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def find(self, name: str) -> bool:
        """Return whether a file is here, or can be linked here from one of the other folders."""
        if name not in self._files and name in self._elsewhere:
            origin, line = self._elsewhere[name]
            sha256 = line["entry"][SHA256]
            if origin.is_file() and digest_once(origin) == sha256:
                facts = {key: line["entry"][key] for key in line["entry"] if key != SHA256}
                spent = Spent(**line["spent"])
                self._link(origin, name, facts, sha256, spent)
                self._spent += spent
        return name in self._files

    def path(self, name: str) -> Path:
        """Return the path of a file that this process wrote, or found intact."""
        return self.folder / name

    def entry(self, name: str) -> dict[str, Any]:
        """Return what the manifest will say about a file; KeyError if it is not written yet."""
        return dict(self._files[name])

    def add(self, name: str, write: Callable[[Path], object], **facts: Any) -> None:
        """Have `write` fill a temporary path, then give the file its name and note its digest."""
        temporary = self.folder / f".{name}.part"
        with no_half_file(temporary):
            write(temporary)
            # safetensors makes files for their owner alone; the journal has the usual permissions.
            shutil.copymode(self.folder / JOURNAL, temporary)
            self._adopt(temporary, name, facts, digest_once(temporary))

    def add_text(self, name: str, text: str, **facts: Any) -> None:
        """Add a small text file."""
        self.add(name, lambda path: path.write_text(text, encoding="utf-8"), **facts)

    def link(self, name: str, source: Artifact, source_name: str, **facts: Any) -> None:
        """Add a file of another artifact, which is checked, by a hard link or, across file systems,
        a copy. A link becomes read-only, since an edit of one name would change the others.
        """
        self._link(source.path(source_name), name, facts, source.files[source_name][SHA256])

    def count(self, spent: Spent) -> None:
        """Count what earlier attempts spent, of which there is no file here, with the next file."""
        self._uncounted = spent

    def finish(self, **facts: Any) -> Artifact:
        """Write the manifest, which makes the folder complete, and return the artifact."""
        write_atomically(self.folder / MANIFEST, manifest_text(self.kind, facts, self._files))
        if not self._keep_journal:
            (self.folder / JOURNAL).replace(self.folder / FINISHED_JOURNAL)
        self.release()
        artifact = Artifact(self.folder, self.kind)
        # What this process wrote or linked is not read again, but noted.
        artifact.verify(anew=False)
        artifact.spent = self._spent
        return artifact

    def leave(self) -> Spent:
        """Leave the folder, complete but for its manifest, to the job that it belongs to. Return
        what this job spent on its files, which the other job counts as its own.
        """
        first, lines = _read_journal(self.folder / JOURNAL, self.fingerprint)
        self._write_journal({**first, LEFT: True}, lines.values())
        return self.release()

    def release(self) -> Spent:
        """Let another job fill the folder, which keeps the files here; return as `leave`."""
        remove_lock(self._lock)
        return self._spent_here

    def _link(
        self, origin: Path, name: str, facts: Any, sha256: str, spent: Spent | None = None
    ) -> None:
        temporary = self.folder / f".{name}.part"
        with no_half_file(temporary):
            # What a killed process left behind.
            temporary.unlink(missing_ok=True)
            try:
                os.link(origin, temporary)
            except OSError as error:
                if error.errno not in _UNLINKABLE:
                    raise
                shutil.copyfile(origin, temporary)
            else:
                with suppress(PermissionError):
                    temporary.chmod(stat.S_IMODE(temporary.stat().st_mode) & ~_WRITABLE)
            self._adopt(temporary, name, facts, sha256, spent)

    def _adopt(
        self, temporary: Path, name: str, facts: Any, sha256: str, spent: Spent | None = None
    ) -> None:
        entry = {SHA256: sha256, "bytes": temporary.stat().st_size, **facts}
        if spent is None:
            spent, self._uncounted = self._clock.lap() + self._uncounted, Spent()
            self._spent_here += spent
        text = _line({"name": name, "entry": entry, "spent": asdict(spent)})
        # A process that is killed between these two makes the file once more.
        temporary.replace(self.folder / name)
        # Renaming one hard link to another of the same file does nothing.
        temporary.unlink(missing_ok=True)
        with (self.folder / JOURNAL).open("a") as journal:
            journal.write(text)
        self._files[name] = entry

    def _resume(self) -> dict[str, dict[str, Any]]:
        """Return the intact files of an attempt, or a finished job, of the same fingerprint."""
        is_finished = (self.folder / MANIFEST).exists()
        journal = FINISHED_JOURNAL if is_finished and not self._keep_journal else JOURNAL
        first, lines = _read_journal(self.folder / journal, self.fingerprint)
        left = first.get(LEFT, False)
        # What another process wrote may not have reached the disk: it is read again.
        intact = {
            name: line
            for name, line in lines.items()
            if (path := self.folder / name).is_file() and digest_once(path) == line["entry"][SHA256]
        }
        if not intact:
            return {}
        attempts = first.get("attempts", 0) + (not is_finished and not left)
        self.left = left and len(intact) == len(lines)
        spent = (Spent(**line["spent"]) for line in intact.values())
        self._spent = sum(spent, Spent(attempts=attempts))
        first = {"fingerprint": self.fingerprint, "attempts": attempts}
        # A job that looks for folders to fill finds this one left or finished at any moment.
        self._write_journal(first | ({LEFT: True} if self.left else {}), intact.values())
        return {name: line["entry"] for name, line in intact.items()}

    def _write_journal(
        self, first: Mapping[str, Any], files: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        write_atomically(self.folder / JOURNAL, "".join(map(_line, [first, *files])))


# The files of a folder that is finished, or that this process fills.
Files = Artifact | ArtifactWriter


def keep_manifest(folder: Path) -> None:
    """Have the next writer with the fingerprint of a finished folder take it over, though Snakemake
    is about to run its job again. What no writer filled has no journal, and is left alone.
    """
    if any((folder / name).is_file() for name in (JOURNAL, FINISHED_JOURNAL)):
        with suppress(FileNotFoundError):
            (folder / MANIFEST).replace(folder / KEPT)


def is_left(folder: Path, fingerprint: str) -> bool:
    """Return whether another job left a folder (`ArtifactWriter.leave`); look at no file of it."""
    return bool(_read_journal(folder / JOURNAL, fingerprint)[0].get(LEFT))


def is_finished(folder: Path, fingerprint: str) -> bool:
    """Return whether a folder with this fingerprint is complete, without a look at its files."""
    journal = _read_journal(folder / FINISHED_JOURNAL, fingerprint)
    return (folder / MANIFEST).is_file() and bool(journal[1])


def _read_journal(path: Path, fingerprint: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return a journal's first line, and the line of each file by name; nothing of another one."""
    try:
        # An interrupt may have cut the last line short; its file is then written again.
        first, *lines = (unsealed(line) or {} for line in path.read_bytes().split(b"\n")[:-1])
        found = {line["name"]: line for line in lines if line["entry"] and line["spent"]}
        return (first, found) if first["fingerprint"] == fingerprint else ({}, {})
    except (OSError, ValueError, KeyError):
        # Nothing is written yet, or a power cut damaged the journal.
        return {}, {}


def _line(item: Mapping[str, Any]) -> str:
    return json.dumps(sealed(item), allow_nan=False) + "\n"
