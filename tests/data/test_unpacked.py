"""Lines of files that somebody else made."""

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from freelunch.data import unpacked
from freelunch.data.unpacked import COMPRESSIONS, lines_of
from freelunch.study.sources import PACKED


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.txt", bytes), ("a.txt.gz", gzip.compress), ("a.txt.bz2", bz2.compress)],
)
def test_lines_as_they_are(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    path, content = tmp_path / name, b"one\r\ntwo\n\nlast"
    path.write_bytes(pack(content))
    assert list(lines_of(path)) == [b"one\r\n", b"two\n", b"\n", b"last"]


def test_an_archive_that_unpacks_to_far_more_than_text(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"0" * 99 + b"\n") * 1 + gzip.compress(b"\n" * 30_000_000))
    with pytest.raises(ValueError, match="unpack to more than 200 times their size"):
        for _ in lines_of(path):
            pass


@pytest.mark.parametrize("name", ["a.gz", "a.bz2"])
def test_a_file_that_cannot_be_decompressed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    packed = (gzip if name == "a.gz" else bz2).compress(b"one\n" * 100)
    more = b"X" + packed[1:]
    broken = (b"one\n", packed[:-9], packed[:-3] + b"\0\0\0")
    # A file may be several streams: damage to the second must not end the text.
    for content in (*broken, packed + b"garbage", packed + packed[:-9], packed + more):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a complete"):
            list(lines_of(path))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_file_of_several_streams(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"a.{'gz' if pack is gzip.compress else 'bz2'}"
    contents = [b"one\ntw", b"", b"o\n" + b"three\n" * 100_000, b"four"]
    path.write_bytes(b"".join(map(pack, contents)))
    assert b"".join(lines_of(path)) == b"".join(contents)


def test_what_is_decompressed_is_what_a_study_says() -> None:
    assert tuple(COMPRESSIONS) == PACKED


def test_an_error_of_the_system_is_not_one_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.gz").mkdir()
    with pytest.raises(IsADirectoryError):
        list(lines_of(tmp_path / "a.gz"))


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_without_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setattr(unpacked, "LARGEST_LINE", 1000)
    path = tmp_path / ("a.gz" if packed else "a.txt")
    for size, fits in ((1000, True), (1001, False)):
        content = b"x" * size
        path.write_bytes(gzip.compress(content) if packed else content)
        if fits:
            assert list(lines_of(path)) == [content]
        else:
            with pytest.raises(ValueError, match="a line of more than 1,000 bytes"):
                list(lines_of(path))
