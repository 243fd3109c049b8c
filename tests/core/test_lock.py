"""Locks of folders and of runs: they exclude, and end with the process that holds them."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from freelunch.core import lock
from freelunch.core.code_digest import SCRIPTS
from freelunch.core.lock import lock_if_free, remove_lock, wait_for_lock
from refusals import refused


@contextmanager
def process(call: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a process that makes one call and then waits to be killed."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom freelunch.core.lock import *\n"
        f"lock = {call}(*map(Path, sys.argv[1:]))\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None and started.stdout.readline() == "ready\n"
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def test_a_lock_ends_with_its_process_however_it_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "folder" / ".lock"
    taken = threading.Event()

    def wait() -> None:
        remove_lock(wait_for_lock(path))
        taken.set()

    with process("wait_for_lock", path) as holder:
        assert lock_if_free(path) is None, "this one does not wait"
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert not taken.wait(0.7), "two processes hold one lock"
        assert f"{path.parent}: waiting for process {holder.pid}" in caplog.text
        holder.send_signal(signal.SIGKILL)
        assert taken.wait(10)
    thread.join()
    assert not path.exists()
    remove_lock(lock_if_free(path))
    assert not path.exists()


def test_who_waits_for_a_removed_lock_takes_a_new_one(tmp_path: Path) -> None:
    """The file may be removed between a waiting process's opening and its locking it."""
    path = tmp_path / ".lock"
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            held = wait_for_lock(path)
            inside += 1
            most = max(most, inside)
            inside -= 1
            remove_lock(held)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 1 and not path.exists()


def clears(folder: Path) -> bool:
    """Return whether a new run takes the locks it finds for stale."""
    locks = folder / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    (locks / "0.output.lock").touch()
    with process("clear_stale_locks", folder):
        return not locks.exists()


def test_snakemakes_locks_are_stale_only_if_no_run_is_alive(tmp_path: Path) -> None:
    """Also not while the run that came second is alive and the first has ended."""
    folder = tmp_path / ".snakemake"
    assert clears(folder), "nothing else runs"
    with process("clear_stale_locks", folder) as first:
        assert not clears(folder)
        with process("clear_stale_locks", folder) as second:
            first.kill()
            first.wait()
            assert not clears(folder), "the second run lost its lock when the first ended"
            second.send_signal(signal.SIGKILL)
            second.wait()
            assert clears(folder)


def test_a_lock_of_runs_that_cannot_be_taken_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs.lock").write_bytes(bytes(range(256)) * 32)
    with refused(where=tmp_path / "runs.lock", todo="remove it"):
        lock.clear_stale_locks(tmp_path)

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(lock, "ReadWriteLock", refuse)
    with refused(where=tmp_path / "runs.lock", todo="mount it writable"):
        lock.clear_stale_locks(tmp_path)
