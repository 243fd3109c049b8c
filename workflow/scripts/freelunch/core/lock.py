"""Locks that die with the process that holds them, so that none is ever left behind."""

import fcntl
import logging
import os
import shutil
import sys
import time
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)
_held: list[IO[str]] = []


def try_lock(path: Path) -> IO[str] | None:
    """Lock a file for this process, which writes its number into it; None if another has it.

    The lock ends when the file is closed, or the process ends in whatever way.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        # Its last holder may have removed the file between our opening and our locking it.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return file
        file.close()


def wait_for_lock(path: Path) -> IO[str]:
    """Lock a file for this process, as soon as no other has it."""
    lock = try_lock(path)
    if lock is None:
        try:
            holder = path.read_text()
        except FileNotFoundError:
            holder = "(just ended)"
        log.warning("%s: waiting for process %s, which works here", path.parent, holder)
    while lock is None:
        time.sleep(0.5)
        lock = try_lock(path)
    return lock


def clear_stale_locks(snakemake_folder: Path) -> None:
    """Remove what a killed Snakemake left locked, unless one is alive.

    Snakemake's own locks are plain files that outlive a `kill -9` or a power cut; one would then
    have to know of `snakemake --unlock`. Here a run also holds a lock that the system releases. A
    run that gets it knows that no other is alive, so Snakemake's locks are stale. One that does
    not get it leaves everything as it is, and Snakemake refuses to start.
    """
    if {"-n", "--dry-run", "--dryrun", "--lint"} & set(sys.argv):
        return
    lock = try_lock(snakemake_folder / "running")
    if lock is not None:
        _held.append(lock)
        shutil.rmtree(snakemake_folder / "locks", ignore_errors=True)
