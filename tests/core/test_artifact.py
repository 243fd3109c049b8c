"""Folders of files and manifests: what they say, and what damage to them is found."""

import json
import os
from pathlib import Path

import pytest

from artifacts import finished, names, write
from freelunch.core import digest
from freelunch.core.artifact import MANIFEST, Artifact, check_belongs, fingerprint
from freelunch.core.artifact_writer import FINISHED_JOURNAL, ArtifactWriter
from freelunch.core.digest import file_digest
from freelunch.core.files import write_atomically, write_json
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


@pytest.mark.parametrize(
    "text",
    [None, "", "{", "[]", '{"kind": "test", "fingerprint": "f"}', "\xff\0", "[" * 100_000, "0.4"],
)
def test_a_missing_damaged_or_altered_manifest(tmp_path: Path, text: str | None) -> None:
    path = finished(tmp_path, loss=0.5).folder / MANIFEST
    written = path.read_text()
    path.unlink()
    if text is not None:
        path.write_text(written.replace("0.5", text) if text == "0.4" else text)
    with refused(where=path, todo="run `make repair STUDY="):
        Artifact(tmp_path, "test")


def test_another_kind(tmp_path: Path) -> None:
    finished(tmp_path)
    with refused(where=tmp_path / MANIFEST, found="test", expected="masks"):
        Artifact(tmp_path, "masks")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "no file"),
        ("", "0 bytes"),
        ("secon", "5 bytes"),
        ("second and more", "15 bytes"),
        ("Second", "another sha256"),
    ],
)
def test_a_file_that_is_not_the_one_of_the_manifest(
    tmp_path: Path, text: str | None, found: str
) -> None:
    path = finished(tmp_path).path("two")
    path.unlink()
    if text is not None:
        path.write_text(text)
    with refused(where=path, found=found, todo="run `make repair STUDY="):
        Artifact(tmp_path, "test")


def test_a_file_that_did_not_change_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path / "a")
    read: list[str] = []
    monkeypatch.setattr(digest, "file_digest", lambda path: (read.append(path.name), "0")[1])
    Artifact(tmp_path / "a", "test")
    assert read == [], "what wrote a file knows its digest"
    (tmp_path / ".a.checked").write_text("damaged")
    with refused(found="another sha256"):
        Artifact(tmp_path / "a", "test")
    assert read == ["one"], "without the cache, it is read"
    monkeypatch.undo()
    (tmp_path / ".a.checked").unlink()
    Artifact(tmp_path / "a", "test")
    monkeypatch.setattr(digest, "file_digest", lambda path: read.append(path.name))
    Artifact(tmp_path / "a", "test")
    assert read == ["one"], "and then known again"


def test_a_change_that_keeps_size_and_time_is_found_when_all_is_read(tmp_path: Path) -> None:
    """As of a disk that loses a bit: no cheap check can see it."""
    made = finished(tmp_path)
    stamp = made.path("two").stat()
    made.path("two").write_text("Second")
    os.utime(made.path("two"), ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    for _ in range(2):
        with refused(where=made.path("two"), found="another sha256"):
            Artifact(tmp_path, "test").verify()


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
    with refused(where=masks.folder, found=model.digest, expected=other.digest):
        check_belongs(masks, "model", other)
    with refused(where=masks.folder, found="model", expected="none"):
        check_belongs(masks, "model", None)
    with refused(where=masks.folder, found="dense None", expected=model.folder):
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
