"""Folders of files and manifests: what they say, what damage is found, what a disk refuses."""

import errno
import gc
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from artifacts import fail_with, finished, full, names, write
from damage import flip_bit, keep_time
from freelunch.core import digest
from freelunch.core.artifact import MANIFEST, Artifact, check_belongs, fingerprint
from freelunch.core.artifact_writer import FINISHED_JOURNAL, JOURNAL, LOCK, ArtifactWriter
from freelunch.core.digest import check_sums, digest_once, file_digest, json_digest, write_sums
from freelunch.core.files import write_atomically, write_json
from freelunch.model.tensor_file import create_hidden
from refusals import refused

# --- What a finished folder says


def test_the_manifest_describes_every_file(tmp_path: Path) -> None:
    writer = ArtifactWriter(tmp_path / "a", "test", "fingerprint")
    writer.add_text("b", "käse", rows=3)
    writer.add("a", write("other"))
    assert "a" in writer and "c" not in writer
    assert writer.entry("b")["rows"] == 3
    made = writer.finish(loss=0.5)
    assert names(made.folder) == {"a", "b", FINISHED_JOURNAL, MANIFEST}
    read = Artifact(made.folder, "test")
    assert list(read.files) == ["a", "b"], "sorted, in whatever order they came"
    sha256 = hashlib.sha256("käse".encode()).hexdigest()
    assert read.files["b"] == {"sha256": sha256, "bytes": 5, "rows": 3}
    assert (read.kind, read.facts) == ("test", {"loss": 0.5})
    assert read.digest == file_digest(made.folder / MANIFEST) == made.digest
    read.verify()
    with pytest.raises(KeyError):
        made.path(MANIFEST)
    with refused(where=read.folder / MANIFEST, found="test", expected="masks"):
        Artifact(read.folder, "masks")


def test_equal_content_makes_equal_manifests(tmp_path: Path) -> None:
    one, two = finished(tmp_path / "one"), finished(tmp_path / "deeper" / "two")
    os.utime(two.path("one"), (0, 0))
    assert one.digest == two.digest
    assert finished(tmp_path / "three", loss=1).digest != one.digest
    assert json_digest({"a": 1, "b": {"c": [1, 2]}}) == json_digest({"b": {"c": [1, 2]}, "a": 1})
    assert len(set(map(json_digest, [[1, 2], [2, 1], 1, "1"]))) == 4


@pytest.mark.parametrize(
    "text", [None, "", "[]", '{"kind": "test", "fingerprint": "f"}', "\xff\0", "[" * 100_000, "0.4"]
)
def test_a_missing_damaged_or_altered_manifest(tmp_path: Path, text: str | None) -> None:
    path = finished(tmp_path, loss=0.5).folder / MANIFEST
    written = path.read_text()
    path.unlink()
    if text is not None:
        path.write_text(written.replace("0.5", text) if text == "0.4" else text)
    with refused(where=path, todo="run `make repair STUDY="):
        Artifact(tmp_path, "test")


@pytest.mark.parametrize(
    ("text", "found"),
    [(None, "no file"), ("", "0 bytes"), ("secon", "5 bytes"), ("Second", "another sha256")],
)
def test_a_file_that_is_not_the_one_of_the_manifest(
    tmp_path: Path, text: str | None, found: str
) -> None:
    path = finished(tmp_path).path("two")
    path.unlink()
    if text is not None:
        path.write_text(text)
    with refused(where=path, found=found, todo="run `make repair STUDY="):
        Artifact(tmp_path, "test").path("two")


def test_a_finished_study_is_checked_without_reading_what_did_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path / "a")
    made, read = Artifact(tmp_path / "a", "test"), []
    monkeypatch.setattr(digest, "file_digest", lambda path: (read.append(path.name), "0")[1])
    made.verify(anew=False)
    assert read == [], "what wrote a file knows its digest"
    (tmp_path / ".a.checked").write_text("damaged")
    with refused(found="another sha256"):
        made.verify(anew=False)
    assert read == ["one"], "without the cache, it is read"
    monkeypatch.undo()
    (tmp_path / ".a.checked").unlink()
    made.verify(anew=False)
    monkeypatch.setattr(digest, "file_digest", lambda path: read.append(path.name))
    made.verify(anew=False)
    assert read == ["one"], "and then known again"


def test_a_change_that_keeps_size_and_time_is_found_by_whoever_reads(tmp_path: Path) -> None:
    """As of a disk that loses a bit: no cheap check can see it."""
    path = finished(tmp_path).path("two")
    keep_time(path)
    made = Artifact(tmp_path, "test")
    made.path("one")
    for read in (lambda: made.path("two"), made.verify, made.verify):
        with refused(where=path, found="another sha256"):
            read()


def test_a_process_reads_a_large_file_once_under_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other, read = tmp_path / "one", tmp_path / "other", []
    monkeypatch.setattr(digest, "file_digest", lambda path: (read.append(path.name), "0")[1])
    path.write_bytes(bytes(2**20))
    os.link(path, other)
    assert digest_once(path) == digest_once(other) == "0" and read == ["one"]
    flip_bit(other)
    digest_once(path)
    assert read == ["one", "one"], "the change has another time"


def test_what_was_made_from_what(tmp_path: Path) -> None:
    model, other = finished(tmp_path / "model"), finished(tmp_path / "other", seed=1)
    masks = finished(tmp_path / "masks", model=model.digest, dense=None)
    check_belongs(masks, "model", model)
    check_belongs(masks, "dense", None)
    with refused(where=masks.folder, found=model.digest, expected=other.digest):
        check_belongs(masks, "model", other)
    with refused(where=masks.folder, found="model", expected="none"):
        check_belongs(masks, "model", None)
    with refused(where=masks.folder, found="dense None", expected=model.folder):
        check_belongs(masks, "dense", model)
    reference = fingerprint("code", {"a": 1, "b": [2]}, model, other)
    assert fingerprint("code", {"b": [2], "a": 1}, model, other) == reference
    others = [
        fingerprint("other", {"a": 1, "b": [2]}, model, other),
        fingerprint("code", {"a": 1, "b": [3]}, model, other),
        fingerprint("code", {"a": 1, "b": [2]}, other, model),
        fingerprint("code", {"a": 1, "b": [2]}, model),
    ]
    assert len({reference, *others}) == 5


def test_a_list_of_digests_has_those_of_all_files_and_of_no_other(tmp_path: Path) -> None:
    """One that lost lines would say nothing of some files."""
    names, path = ["a", "b"], tmp_path / "sums"
    for name in (*names, "c"):
        (tmp_path / name).write_text(name)
    write_sums(path, tmp_path, [tmp_path / name for name in names])
    check_sums(path, tmp_path, names)
    for wrong in (["a"], ["a", "b", "c"], ["a", "c"]):
        with refused(where=path):
            check_sums(path, tmp_path, wrong)
    check_sums(path, tmp_path, ["a"], others=True)
    (tmp_path / "a").write_text("edited")
    with refused(where=tmp_path / "a", found="sha256"):
        check_sums(path, tmp_path, names)


# --- Files that several folders share are stored once


def refuse_links(number: int) -> Callable[..., None]:
    def link(*_: object) -> None:
        raise full(number)

    return link


def test_links_store_a_file_once_and_make_it_read_only(tmp_path: Path) -> None:
    """An edit of a file with several names would change the others; replacing one does not."""
    source = finished(tmp_path / "source")
    assert source.path("one").stat().st_mode & 0o200
    writer = ArtifactWriter(tmp_path / "copy", "test", "fingerprint")
    writer.link("eins", source, "one", rows=3)
    writer.link("one", source, "one")
    writer.add("one", write("other"))
    copy = writer.finish()
    assert copy.path("eins").samefile(source.path("one"))
    assert copy.files["eins"] == {**source.files["one"], "rows": 3}
    assert not copy.path("eins").stat().st_mode & 0o222
    assert source.path("two").stat().st_mode & 0o200, "this one has one name"
    copy.verify()
    source.verify()


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_where_no_link_can_be_made_a_copy_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source = finished(tmp_path / "source")
    monkeypatch.setattr(os, "link", refuse_links(number))
    writer = ArtifactWriter(tmp_path / "copy", "test", "fingerprint")
    writer.link("one", source, "one")
    copy = writer.finish()
    assert not copy.path("one").samefile(source.path("one"))
    assert copy.files["one"] == source.files["one"]
    copy.verify()


def test_what_cannot_or_must_not_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = finished(tmp_path / "source")
    writer = ArtifactWriter(tmp_path / "copy", "test", "fingerprint")
    with monkeypatch.context() as patch, refused(where=tmp_path / "copy"):
        patch.setattr(os, "link", refuse_links(errno.EACCES))
        writer.link("one", source, "one")
    (source.folder / "one").write_text("First")
    with refused(where=source.folder / "one", found="another sha256"):
        writer.link("one", source, "one")
    assert "one" not in writer


# --- Single files, and disks that refuse


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


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (full(), "MB free"),
        (full(errno.EDQUOT), "MB free"),
        # As safetensors reports a full disk.
        (RuntimeError("I/O error: No space left on device (os error 28)"), "MB free"),
        (RuntimeError("IoError(Os { code: 28, kind: StorageFull })"), "MB free"),
        *((full(getattr(errno, name)), "") for name in ("EFBIG", "EROFS", "EACCES", "EIO")),
        (full(errno.EAGAIN), None),
        (OSError("(os error 281)"), None),
    ],
)
def test_what_a_disk_refuses_is_one_clear_error(
    tmp_path: Path, error: Exception, found: str | None
) -> None:
    writer = ArtifactWriter(tmp_path, "test", "fingerprint")
    writer.add("one", write("first"))
    todo = "run the same command again: finished files"
    expected = (
        pytest.raises(OSError, match=re.escape(str(error)))
        if found is None
        else refused(where=tmp_path, found=found, todo=todo)
    )
    with expected:
        writer.add("two", fail_with(error))
    assert names(tmp_path) == {"one", JOURNAL, LOCK}
    assert "one" in writer


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


SIZE = 100 * 1024
WRITES: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(b"x" * SIZE),
    "safetensors": lambda path: save_file({"x": torch.ones(SIZE // 4)}, path),
    "hidden states": lambda path: create_hidden(path, (1, 1, SIZE // 4), torch.float32),
}


@pytest.mark.parametrize("kind", WRITES)
def test_a_disk_that_is_really_full(small_disk: Path, kind: str) -> None:
    folder = small_disk / "a"

    def fill() -> Artifact:
        writer = ArtifactWriter(folder, "test", "fingerprint")
        for number in range(4):
            if f"file{number}" not in writer:
                writer.add(f"file{number}", WRITES[kind])
        return writer.finish()

    with refused(found="MB free"):
        fill()
    gc.collect()
    assert names(folder) == {"file0", "file1", JOURNAL, LOCK}
    stamp = (folder / "file0").stat().st_mtime_ns
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    made = fill()
    made.verify()
    assert len(made.files) == 4
    assert made.path("file0").stat().st_mtime_ns == stamp
