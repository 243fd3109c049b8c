"""Files that several folders share are stored once."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from artifacts import finished, full, write
from freelunch.core.artifact_writer import ArtifactWriter
from refusals import refused


def test_links_store_a_file_once_and_make_it_read_only(tmp_path: Path) -> None:
    """An edit of a file with several names would change the others."""
    source = finished(tmp_path / "source")
    assert source.path("one").stat().st_mode & 0o200
    writer = ArtifactWriter(tmp_path / "copy", "test", "fingerprint")
    writer.link("eins", source, "one", rows=3)
    copy = writer.finish()
    assert copy.path("eins").samefile(source.path("one"))
    assert copy.files["eins"] == {**source.files["one"], "rows": 3}
    assert not copy.path("eins").stat().st_mode & 0o222
    assert source.path("two").stat().st_mode & 0o200, "this one has one name"
    copy.verify()


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_where_no_link_can_be_made_a_copy_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source = finished(tmp_path / "source")
    monkeypatch.setattr(os, "link", refuse(number))
    writer = ArtifactWriter(tmp_path / "copy", "test", "fingerprint")
    writer.link("one", source, "one")
    copy = writer.finish()
    assert not copy.path("one").samefile(source.path("one"))
    assert copy.files["one"] == source.files["one"]
    copy.verify()


def refuse(number: int) -> Callable[..., None]:
    def link(*_: object) -> None:
        raise full(number)

    return link


def test_what_cannot_or_must_not_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = finished(tmp_path / "source")
    writer = ArtifactWriter(tmp_path / "copy", "test", "fingerprint")
    with monkeypatch.context() as patch, refused(where=tmp_path / "copy"):
        patch.setattr(os, "link", refuse(errno.EACCES))
        writer.link("one", source, "one")
    source.path("one").write_text("First")
    with refused(where=source.path("one"), found="another sha256"):
        writer.link("one", source, "one")
    assert "one" not in writer


def test_a_linked_file_can_be_replaced_without_the_other(tmp_path: Path) -> None:
    """Replacing gives the name to a new file, so the source keeps its content."""
    source = finished(tmp_path / "source")
    writer = ArtifactWriter(tmp_path / "copy", "test", "fingerprint")
    writer.link("one", source, "one")
    writer.add("one", write("other"))
    writer.finish()
    source.verify()
