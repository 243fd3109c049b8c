"""Folders of files and manifests: whole or not there, whatever happens in between."""

import errno
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from freelunch.core import artifact, checked
from freelunch.core.artifact import (
    JOURNAL,
    LOCK,
    MANIFEST,
    Artifact,
    ArtifactWriter,
    check_belongs,
    fingerprint,
    scratch_folder,
    write_atomically,
    write_json,
)
from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.model.hidden_file import create_hidden

SCRIPTS = Path(artifact.__file__).parents[2]


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


def start(folder: Path, files: int = 2, of: str = "fingerprint") -> None:
    """Leave an attempt that was interrupted after so many files."""
    writer = ArtifactWriter(folder, "test", of)
    for number in range(files):
        writer.add(f"file{number}", write(f"content {number}"), number=number)
    # As it goes out of scope it lets go of its lock, like a process that dies.


def finished(folder: Path, **facts: object) -> Artifact:
    writer = ArtifactWriter(folder, "test", "fingerprint")
    writer.add("one", write("first"))
    writer.add("two", write("second"))
    return writer.finish(**facts)


# --- What a finished folder says


def test_the_manifest_describes_every_file(tmp_path: Path) -> None:
    writer = ArtifactWriter(tmp_path / "a", "test", "fingerprint")
    writer.add_text("b", "käse", rows=3)
    writer.add("a", write("other"))
    assert "a" in writer and "c" not in writer
    assert writer.entry("b")["rows"] == 3
    made = writer.finish(loss=0.5)
    assert names(made.folder) == {"a", "b", MANIFEST}
    read = Artifact(made.folder, "test")
    assert list(read.files) == ["a", "b"], "sorted, in whatever order they came"
    entry = {"sha256": file_digest(made.path("b")), "bytes": 5, "rows": 3}
    assert read.files["b"] == entry
    assert (read.kind, read.facts) == ("test", {"loss": 0.5})
    assert read.digest == file_digest(made.folder / MANIFEST) == made.digest
    read.verify()


def test_equal_content_makes_equal_manifests(tmp_path: Path) -> None:
    one, two = finished(tmp_path / "one"), finished(tmp_path / "deeper" / "two")
    os.utime(two.path("one"), (0, 0))
    assert one.digest == two.digest
    assert finished(tmp_path / "three", loss=1).digest != one.digest


def test_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no manifest"):
        Artifact(tmp_path, "test")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"kind": "test", "fingerprint": "f"}', "\xff\0", "[" * 100_000]
)
def test_a_damaged_manifest(tmp_path: Path, text: str) -> None:
    finished(tmp_path)
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(UserError, match="the manifest is damaged") as error:
        Artifact(tmp_path, "test")
    assert "run `make repair STUDY=" in str(error.value)


def test_an_altered_manifest(tmp_path: Path) -> None:
    finished(tmp_path, loss=0.5)
    path = tmp_path / MANIFEST
    path.write_text(path.read_text().replace("0.5", "0.4"))
    with pytest.raises(UserError, match="the manifest is damaged"):
        Artifact(tmp_path, "test")


def test_another_kind(tmp_path: Path) -> None:
    finished(tmp_path)
    with pytest.raises(UserError, match="wrong kind of folder") as error:
        Artifact(tmp_path, "masks")
    assert "found:    test" in str(error.value) and "expected: masks" in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    finished(tmp_path).path("two").unlink()
    with pytest.raises(UserError, match="a file differs from what the manifest says") as error:
        Artifact(tmp_path, "test")
    assert str(tmp_path / "two") in str(error.value) and "no file" in str(error.value)


@pytest.mark.parametrize("text", ["", "secon", "second and more"])
def test_a_file_of_another_size(tmp_path: Path, text: str) -> None:
    finished(tmp_path).path("two").write_text(text)
    with pytest.raises(UserError, match="a file differs from what the manifest says") as error:
        Artifact(tmp_path, "test")
    assert f"{len(text)} bytes" in str(error.value) and "expected: 6 bytes" in str(error.value)


def test_a_file_of_equal_size_and_other_content(tmp_path: Path) -> None:
    finished(tmp_path).path("two").write_text("Second")
    with pytest.raises(UserError, match="content differs from what the manifest says") as error:
        Artifact(tmp_path, "test")
    assert str(tmp_path / "two") in str(error.value)
    assert "run `make repair STUDY=" in str(error.value)


def test_a_file_that_did_not_change_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path / "a")
    read: list[str] = []
    monkeypatch.setattr(checked, "file_digest", lambda path: (read.append(path.name), "0")[1])
    Artifact(tmp_path / "a", "test")
    assert read == [], "what wrote a file knows its digest"
    (tmp_path / ".a.checked").write_text("damaged")
    with pytest.raises(UserError, match="content differs"):
        Artifact(tmp_path / "a", "test")
    assert read == ["one"], "without the cache, it is read"
    monkeypatch.undo()
    (tmp_path / ".a.checked").unlink()
    Artifact(tmp_path / "a", "test")
    monkeypatch.setattr(checked, "file_digest", lambda path: read.append(path.name))
    Artifact(tmp_path / "a", "test")
    assert read == ["one"], "and then known again"


def test_a_change_that_keeps_size_and_time_is_found_when_all_is_read(tmp_path: Path) -> None:
    """As of a disk that loses a bit: no cheap check can see it."""
    made = finished(tmp_path)
    stamp = made.path("two").stat()
    made.path("two").write_text("Second")
    os.utime(made.path("two"), ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(UserError, match="content differs from what the manifest says"):
        Artifact(tmp_path, "test").verify()
    with pytest.raises(UserError, match="content differs from what the manifest says"):
        Artifact(tmp_path, "test")


def test_only_files_of_the_manifest_have_a_path(tmp_path: Path) -> None:
    made = finished(tmp_path)
    (tmp_path / "stranger").touch()
    with pytest.raises(KeyError):
        made.path("stranger")


# --- Interrupts


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupted_write_leaves_no_half_file(tmp_path: Path, error: BaseException) -> None:
    writer = ArtifactWriter(tmp_path, "test", "fingerprint")
    writer.add("one", write("first"))
    with pytest.raises(type(error)):
        writer.add("two", fail_with(error))
    assert names(tmp_path) == {"one", JOURNAL, LOCK}
    assert "two" not in writer
    writer.add("two", write("second"))
    assert writer.finish().digest == finished(tmp_path / "whole").digest


def test_an_attempt_goes_on_where_it_stopped(tmp_path: Path) -> None:
    start(tmp_path, files=2)
    stamp = (tmp_path / "file0").stat().st_mtime_ns
    writer = ArtifactWriter(tmp_path, "test", "fingerprint")
    assert "file0" in writer and "file1" in writer
    assert writer.entry("file1")["number"] == 1
    writer.add("file2", write("content 2"), number=2)
    resumed = writer.finish()
    assert (tmp_path / "file0").stat().st_mtime_ns == stamp
    start(tmp_path / "whole", files=3)
    assert (
        resumed.digest == ArtifactWriter(tmp_path / "whole", "test", "fingerprint").finish().digest
    )


def test_a_killed_process_loses_no_finished_file(tmp_path: Path) -> None:
    """A process that ends at once, in the middle of a file, without cleaning up."""
    code = """
import os, sys
from pathlib import Path
from freelunch.core.artifact import ArtifactWriter

def die(path):
    path.write_text("half of")
    os._exit(9)

writer = ArtifactWriter(Path(sys.argv[1]), "test", "fingerprint")
writer.add("one", lambda path: path.write_text("first"))
writer.add("two", die)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(SCRIPTS)}, check=False)
    assert done.returncode == 9
    assert names(tmp_path / "a") == {"one", ".two.part", JOURNAL, LOCK}
    writer = ArtifactWriter(tmp_path / "a", "test", "fingerprint")
    assert "one" in writer
    assert names(tmp_path / "a") == {"one", JOURNAL, LOCK}
    writer.add("two", write("second"))
    assert writer.finish().digest == finished(tmp_path / "whole").digest


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
        writer = ArtifactWriter(folder, "test", "fingerprint")
        complete = sum(cut >= end for end in ends)
        kept = {f"file{number}" for number in range(complete - 1)}
        assert names(folder) == {*kept, JOURNAL, LOCK}, f"cut after {cut} bytes"
        for number in range(2):
            name = f"file{number}"
            assert (name in writer) is (name in kept)
            if name not in writer:
                writer.add(name, write(f"content {number}"), number=number)
        assert writer.finish().files.keys() == {"file0", "file1"}


def test_an_altered_line_of_a_journal_is_worth_nothing(tmp_path: Path) -> None:
    start(tmp_path)
    journal = (tmp_path / JOURNAL).read_text()
    (tmp_path / JOURNAL).write_text(journal.replace('"number": 1', '"number": 7'))
    assert "file0" not in ArtifactWriter(tmp_path, "test", "fingerprint")


@pytest.mark.parametrize("line", ["\0" * 40 + "\n", "no JSON\n", "[]\n", '{"name": "file0"}\n'])
def test_a_journal_with_a_damaged_line_is_worth_nothing(tmp_path: Path, line: str) -> None:
    """As a power cut may leave it."""
    start(tmp_path)
    with (tmp_path / JOURNAL).open("a") as journal:
        journal.write(line)
    writer = ArtifactWriter(tmp_path, "test", "fingerprint")
    assert names(tmp_path) == {JOURNAL, LOCK}
    assert "file0" not in writer


def test_a_file_that_changed_since_is_made_again(tmp_path: Path) -> None:
    start(tmp_path)
    (tmp_path / "file0").write_text("content X")
    (tmp_path / "file1").unlink()
    writer = ArtifactWriter(tmp_path, "test", "fingerprint")
    assert "file0" not in writer and "file1" not in writer
    assert names(tmp_path) == {JOURNAL, LOCK}


def test_another_fingerprint_discards(tmp_path: Path) -> None:
    start(tmp_path, of="old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "stranger").touch()
    writer = ArtifactWriter(tmp_path, "test", "new")
    assert names(tmp_path) == {JOURNAL, LOCK}
    writer.add("file0", write("content 0"))
    del writer
    gc.collect()
    assert "file0" in ArtifactWriter(tmp_path, "test", "new")


def test_a_finished_folder_is_made_anew(tmp_path: Path) -> None:
    finished(tmp_path)
    writer = ArtifactWriter(tmp_path, "test", "fingerprint")
    assert "one" not in writer
    assert names(tmp_path) == {JOURNAL, LOCK}


def test_a_second_writer_waits_for_the_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A job whose Snakemake was killed may still be at work when the next run starts."""
    first = ArtifactWriter(tmp_path, "test", "fingerprint")
    first.add("one", write("first"))
    opened = threading.Event()

    def second() -> None:
        ArtifactWriter(tmp_path, "test", "fingerprint")
        opened.set()

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    assert not opened.wait(0.3), "two processes write into one folder"
    assert f"waiting for process {os.getpid()}" in caplog.text
    first.finish()
    assert opened.wait(10)
    thread.join()


def test_a_second_scratch_folder_waits_for_the_first(tmp_path: Path) -> None:
    """Neither removes what the other works on."""
    entered, leave = threading.Event(), threading.Event()

    def second() -> None:
        with scratch_folder(tmp_path / ".scratch") as scratch:
            assert not list(scratch.iterdir())
            entered.set()
            leave.wait(10)

    with scratch_folder(tmp_path / ".scratch") as scratch:
        (scratch / "mine").touch()
        thread = threading.Thread(target=second, daemon=True)
        thread.start()
        assert not entered.wait(0.8) and (scratch / "mine").exists()
    assert entered.wait(10) and (tmp_path / ".scratch").is_dir()
    leave.set()
    thread.join()
    assert names(tmp_path) == set()


def test_what_an_interrupted_attempt_spent_is_counted(tmp_path: Path) -> None:
    writer = ArtifactWriter(tmp_path, "test", "fingerprint")
    writer.add("one", lambda path: (time.sleep(0.05), path.write_text("first")))
    del writer
    gc.collect()
    writer = ArtifactWriter(tmp_path, "test", "fingerprint")
    writer.add("two", lambda path: (time.sleep(0.05), path.write_text("second")))
    del writer
    gc.collect()
    artifact = ArtifactWriter(tmp_path, "test", "fingerprint").finish()
    assert artifact.spent.attempts == 2
    assert 0.1 <= artifact.spent.wall_s < 5


# --- Work that was divided in another way


def half_done(folder: Path, *numbers: int, of: str = "fingerprint") -> ArtifactWriter:
    """Return a writer with some files, of work that may be divided."""
    writer = ArtifactWriter(folder, "test", of, others=[])
    for number in numbers:
        writer.add(f"file{number}", write(f"content {number}"), number=number)
    return writer


def test_files_of_another_division_are_taken_over_with_what_they_cost(tmp_path: Path) -> None:
    one = ArtifactWriter(tmp_path / "1-of-1", "test", "fingerprint", others=[])
    one.add("file0", lambda path: (time.sleep(0.05), path.write_text("content 0")), number=0)
    whole = one.finish()
    half_done(tmp_path / "1-of-3", 1)
    gc.collect()
    folders = sorted(tmp_path.glob("*-of-*"))
    writer = ArtifactWriter(tmp_path / "1-of-2", "test", "fingerprint", others=folders)
    assert writer.find("file0") and writer.find("file1") and not writer.find("file2")
    assert "file2" not in writer
    taken = writer.finish()
    assert taken.files["file0"] == whole.files["file0"] and taken.files["file1"]["number"] == 1
    assert taken.path("file0").samefile(whole.path("file0"))
    assert 0.05 <= taken.spent.wall_s < 5 and taken.spent.host_bytes > 1_000_000
    assert taken.spent.attempts == 0
    # And from there once more, after the first division was removed.
    shutil.rmtree(whole.folder)
    again = ArtifactWriter(tmp_path / "1-of-4", "test", "fingerprint", others=[taken.folder])
    assert again.find("file0")
    assert again.finish().spent.wall_s >= 0.05


@pytest.mark.parametrize("of", ["fingerprint", "another"])
def test_only_the_same_work_is_taken_over(tmp_path: Path, of: str) -> None:
    made = half_done(tmp_path / "1-of-1", 0, 1, of=of).finish()
    edited = made.path("file1")
    edited.chmod(0o644)
    edited.write_text("content X")
    writer = ArtifactWriter(tmp_path / "1-of-2", "test", "fingerprint", others=[made.folder])
    assert writer.find("file0") is (of == "fingerprint")
    assert not writer.find("file1"), "it is not the file that was made"


def test_a_finished_folder_takes_nothing_over_from_itself(tmp_path: Path) -> None:
    half_done(tmp_path, 0).finish()
    (tmp_path / MANIFEST).unlink()
    assert not ArtifactWriter(tmp_path, "test", "fingerprint", others=[tmp_path]).find("file0")


def test_facts_that_are_no_json_number(tmp_path: Path) -> None:
    writer = ArtifactWriter(tmp_path, "test", "fingerprint")
    with pytest.raises(ValueError, match="Out of range float"):
        writer.finish(loss=float("nan"))
    assert not (tmp_path / MANIFEST).exists()


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    """safetensors by itself makes files that only their owner can read."""
    code = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from freelunch.core.artifact import ArtifactWriter

writer = ArtifactWriter(Path(sys.argv[1]), "test", "fingerprint")
writer.add("one", lambda path: save_file({"x": torch.ones(1)}, path))
writer.add_text("two", "text")
writer.finish()
"""
    for umask, mode in (("022", 0o644), ("002", 0o664), ("077", 0o600)):
        folder = tmp_path / umask
        command = ["sh", "-c", f'umask {umask}; exec "$@"', "sh", sys.executable, "-c", code]
        environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
        subprocess.run([*command, str(folder)], env=environment, check=True)
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {mode}


# --- A full disk


def full(number: int = errno.ENOSPC) -> OSError:
    return OSError(number, os.strerror(number))


class _TextOnly(Exception):
    """As safetensors reports a full disk."""


@pytest.mark.parametrize(
    "error",
    [
        full(),
        full(errno.EDQUOT),
        _TextOnly("I/O error: No space left on device (os error 28)"),
        _TextOnly("IoError(Os { code: 28, kind: StorageFull })"),
        _TextOnly("I/O error: Disk quota exceeded (os error 122)"),
    ],
)
def test_a_full_disk_is_one_clear_error(tmp_path: Path, error: Exception) -> None:
    writer = ArtifactWriter(tmp_path, "test", "fingerprint")
    writer.add("one", write("first"))
    with pytest.raises(UserError, match="no space left on the device") as caught:
        writer.add("two", fail_with(error))
    message = str(caught.value)
    assert str(tmp_path) in message and "MB free" in message
    assert "run the same command again" in message
    assert names(tmp_path) == {"one", JOURNAL, LOCK}
    assert "one" in writer


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EFBIG, "larger than this file system"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "the disk cannot be read or written"),
    ],
)
def test_what_a_disk_refuses_is_one_clear_error(tmp_path: Path, number: int, said: str) -> None:
    writer = ArtifactWriter(tmp_path, "test", "fingerprint")
    with pytest.raises(UserError, match=said) as caught:
        writer.add("one", fail_with(full(number)))
    assert str(tmp_path) in str(caught.value)
    assert "run the same command again: finished files are kept" in str(caught.value)


@pytest.mark.parametrize("error", [full(errno.EAGAIN), OSError("(os error 281)")])
def test_other_errors_are_not_a_full_disk(tmp_path: Path, error: OSError) -> None:
    writer = ArtifactWriter(tmp_path, "test", "fingerprint")
    with pytest.raises(OSError, match=re.escape(str(error))):
        writer.add("one", fail_with(error))
    assert names(tmp_path) == {JOURNAL, LOCK}


def test_a_full_disk_at_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ArtifactWriter(tmp_path, "test", "fingerprint")
    writer.add("one", write("first"))
    writer.add("two", write("second"))
    write_bytes = Path.write_bytes

    def refuse(path: Path, content: bytes) -> int:
        write_bytes(path, content[:5])
        raise full()

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UserError, match="no space left"):
        writer.finish()
    monkeypatch.undo()
    assert names(tmp_path) == {"one", "two", JOURNAL, LOCK}
    del writer
    gc.collect()
    resumed = ArtifactWriter(tmp_path, "test", "fingerprint")
    assert "one" in resumed and "two" in resumed
    assert resumed.finish().digest == finished(tmp_path / "whole").digest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["bytes", "safetensors", "hidden states"])
def test_a_disk_that_is_really_full(small_disk: Path, kind: str) -> None:
    folder = small_disk / "a"
    size = 100 * 1024
    shape = (1, 1, size // 4)
    writes: dict[str, Callable[[Path], object]] = {
        "bytes": lambda path: path.write_bytes(b"x" * size),
        "safetensors": lambda path: save_file({"x": torch.ones(size // 4)}, path),
        "hidden states": lambda path: create_hidden(path, shape, torch.float32),
    }

    def fill() -> Artifact:
        writer = ArtifactWriter(folder, "test", "fingerprint")
        for number in range(4):
            if f"file{number}" not in writer:
                writer.add(f"file{number}", writes[kind])
        return writer.finish()

    with pytest.raises(UserError, match="no space left on the device"):
        fill()
    gc.collect()
    assert names(folder) == {"file0", "file1", JOURNAL, LOCK}
    stamp = (folder / "file0").stat().st_mtime_ns
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    made = fill()
    made.verify()
    assert len(made.files) == 4
    assert made.path("file0").stat().st_mtime_ns == stamp


# --- Links


def test_links_store_a_file_once(tmp_path: Path) -> None:
    source = finished(tmp_path / "source")
    writer = ArtifactWriter(tmp_path / "copy", "test", "fingerprint")
    writer.link("eins", source, "one", rows=3)
    copy = writer.finish()
    assert copy.path("eins").stat().st_ino == source.path("one").stat().st_ino
    assert copy.files["eins"] == {**source.files["one"], "rows": 3}
    copy.verify()


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_where_no_link_can_be_made_a_copy_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source = finished(tmp_path / "source")

    def refuse(*_: object) -> None:
        raise full(number)

    monkeypatch.setattr(os, "link", refuse)
    writer = ArtifactWriter(tmp_path / "copy", "test", "fingerprint")
    writer.link("one", source, "one")
    copy = writer.finish()
    assert copy.path("one").stat().st_ino != source.path("one").stat().st_ino
    assert copy.files["one"] == source.files["one"]
    copy.verify()


def test_a_link_that_fails_for_another_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = finished(tmp_path / "source")

    def refuse(*_: object) -> None:
        raise full(errno.EACCES)

    monkeypatch.setattr(os, "link", refuse)
    writer = ArtifactWriter(tmp_path / "copy", "test", "fingerprint")
    with pytest.raises(UserError, match="permission denied"):
        writer.link("one", source, "one")
    assert "one" not in writer


def test_a_file_with_several_names_is_read_only(tmp_path: Path) -> None:
    source = finished(tmp_path / "source")
    assert source.path("one").stat().st_mode & 0o200
    writer = ArtifactWriter(tmp_path / "copy", "test", "fingerprint")
    writer.link("one", source, "one")
    copy = writer.finish()
    assert not copy.path("one").stat().st_mode & 0o222
    assert source.path("two").stat().st_mode & 0o200, "this one has one name"


def test_a_damaged_file_is_not_linked(tmp_path: Path) -> None:
    source = finished(tmp_path / "source")
    (tmp_path / "source" / "one").write_text("First")
    writer = ArtifactWriter(tmp_path / "copy", "test", "fingerprint")
    with pytest.raises(UserError, match="content differs") as caught:
        writer.link("one", source, "one")
    assert str(tmp_path / "source" / "one") in str(caught.value)
    assert "one" not in writer


def test_a_linked_file_can_be_replaced_without_the_other(tmp_path: Path) -> None:
    """Replacing gives the name to a new file, so the source keeps its content."""
    source = finished(tmp_path / "source")
    writer = ArtifactWriter(tmp_path / "copy", "test", "fingerprint")
    writer.link("one", source, "one")
    writer.add("one", write("other"))
    writer.finish()
    source.verify()


# --- What was made from what


def test_check_belongs(tmp_path: Path) -> None:
    model, other = finished(tmp_path / "model"), finished(tmp_path / "other", seed=1)
    masks = finished(tmp_path / "masks", model=model.digest, dense=None)
    check_belongs(masks, "model", model)
    check_belongs(masks, "dense", None)
    with pytest.raises(UserError, match="this was made from a different artifact: model") as error:
        check_belongs(masks, "model", other)
    message = str(error.value)
    assert model.digest in message and other.digest in message
    assert str(masks.folder) in message and str(other.folder) in message
    with pytest.raises(UserError, match="made from a different artifact: model") as error:
        check_belongs(masks, "model", None)
    assert "expected: none" in str(error.value)
    with pytest.raises(UserError, match="made from a different artifact: dense"):
        check_belongs(masks, "dense", model)


def test_a_fingerprint_covers_code_settings_and_inputs(tmp_path: Path) -> None:
    one, two = finished(tmp_path / "one"), finished(tmp_path / "two", seed=1)
    reference = fingerprint("code", {"a": 1, "b": [2]}, one, two)
    assert fingerprint("code", {"b": [2], "a": 1}, one, two) == reference
    others = [
        fingerprint("other", {"a": 1, "b": [2]}, one, two),
        fingerprint("code", {"a": 1, "b": [3]}, one, two),
        fingerprint("code", {"a": 1, "b": [2]}, two, one),
        fingerprint("code", {"a": 1, "b": [2]}, one),
    ]
    assert len({reference, *others}) == 5


# --- Single files


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deeper" / "record.json"
    write_json(path, {"loss": 1})
    assert json.loads(path.read_text()) == {"loss": 1}
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"loss": float("inf")})

    def refuse(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert json.loads(path.read_text()) == {"loss": 1}
    assert names(path.parent) == {"record.json"}
