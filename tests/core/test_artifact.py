"""Folders of files and manifests: what they say, and what damage to them is found."""

import json
import os
from pathlib import Path

import pytest

from artifacts import finished, names, write
from freelunch.core import checked
from freelunch.core.artifact import MANIFEST, Artifact, check_belongs, fingerprint
from freelunch.core.artifact_writer import FINISHED_JOURNAL, ArtifactWriter
from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.core.files import write_atomically, write_json

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
