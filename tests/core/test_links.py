"""Files that several folders share are stored once."""

import errno
import os
from pathlib import Path

import pytest

from artifacts import finished, full, write
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.errors import UserError


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
