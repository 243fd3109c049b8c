"""Texts of each format, ready token ids, and everything that can be wrong with them."""

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
from freelunch.data.documents import open_text, read_documents
from freelunch.data.texts import fetch_text
from freelunch.study.sources import read_text
from refusals import refused

# Characters at which `str.splitlines` would cut a line, and some outside of ASCII.
ODD = "a\u2028b\x85c\x0bd\x1ce é 漢 𝄞"


def fetch(
    folder: Path,
    content: bytes,
    format: str,
    name: str = "words.txt",
    field: str = "text",
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


def test_where_every_row_counts_all_stay_as_they_are(tmp_path: Path) -> None:
    """Blank ones too: perplexities on WikiText-2 are of all rows joined."""
    rows = ["", " = A title = \n", "", ODD, " \n"]
    artifact = fetch(tmp_path, table(*rows, column="body"), "parquet_rows", field="body")
    assert read_documents(artifact.folder) == rows


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


def test_equal_documents_are_one_unless_every_row_counts(tmp_path: Path) -> None:
    artifact = fetch(tmp_path, b"one\ntwo\n\none\n\ntwo \n", "lines")
    assert read_documents(artifact.folder) == ["one", "two", "two "]
    assert artifact.facts["duplicates"] == 1 and artifact.facts["documents"] == 3
    documents = fetch(tmp_path, table("a", "", "a", ""), "parquet")
    assert read_documents(documents.folder) == ["a"] and documents.facts["duplicates"] == 1
    rows = fetch(tmp_path, table("a", "", "a", ""), "parquet_rows")
    assert read_documents(rows.folder) == ["a", "", "a", ""] and rows.facts["duplicates"] == 0


def test_odd_characters_come_back(tmp_path: Path) -> None:
    content = json.dumps({"body": ODD + "\r\n\x00"}).encode()
    artifact = fetch(tmp_path, content, "jsonl", field="body")
    assert read_documents(artifact.folder) == [ODD + "\r\n\x00"]
    # Only a byte order mark at the start is dropped.
    artifact = fetch(tmp_path, "\ufeffone\n\ufefftwo\n".encode(), "lines")
    assert read_documents(artifact.folder) == ["one", "\ufefftwo"]


def test_the_same_text_gives_the_same_artifact(tmp_path: Path) -> None:
    first = fetch(tmp_path, b"one\ntwo\n", "lines").digest
    assert fetch(tmp_path, b"one\ntwo\n", "lines").digest == first
    assert fetch(tmp_path, b"one\ntwo!\n", "lines").digest != first


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


@pytest.mark.parametrize(
    "content",
    [b"one\n", gzip.compress(b"one\n" * 100)[:-9], gzip.compress(b"one\n" * 100)[:-8] + b"\0" * 8],
    ids=["plain", "truncated", "wrong checksum"],
)
def test_refuses_what_is_no_gzip_file(content: bytes, tmp_path: Path) -> None:
    with refused(where="texts.tiny: words.txt.gz", found="not a complete .gz file"):
        fetch(tmp_path, content, "lines", name="words.txt.gz")


@pytest.mark.parametrize("format", ["plain", "lines"])
def test_refuses_a_table(format: str, tmp_path: Path) -> None:
    with refused(found="columns id, story", todo="Parquet"):
        fetch(tmp_path, b"id,story\n1,one\n", format, name="words.CSV")


def test_a_failure_leaves_no_finished_text(tmp_path: Path) -> None:
    fetch(tmp_path, b"one\n", "lines")
    with refused(where="texts.tiny: words.txt, line 2"):
        fetch(tmp_path, b"one\n\xff\n", "lines")
    with refused(where="manifest.json"):
        read_documents(tmp_path / "resources" / "tiny")


def test_a_source_that_cannot_be_had_leaves_the_finished_text(tmp_path: Path) -> None:
    artifact = fetch(tmp_path, b"one\n", "lines")
    nowhere = {"source": "path", "path": str(tmp_path / "nowhere"), "format": "lines"}
    entry = read_text(nowhere)
    with refused(where="texts.tiny.path", found="nowhere does not exist"):
        fetch_text("tiny", entry, artifact.folder, "fingerprint")
    assert read_documents(artifact.folder) == ["one"]


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
    ("tensors", "found"),
    [
        ({"ids": numpy.zeros((2, 2), "int64")}, "ids"),
        ({"input_ids": numpy.zeros((2, 2), "float32")}, "float32 of shape (2, 2)"),
        ({"input_ids": numpy.zeros((2, 2), "bool")}, "bool of shape (2, 2)"),
        ({"input_ids": numpy.zeros(4, "int64")}, "int64 of shape (4,)"),
        ({"input_ids": numpy.zeros((1, 2, 2), "int64")}, "int64 of shape (1, 2, 2)"),
        ({"input_ids": numpy.zeros((0, 4), "int64")}, "int64 of shape (0, 4)"),
        ({"input_ids": numpy.array([[3, -1]])}, "numbers from -1 to 3"),
        ({"input_ids": numpy.array([[2**63]], "uint64")}, "numbers from 9223372036854775808"),
    ],
)
def test_refuses_what_is_no_matrix_of_token_ids(
    tensors: dict[str, Any], found: str, tmp_path: Path
) -> None:
    with refused(where="texts.ids.path", found=found):
        fetch_ids(tmp_path, tensors)
    assert not (tmp_path / "resources" / "ids" / "manifest.json").exists()


def test_refuses_token_ids_that_are_not_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "ids.bin"
    path.write_bytes(b"\x80\x04pickle, perhaps")
    entry = read_text({"source": "tokens", "path": str(path)})
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
