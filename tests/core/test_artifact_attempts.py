"""What interrupted attempts leave: no half files, and work that the next attempt goes on from."""

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from artifacts import fail_with, finished, names, write
from freelunch.core.artifact import MANIFEST, Artifact
from freelunch.core.artifact_writer import (
    JOURNAL,
    LOCK,
    ArtifactWriter,
    is_finished,
    is_left,
    keep_manifest,
)
from freelunch.core.code_digest import SCRIPTS
from freelunch.core.job_cost import Clock
from freelunch.core.lock import waited_s


def start(folder: Path, *numbers: int, of: str = "fingerprint", **options: Any) -> ArtifactWriter:
    """Return a writer with so many files, of work that may be divided.

    As it goes out of scope it lets go of its lock, like a process that dies.
    """
    writer = ArtifactWriter(folder, "test", of, **options)
    for number in numbers or (0, 1):
        if f"file{number}" not in writer:
            writer.add(f"file{number}", write(f"content {number}"), number=number)
    return writer


def again(folder: Path, of: str = "fingerprint", **options: Any) -> ArtifactWriter:
    """Return the writer of another attempt, which has written nothing yet."""
    return ArtifactWriter(folder, "test", of, **options)


def slow(text: str) -> Callable[[Path], object]:
    """Return a writer that takes a while."""
    return lambda path: (time.sleep(0.05), path.write_text(text))


# --- Interrupts


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupted_write_leaves_no_half_file(tmp_path: Path, error: BaseException) -> None:
    writer = again(tmp_path)
    writer.add("one", write("first"))
    with pytest.raises(type(error)):
        writer.add("two", fail_with(error))
    assert names(tmp_path) == {"one", JOURNAL, LOCK}
    assert "two" not in writer
    writer.add("two", write("second"))
    with pytest.raises(ValueError, match="Out of range float"):
        writer.finish(loss=float("nan"))
    assert MANIFEST not in names(tmp_path)
    assert writer.finish().digest == finished(tmp_path / "whole").digest


def test_an_attempt_goes_on_where_it_stopped_and_counts_what_that_took(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", 0, 1, 2).finish()
    for number in (0, 1):
        writer = again(tmp_path / "a")
        writer.add(f"file{number}", slow(f"content {number}"), number=number)
        del writer
        gc.collect()
    stamp = (tmp_path / "a" / "file0").stat().st_mtime_ns
    writer = start(tmp_path / "a", 2)
    assert "file0" in writer and writer.entry("file1")["number"] == 1
    resumed = writer.finish()
    assert (tmp_path / "a" / "file0").stat().st_mtime_ns == stamp
    assert resumed.digest == whole.digest
    assert resumed.spent.attempts == 2 and 0.1 <= resumed.spent.wall_s < 5


def run_python(code: str, folder: Path, *around: str) -> int:
    command = [*around, sys.executable, "-c", code, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    return subprocess.run(command, env=environment, check=False).returncode


def test_a_killed_process_loses_no_finished_file(tmp_path: Path) -> None:
    """A process that ends at once, in the middle of a file, without cleaning up."""
    code = """
import os, sys
from pathlib import Path
from freelunch.core.artifact_writer import ArtifactWriter

def die(path):
    path.write_text("half of")
    os._exit(9)

writer = ArtifactWriter(Path(sys.argv[1]), "test", "fingerprint")
writer.add("one", lambda path: path.write_text("first"))
writer.add("two", die)
"""
    assert run_python(code, tmp_path / "a") == 9
    assert names(tmp_path / "a") == {"one", ".two.part", JOURNAL, LOCK}
    writer = again(tmp_path / "a")
    assert "one" in writer
    assert names(tmp_path / "a") == {"one", JOURNAL, LOCK}
    writer.add("two", write("second"))
    assert writer.finish().digest == finished(tmp_path / "whole").digest


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    """safetensors by itself makes files that only their owner can read."""
    before = os.umask(0o002)
    try:
        writer = again(tmp_path)
        writer.add("one", lambda path: save_file({"x": torch.ones(1)}, path))
        writer.add_text("two", "text")
        writer.finish()
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o664}


def test_a_journal_cut_short_anywhere(tmp_path: Path) -> None:
    start(tmp_path / "a")
    journal = (tmp_path / "a" / JOURNAL).read_bytes()
    lines = journal.splitlines(keepends=True)
    assert len(lines) == 3
    ends = [len(b"".join(lines[:number])) for number in range(1, 4)]
    near = {end + step for end in ends for step in (-2, -1, 0, 1)}
    for cut in sorted({*range(0, len(journal), 17), *near}):
        folder = tmp_path / f"cut{cut}"
        start(folder)
        (folder / JOURNAL).write_bytes(journal[:cut])
        writer = again(folder)
        complete = sum(cut >= end for end in ends)
        kept = {f"file{number}" for number in range(complete - 1)}
        assert names(folder) == {*kept, JOURNAL, LOCK}, f"cut after {cut} bytes"
        for number in range(2):
            assert (f"file{number}" in writer) is (f"file{number}" in kept)
        writer.release()
        assert start(folder).finish().files.keys() == {"file0", "file1"}


# What makes an attempt's files worth nothing.
SPOILS: dict[str, Callable[[Path], object]] = {
    # As a power cut may leave a journal.
    "altered line": lambda folder: (folder / JOURNAL).write_text(
        (folder / JOURNAL).read_text().replace('"number": 1', '"number": 7')
    ),
    **{
        line[:6]: lambda folder, line=line: (folder / JOURNAL).open("a").write(line)
        for line in ("\0" * 40 + "\n", "no JSON\n", "[]\n", '{"name": "file0"}\n')
    },
    "other files": lambda folder: (
        (folder / "file0").write_text("content X"),
        (folder / "file1").unlink(),
    ),
    "another fingerprint": lambda folder: (folder / "stranger" / "within").mkdir(parents=True),
}


@pytest.mark.parametrize("spoilt", SPOILS)
def test_what_is_not_what_this_job_made_is_made_anew(tmp_path: Path, spoilt: str) -> None:
    start(tmp_path)
    SPOILS[spoilt](tmp_path)
    writer = again(tmp_path, "new" if spoilt == "another fingerprint" else "fingerprint")
    assert "file0" not in writer and "file1" not in writer
    assert names(tmp_path) == {JOURNAL, LOCK}


# --- What other jobs made


@pytest.mark.parametrize("keep_journal", [False, True])
def test_a_folder_without_its_manifest_is_made_anew(tmp_path: Path, keep_journal: bool) -> None:
    """As Snakemake leaves it before it runs a job again."""
    finished(tmp_path)
    (tmp_path / MANIFEST).unlink()
    writer = again(tmp_path, keep_journal=keep_journal)
    assert writer.finished is None and "one" not in writer
    assert names(tmp_path) == {JOURNAL, LOCK}


@pytest.mark.parametrize("of", ["fingerprint", "another"])
def test_what_snakemake_did_not_see_end_is_taken_over(tmp_path: Path, of: str) -> None:
    """Unless it is not what the job would make."""
    finished(tmp_path, loss=0.5)
    keep_manifest(tmp_path)
    assert MANIFEST not in names(tmp_path)
    # A second call, and one for a folder that is not there, change nothing.
    keep_manifest(tmp_path)
    keep_manifest(tmp_path / "missing")
    writer = again(tmp_path, of)
    assert (writer.finished, "one" in writer) == (
        ({"loss": 0.5}, True) if of == "fingerprint" else (None, False)
    )
    assert names(tmp_path) == {JOURNAL, LOCK, *(("one", "two") if "one" in writer else ())}


@pytest.mark.parametrize("changed", ["fingerprint", "kind", "manifest", "file", "nothing"])
def test_what_another_job_finished_is_taken_over(tmp_path: Path, changed: str) -> None:
    made = finished(tmp_path, loss=0.5)
    kind = "another" if changed == "kind" else "test"
    of = "another" if changed == "fingerprint" else "fingerprint"
    if changed == "manifest":
        (tmp_path / MANIFEST).write_text("{")
    if changed == "file":
        (tmp_path / "two").write_text("edited")
    writer = ArtifactWriter(tmp_path, kind, of)
    assert ("one" in writer) is (changed != "fingerprint")
    assert ("two" in writer) is (changed not in ("fingerprint", "file"))
    assert writer.finished == ({"loss": 0.5} if changed == "nothing" else None)
    assert MANIFEST not in names(tmp_path), "it could be interrupted now"
    if changed == "nothing":
        same = writer.finish(**writer.finished)
        assert same.digest == made.digest
        assert same.spent.attempts == 0 and same.spent.host_bytes > 0


def test_a_second_writer_waits_for_the_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A job whose Snakemake was killed may still be at work when the next run starts."""
    first = again(tmp_path)
    first.add("one", slow("first"))
    opened = threading.Event()
    taken: list[Artifact] = []
    waited_before = waited_s()

    def second() -> None:
        writer = again(tmp_path)
        opened.set()
        taken.append(writer.finish(**writer.finished))

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    assert not opened.wait(0.3), "two processes write into one folder"
    assert f"waiting for process {os.getpid()}" in caplog.text
    made = first.finish(loss=0.5)
    assert opened.wait(10)
    thread.join()
    assert taken[0].digest == made.digest
    # What the first one spent on it is what it cost; the second only waited.
    assert taken[0].spent.wall_s >= 0.05 and taken[0].spent.attempts == 0
    assert waited_s() - waited_before >= 0.3


# --- Work that was divided in another way


def test_only_the_same_work_is_taken_over(tmp_path: Path) -> None:
    for of in ("fingerprint", "another"):
        made = start(tmp_path / of, of=of).finish()
        made.path("file1").chmod(0o644)
        made.path("file1").write_text("content X")
        writer = again(tmp_path / f"beside {of}", others=[made.folder])
        assert writer.find("file0") is (of == "fingerprint")
        assert not writer.find("file1"), "it is not the file that was made"
    # Nor is anything from the folder itself, which is to be made anew.
    (tmp_path / "fingerprint" / MANIFEST).unlink()
    itself = tmp_path / "fingerprint"
    assert not again(itself, others=[itself]).find("file0")


# --- Folders that are filled for another job


def test_a_folder_that_was_left_is_finished_by_its_own_job(tmp_path: Path) -> None:
    spent = start(tmp_path / "left").leave()
    assert names(tmp_path / "left") == {"file0", "file1", JOURNAL}
    assert is_left(tmp_path / "left", "fingerprint") and not is_left(tmp_path / "left", "other")
    assert not is_finished(tmp_path / "left", "fingerprint")
    writer = again(tmp_path / "left")
    assert writer.left
    made = writer.finish()
    # Nothing was interrupted.
    assert made.spent.attempts == 0
    assert (made.spent.wall_s, made.spent.cpu_s) == (spent.wall_s, spent.cpu_s)
    assert is_finished(tmp_path / "left", "fingerprint")
    whole = start(tmp_path / "whole")
    assert not whole.left
    assert whole.finish().digest == made.digest


def test_a_folder_that_was_left_and_is_damaged_is_no_longer_left(tmp_path: Path) -> None:
    start(tmp_path).leave()
    (tmp_path / "file1").write_text("something else")
    writer = again(tmp_path)
    assert not writer.left and "file0" in writer and "file1" not in writer
    writer.release()
    assert not is_left(tmp_path, "fingerprint")
    # It did not get to leave, so this was an interrupted attempt.
    writer = again(tmp_path)
    assert "file0" in writer
    writer.leave()
    assert again(tmp_path).finish().spent.attempts == 1


def test_a_folder_of_another_job_is_filled_only_while_nobody_has_or_does(tmp_path: Path) -> None:
    """The other job may be over: it would not write a manifest that was removed."""

    def open_(name: str) -> ArtifactWriter | None:
        return ArtifactWriter.of_another_job(tmp_path / name, "test", "fingerprint", Clock())

    working = again(tmp_path / "working")
    start(tmp_path / "left").leave()
    finished(tmp_path / "finished")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert [open_(name) for name in ("working", "left", "finished")] == [None, None, None]
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    working.release()
    start(tmp_path / "interrupted")
    for name in ("working", "interrupted", "new"):
        writer = open_(name)
        assert writer is not None and ("file0" in writer) == (name == "interrupted")
        writer.add("file0", write("content 0"))
        assert writer.release() == writer.leave()
