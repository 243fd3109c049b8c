"""A disk that is full, or refuses a write, is one clear error."""

import errno
import gc
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from artifacts import fail_with, finished, full, names, write
from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import JOURNAL, LOCK, ArtifactWriter
from freelunch.model.hidden_file import create_hidden
from refusals import refused


class _TextOnly(Exception):
    """As safetensors reports a full disk."""


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (full(), "MB free"),
        (full(errno.EDQUOT), "MB free"),
        (_TextOnly("I/O error: No space left on device (os error 28)"), "MB free"),
        (_TextOnly("IoError(Os { code: 28, kind: StorageFull })"), "MB free"),
        *((full(getattr(errno, name)), "") for name in ("EFBIG", "EROFS", "EACCES", "EIO")),
    ],
)
def test_what_a_disk_refuses_is_one_clear_error(
    tmp_path: Path, error: Exception, found: str
) -> None:
    writer = ArtifactWriter(tmp_path, "test", "fingerprint")
    writer.add("one", write("first"))
    with refused(where=tmp_path, found=found, todo="run the same command again: finished files"):
        writer.add("two", fail_with(error))
    assert names(tmp_path) == {"one", JOURNAL, LOCK}
    assert "one" in writer


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
    with refused(found="MB free"):
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
