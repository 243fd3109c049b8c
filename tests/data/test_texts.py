"""Texts of each format, packed files, ready token ids, and everything that can be wrong."""

import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pytest
from pyarrow import parquet
from safetensors.numpy import load_file, save_file

from freelunch.core.artifact import Artifact
from freelunch.core.digest import file_digest
from freelunch.data import unpacked
from freelunch.data.documents import open_text, read_documents
from freelunch.data.texts import fetch_text
from freelunch.data.unpacked import lines_of
from freelunch.study.sources import PACKED, read_text
from refusals import refused

# Characters at which `str.splitlines` would cut a line, and some outside of ASCII.
ODD = "a\u2028b\x85c\x0bd\x1ce é 漢 𝄞"


def fetch(
    folder: Path, content: bytes, format: str, name: str = "words.txt", field: str = "text"
) -> Artifact:
    """Write `content` to a file and fetch it as a text."""
    path = folder / name
    path.write_bytes(content)
    entry = {"source": "path", "path": str(path), "format": format, "field": field}
    of = file_digest(path)
    return fetch_text("tiny", read_text(entry), folder / "resources" / "tiny", of)


def table(*rows: object, column: str = "text") -> bytes:
    """Return a Parquet file."""
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({column: list(rows)}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("format", "content", "documents"),
    [
        ("lines", "one\n\n  two \n \t\nthree", ["one", "  two ", "three"]),
        ("lines", "one\r\n\r\ntwo\r\n", ["one", "two"]),
        ("lines", ODD + "\nnext\n", [ODD, "next"]),
        ("plain", "  one\n\ntwo\n", ["  one\n\ntwo\n".removesuffix("\n")]),
        ("plain", "one\r\ntwo", ["one\ntwo"]),
        (
            "doc_tags",
            '<doc id="1" url="u" title="A (b)">\nA (b)\n\nIt is <b>bold</b>.\n\n</doc>\n'
            '<doc id="2" url="u" title="Empty">\n\n</doc>\n\n'
            '<doc id="3" url="u" title="C">\nC\n\n\n\n</doc>\n',
            ["A (b)\n\nIt is <b>bold</b>.", "C"],
        ),
        ("doc_tags", "<doc>\r\none\r\ntwo\r\n</doc>\r\n", ["one\ntwo"]),
        (
            "jsonl",
            '{"text": "one\\ntwo", "n": 1}\n\n{"text": " "}\n{"n": 2, "text": "\\ud834\\udd1e"}',
            ["one\ntwo", "𝄞"],
        ),
    ],
)
def test_reads_each_format(format: str, content: str, documents: list[str], tmp_path: Path) -> None:
    artifact = fetch(tmp_path, content.encode(), format)
    assert read_documents(artifact.folder) == documents
    assert artifact.facts["documents"] == len(documents)
    assert artifact.facts["characters"] == sum(map(len, documents))
    assert {path.name for path in (tmp_path / "resources").glob("[!.]*")} == {"tiny"}


def test_writes_one_json_object_a_line_and_says_where_it_is_from(tmp_path: Path) -> None:
    artifact = fetch(tmp_path, b"one\ntwo\n", "lines")
    lines = artifact.path("documents.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"text": "one"}, {"text": "two"}]
    assert artifact.kind == "text"
    assert artifact.facts["settings"]["format"] == "lines"
    assert artifact.facts["origin"] == {
        "source": "path",
        "path": str(tmp_path / "words.txt"),
        "files": {"words.txt": hashlib.sha256(b"one\ntwo\n").hexdigest()},
    }
    assert fetch(tmp_path, b"one\ntwo\n", "lines").digest == artifact.digest
    assert fetch(tmp_path, b"one\ntwo!\n", "lines").digest != artifact.digest


def test_equal_documents_are_one_unless_every_row_counts(tmp_path: Path) -> None:
    """Blank ones, too: perplexities on WikiText-2 are of all rows joined."""
    artifact = fetch(tmp_path, b"one\ntwo\n\none\n\ntwo \n", "lines")
    assert read_documents(artifact.folder) == ["one", "two", "two "]
    assert artifact.facts["duplicates"] == 1 and artifact.facts["documents"] == 3
    rows = ["a", "", " = A title = \n", "a", "", ODD, " \n"]
    once = fetch(tmp_path, table(*rows), "parquet")
    assert read_documents(once.folder) == ["a", rows[2], ODD] and once.facts["duplicates"] == 1
    every = fetch(tmp_path, table(*rows, column="body"), "parquet_rows", field="body")
    assert read_documents(every.folder) == rows and every.facts["duplicates"] == 0


def test_odd_characters_come_back(tmp_path: Path) -> None:
    content = json.dumps({"body": ODD + "\r\n\x00"}).encode()
    artifact = fetch(tmp_path, content, "jsonl", field="body")
    assert read_documents(artifact.folder) == [ODD + "\r\n\x00"]
    # Only a byte order mark at the start is dropped.
    artifact = fetch(tmp_path, "\ufeffone\n\ufefftwo\n".encode(), "lines")
    assert read_documents(artifact.folder) == ["one", "\ufefftwo"]


@pytest.mark.parametrize(
    ("content", "format", "line", "found"),
    [
        (b"one\ntwo \xff\n", "lines", 2, "0xff at column 5"),
        ("é".encode("latin-1"), "plain", 1, "0xe9"),
        (b"one\ntwo \x00\n", "lines", 2, "a NUL byte"),
        ("one\ntwo\n".encode("utf-16"), "plain", 1, "a NUL byte"),
        (b"", "lines", None, "an empty file"),
        (b"\n \n", "plain", 2, "blank lines only"),
        (b"<doc>\n\n</doc>\n", "doc_tags", 3, "blank lines only"),
        (b"<doc>\none\n<doc>\ntwo\n</doc>\n", "doc_tags", 3, None),
        (b"<doc>\none\n</doc>\n</doc>\n", "doc_tags", 4, None),
        (b"<doc>\none\n", "doc_tags", 2, None),
        (b"<doc>\none</doc>\n<doc>\ntwo\n</doc>\n", "doc_tags", 3, None),
        (b"<doc>one</doc>\n", "doc_tags", 1, "<doc>one</doc>"),
        (b"one\n", "doc_tags", 1, "one"),
        (b'{"text": "a"}\n{"txt": "b"}\n', "jsonl", 2, "fields txt"),
        (b"{}\n", "jsonl", 1, "(none)"),
        (b'{"text": 7}\n', "jsonl", 1, "7"),
        (b'{"text": null}\n', "jsonl", 1, "null"),
        (b'\n{"text": \n', "jsonl", 2, "Expecting value"),
        (b'["text"]\n', "jsonl", 1, '["text"]'),
        (b'{"text": "\\ud834"}\n', "jsonl", 1, "\\ud834"),
        (table("a", column="txt"), "parquet", None, "fields txt"),
        (table("a", None), "parquet", 2, "None"),
        (table(), "parquet", None, "an empty file"),
        (b"PAR1 and no more", "parquet", None, "Parquet"),
    ],
)
def test_says_what_is_wrong_and_where(
    content: bytes, format: str, line: int | None, found: str | None, tmp_path: Path
) -> None:
    where = "texts.tiny: words.txt" + (f", line {line}" if line else "")
    with refused(where=where, found=found) as error:
        fetch(tmp_path, content, format)
    assert error.value.where == where
    left = {path.name for path in (tmp_path / "resources").rglob("*")}
    assert left <= {"tiny", "journal.jsonl", ".lock", ".tiny.checked"}, "a scratch file was left"


def test_refuses_what_is_no_gzip_file_a_table_and_json(tmp_path: Path) -> None:
    with refused(where="texts.tiny: words.txt.gz", found="not a complete .gz file"):
        fetch(tmp_path, b"one\n", "lines", name="words.txt.gz")
    for form in ("plain", "lines"):
        (tmp_path / form).mkdir()
        with refused(found="columns id, story", expected="Parquet"):
            fetch(tmp_path / form, b"id,story\n1,one\n", form, name="words.CSV")
    for name, content in (("words.txt", b'\n{"text": "one"}\n'), ("w.json", b'["one",\n"two"]')):
        (tmp_path / name).mkdir()
        with refused(found=content.split()[0].decode(), expected="format: jsonl"):
            fetch(tmp_path / name, content, "lines", name=name)


def test_a_failure_leaves_a_finished_text_only_if_nothing_was_read(tmp_path: Path) -> None:
    folder = fetch(tmp_path, b"one\n", "lines").folder
    nowhere = {"source": "path", "path": str(tmp_path / "nowhere"), "format": "lines"}
    with refused(where="texts.tiny.path", found="nowhere does not exist"):
        fetch_text("tiny", read_text(nowhere), folder, "fingerprint")
    assert read_documents(folder) == ["one"]
    with refused(where="texts.tiny: words.txt, line 2"):
        fetch(tmp_path, b"one\n\xff\n", "lines")
    with refused(where="manifest.json"):
        read_documents(folder)


def fetch_ids(folder: Path, tensors: dict[str, Any]) -> Artifact:
    path = folder / "ids.safetensors"
    save_file(tensors, path)
    entry = read_text({"source": "tokens", "path": str(path)})
    return fetch_text("ids", entry, folder / "resources" / "ids", "fingerprint")


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint16", "uint64"])
def test_stores_token_ids_as_int64(dtype: str, tmp_path: Path) -> None:
    ids = numpy.arange(12, dtype=dtype).reshape(3, 4)
    artifact = fetch_ids(tmp_path, {"input_ids": ids, "attention_mask": ids})
    stored = load_file(artifact.path("tokens.safetensors"))
    assert set(stored) == {"input_ids"} and stored["input_ids"].dtype == numpy.int64
    assert (stored["input_ids"] == ids).all()
    in_order = b"".join(number.to_bytes(8, "little") for number in range(12))
    assert artifact.kind == "tokens"
    settings = {"source": "tokens", "path": str(tmp_path / "ids.safetensors")}
    assert artifact.facts == {
        "settings": settings,
        "origin": {
            **settings,
            "files": {"ids.safetensors": file_digest(tmp_path / "ids.safetensors")},
        },
        "samples": 3,
        "length": 4,
        "tokens_sha256": hashlib.sha256(in_order).hexdigest(),
    }


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        (numpy.zeros((2, 2), "float32"), "float32 of shape (2, 2)"),
        (numpy.zeros((2, 2), "bool"), "bool of shape (2, 2)"),
        (numpy.zeros(4, "int64"), "int64 of shape (4,)"),
        (numpy.zeros((1, 2, 2), "int64"), "int64 of shape (1, 2, 2)"),
        (numpy.zeros((0, 4), "int64"), "int64 of shape (0, 4)"),
        (numpy.array([[3, -1]]), "numbers from -1 to 3"),
        (numpy.array([[2**63]], "uint64"), "numbers from 9223372036854775808"),
        (None, "ids"),
    ],
)
def test_refuses_what_is_no_matrix_of_token_ids(
    ids: numpy.ndarray[Any, Any] | None, found: str, tmp_path: Path
) -> None:
    with refused(where="texts.ids.path", found=found):
        fetch_ids(tmp_path, {"ids": numpy.ones(1)} if ids is None else {"input_ids": ids})
    assert not (tmp_path / "resources" / "ids" / "manifest.json").exists()
    (tmp_path / "ids.safetensors").write_bytes(b"\x80\x04pickle, perhaps")
    entry = read_text({"source": "tokens", "path": str(tmp_path / "ids.safetensors")})
    with refused(where="texts.ids.path", expected="input_ids"):
        fetch_text("ids", entry, tmp_path / "ids", "fingerprint")


def test_opens_a_text_or_token_ids(tmp_path: Path) -> None:
    for artifact in (
        fetch(tmp_path, b"one\n", "lines"),
        fetch_ids(tmp_path, {"input_ids": numpy.ones((1, 2), "int64")}),
    ):
        opened = open_text(artifact.folder / "manifest.json")
        assert (opened.kind, opened.digest) == (artifact.kind, artifact.digest)
    with refused(found="tokens", expected="text"):
        read_documents(opened.folder)


# --- Lines of packed files


def test_a_packed_file_is_read_whole_or_refused(tmp_path: Path) -> None:
    """A file may be several streams: damage to the second must not end the text."""
    pack, path = gzip.compress, tmp_path / f"a{PACKED}"
    contents = [b"one\r\ntw", b"", b"o\n\n" + b"three\n" * 100_000, b"four"]
    path.write_bytes(b"".join(map(pack, contents)))
    assert b"".join(lines_of(path)) == b"".join(contents)
    packed = pack(b"one\n" * 100)
    broken = (b"one\n", packed[:-9], packed[:-3] + b"\0\0\0", packed + b"garbage")
    for content in (*broken, packed + packed[:-9], packed + b"X" + packed[1:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a complete"):
            list(lines_of(path))
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        list(lines_of(path))


def test_lines_that_memory_could_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(b"0" * 99 + b"\n") + gzip.compress(b"\n" * 30_000_000))
    with pytest.raises(ValueError, match="unpack to more than 200 times their size"):
        for _ in lines_of(bomb):
            pass
    monkeypatch.setattr(unpacked, "LARGEST_LINE", 1000)
    for name, pack in (("a.txt", bytes), ("a.gz", gzip.compress)):
        path = tmp_path / name
        path.write_bytes(pack(b"x" * 1000))
        assert list(lines_of(path)) == [b"x" * 1000]
        path.write_bytes(pack(b"x" * 1001))
        with pytest.raises(ValueError, match="a line of more than 1,000 bytes"):
            list(lines_of(path))
