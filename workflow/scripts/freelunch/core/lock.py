"""Locks that end with the process that holds them, so that a killed run leaves nothing to clean up.

The operating system releases them, whichever way a process ends. Processes on two machines see
each other's locks if the file system that they share supports `flock` across machines. Where there
is no `flock` at all, taking a lock raises OSError: a mere file would outlive a killed process.
"""

import logging
import os
import shutil
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, ReadWriteLock, Timeout

from freelunch.core.errors import UserError, disk_error

log = logging.getLogger(__name__)
# Locks that this process holds until it ends.
_held: list[ReadWriteLock] = []
_waited_s = 0.0


def wait_for_lock(path: Path, level: int = logging.WARNING) -> BaseFileLock:
    """Lock a file as soon as no other process holds it; log at `level` before this waits."""
    if lock := lock_if_free(path):
        return lock
    holder = holder_of(path) or "(just ended)"
    log.log(level, "%s: waiting for process %s, which works here", path.parent, holder)
    began = time.perf_counter()
    lock = _lock_of(path)
    lock.acquire()
    global _waited_s
    _waited_s += time.perf_counter() - began
    return lock


def lock_if_free(path: Path) -> BaseFileLock | None:
    """Lock a file for this process; return None if another one holds it."""
    lock = _lock_of(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def holder_of(path: Path) -> str | None:
    """Return the number of the process that holds a lock; None if none does."""
    with suppress(FileNotFoundError):
        holder = path.read_text() or "(just started)"
        if (lock := lock_if_free(path)) is None:
            return holder
        remove_lock(lock)
    return None


def _lock_of(path: Path) -> BaseFileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(
        path,
        thread_local=False,
        fallback_to_soft=False,
        poll_interval=0.5,
        on_acquired=_write_process_id,
    )


def _write_process_id(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())


def waited_s() -> float:
    """Return how many seconds this process has waited for locks."""
    return _waited_s


def remove_lock(lock: BaseFileLock) -> None:
    """Remove the file of a lock, and release it. Who waits on the removed file notices that it has
    lost its name, and locks a new one.
    """
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def clear_stale_locks(snakemake_folder: Path) -> bool:
    """Remove the locks that a killed Snakemake left behind, if no other is alive here; return
    whether this is so.

    Snakemake locks by plain files, which outlive a `kill -9` or a power cut. Here every run also
    shares a lock that the system releases: a run that can have it for itself is the only one alive.
    UserError if the file system refuses files here, or the lock's file is damaged.
    """
    path, alone = snakemake_folder / "runs.lock", False
    try:
        snakemake_folder.mkdir(parents=True, exist_ok=True)
        running = ReadWriteLock(path)
        with suppress(Timeout), running.write_lock(blocking=False):
            shutil.rmtree(snakemake_folder / "locks", ignore_errors=True)
            alone = True
        running.acquire_read()
    except (OSError, sqlite3.DatabaseError) as error:
        todo = "remove it, if no other run is alive in this folder, and run again"
        raise disk_error(error, path) or UserError(
            "the lock of runs cannot be taken", where=path, found=error, todo=todo
        ) from error
    _held.append(running)
    return alone
