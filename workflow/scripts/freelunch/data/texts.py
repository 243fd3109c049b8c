"""Bring a text from its source into documents, or take over ready token ids.

A text becomes `documents.jsonl`: one JSON object a line, `{"text": ...}`, in the order of the
source. Blank documents are dropped; the others are kept to the letter, apart from line ends: CRLF
becomes LF, and a document does not carry the line end that only separates it from the next.
"""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from freelunch.core.artifact import Artifact, ArtifactWriter, scratch_folder
from freelunch.core.errors import UserError, nearest
from freelunch.data.sources import Obtained, obtain_text
from freelunch.study.entry import deciding
from freelunch.study.steps import READY_TOKENS, TEXT

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

KIND = TEXT
TOKENS_KIND = READY_TOKENS
DOCUMENTS = "documents.jsonl"
TOKENS = "tokens.safetensors"

# A title of Wikipedia cannot hold angle brackets, so this is no line of an article.
_OPENING = re.compile(r"<doc(\s[^<>]*)?>")
_CLOSING = "</doc>"
_INTEGERS = ("I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64")


def fetch_text(name: str, entry: Mapping[str, Any], folder: Path, fingerprint: str) -> Artifact:
    """Obtain a text and write it as documents, or ready token ids as int64.

    Args:
        name: Key in `texts`, for messages.
        entry: The text's entry in the config, its defaults filled in.
        folder: Where the artifact goes.
        fingerprint: Digest of everything the result depends on.

    Returns:
        Of kind "text", with the facts `settings` (the entry), `origin`, `documents` and
        `characters`; or, for the source `tokens`, of kind "tokens": `tokens.safetensors` with
        `input_ids`, int64 (samples, length), and the facts `settings`, `origin`, `samples`,
        `length` and `tokens_sha256`, the digest of the ids as little-endian int64 in row order.

    Raises:
        UserError: The text cannot be obtained, is not of the format its entry says, or is empty.
    """
    with scratch_folder(folder.with_name(f".{folder.name}")) as scratch:
        obtained = obtain_text(name, entry, scratch)
        if entry["source"] == "tokens":
            writer = ArtifactWriter(folder, TOKENS_KIND, fingerprint)
            return _write_tokens(name, entry, obtained, writer)
        return _write_text(name, entry, obtained, ArtifactWriter(folder, KIND, fingerprint))


def open_text(folder: Path) -> Artifact:
    """Return a text or ready token ids, whichever the folder holds."""
    return Artifact(folder, TOKENS_KIND if (folder / TOKENS).is_file() else KIND)


def read_documents(folder: Path) -> list[str]:
    """Return the documents of a text, in order; UserError if the folder holds no such artifact."""
    path = Artifact(folder, KIND).path(DOCUMENTS)
    # Not with `splitlines`, which would cut documents at U+2028 and its like.
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def _write_text(
    name: str, entry: Mapping[str, Any], obtained: Obtained, writer: ArtifactWriter
) -> Artifact:
    counts = {"documents": 0, "characters": 0}
    source = _Source(f"texts.{name}", obtained)

    def write(target: Path) -> None:
        read = _FORMATS[entry["format"]]
        with target.open("w", encoding="utf-8", newline="\n") as file:
            for document in read(source, source.lines(), entry):
                # Blank lines are not documents. Rows of a table are, blank or not: whoever joins
                # those of WikiText-2 joins all of them.
                if document.strip() or entry["format"] == "parquet":
                    file.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
                    counts["documents"] += 1
                    counts["characters"] += len(document)
        if not counts["documents"]:
            raise source.error(
                "the text has no documents",
                found="blank lines only" if source.number else "an empty file",
                todo="correct the source or the `format`",
            )

    writer.add(DOCUMENTS, write)
    return writer.finish(settings=deciding(entry), origin=obtained.origin, **counts)


class _Source:
    """The lines of a file, and where in it the reader is.

    Attributes:
        number: The line that was read last, from 1; 0 before the first.
    """

    def __init__(self, where: str, obtained: Obtained) -> None:
        self._where, self._path = where, obtained.path
        # In the scratch folder a file has a name of ours; a message names the one in the source.
        self._name = next(iter(obtained.origin["files"]))
        self.number = 0

    def lines(self) -> Iterator[str]:
        """Yield each line without its end; decompress by the name; drop a byte order mark."""
        try:
            with self._open() as file:
                for self.number, raw in enumerate(file, 1):
                    content = raw.removesuffix(b"\n").removesuffix(b"\r")
                    yield content.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise self.error(
                "this is not UTF-8",
                found=f"byte 0x{error.object[error.start]:02x} at column {error.start + 1}",
                expected="UTF-8",
                todo="convert the file to UTF-8",
            ) from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise self.error(
                "this is no complete gzip file",
                found=error,
                todo="fetch or compress the file again",
            ) from error

    def rows(self, field: str) -> Iterator[Any]:
        """Yield a column of a Parquet file."""
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self._path) as file:
                names = file.schema_arrow.names
                if field not in names:
                    raise self.missing(field, names)
                for batch in file.iter_batches(columns=[field]):
                    yield from batch.column(0).to_pylist()
        except pyarrow.ArrowException as error:
            raise self.error(
                "this is no Parquet file", found=error, todo="correct the source or the `format`"
            ) from error

    def missing(self, field: str, fields: Iterable[str]) -> UserError:
        """Return the error that the text is not where the entry says."""
        fields = list(fields)
        return self.error(
            f"there is no field {field!r}",
            found=f"fields {', '.join(fields) or '(none)'}",
            expected=nearest(field, fields),
            todo="name the text's field under `field`",
        )

    def error(self, problem: str, **more: Any) -> UserError:
        """Return an error that names the entry, the file and the line."""
        line = f", line {self.number}" if self.number else ""
        return UserError(problem, where=f"{self._where}: {self._name}{line}", **more)

    def _open(self) -> IO[bytes]:
        if self._path.suffix == ".gz":
            return cast(IO[bytes], gzip.open(self._path, "rb"))
        return self._path.open("rb")


def _each_line(source: _Source, lines: Iterable[str], entry: Mapping[str, Any]) -> Iterator[str]:
    yield from lines


def _whole_file(source: _Source, lines: Iterable[str], entry: Mapping[str, Any]) -> Iterator[str]:
    yield "\n".join(lines)


def _between_tags(source: _Source, lines: Iterable[str], entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield what stands between `<doc ...>` and `</doc>`, each tag on a line of its own."""
    todo = "put each tag on a line of its own, and each document between two"
    body: list[str] | None = None
    for line in lines:
        if _OPENING.fullmatch(line):
            if body is not None:
                raise source.error("<doc> inside a document", expected=_CLOSING, todo=todo)
            body = []
        elif line == _CLOSING:
            if body is None:
                raise source.error("</doc> without its <doc>", expected="<doc ...>", todo=todo)
            yield "\n".join(body).strip("\n")
            body = None
        elif body is not None:
            body.append(line)
        elif line.strip():
            raise source.error(
                "text outside of a document", found=line[:60], expected="<doc ...>", todo=todo
            )
    if body is not None:
        raise source.error("the last <doc> has no </doc>", expected=_CLOSING, todo=todo)


def _json_field(source: _Source, lines: Iterable[str], entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield one field of one JSON object a line; blank lines are skipped."""
    field = entry["field"]
    for line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise source.error(
                "this is not JSON", found=error, expected="one object a line"
            ) from error
        if not isinstance(value, dict):
            raise source.error("this is no JSON object", found=line[:60], expected="one a line")
        if field not in value:
            raise source.missing(field, value)
        document = value[field]
        if not isinstance(document, str):
            found = json.dumps(document)[:60]
            raise source.error(f"the field {field!r} is no text", found=found, expected="a string")
        try:
            document.encode()
        except UnicodeEncodeError as error:
            raise source.error(
                f"the field {field!r} holds half a character",
                found=f"\\u{ord(document[error.start]):04x}",
                expected="surrogates in pairs",
                todo="mend or remove the line",
            ) from error
        yield document


def _table_rows(source: _Source, lines: Iterable[str], entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield one field of each row of a Parquet file."""
    field = entry["field"]
    for number, document in enumerate(source.rows(field), 1):
        source.number = number
        if not isinstance(document, str):
            found = str(document)[:60]
            raise source.error(f"the field {field!r} is no text", found=found, expected="a string")
        yield document


_Reader = Callable[[_Source, Iterable[str], Mapping[str, Any]], Iterator[str]]
_FORMATS: dict[str, _Reader] = {
    "lines": _each_line,
    "plain": _whole_file,
    "doc_tags": _between_tags,
    "jsonl": _json_field,
    "parquet": _table_rows,
}


def _write_tokens(
    name: str, entry: Mapping[str, Any], obtained: Obtained, writer: ArtifactWriter
) -> Artifact:
    from safetensors.numpy import save_file

    ids = _read_ids(f"texts.{name}.path", obtained.path)
    writer.add(TOKENS, lambda target: save_file({"input_ids": ids}, target))
    samples, length = ids.shape
    return writer.finish(
        settings=deciding(entry),
        origin=obtained.origin,
        samples=samples,
        length=length,
        tokens_sha256=hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest(),
    )


def _read_ids(where: str, path: Path) -> "NDArray[numpy.int64]":
    """Return `input_ids`, int64 (samples, length), of a safetensors file.

    Raises:
        UserError: It is no safetensors file, or `input_ids` is missing, has no rows or columns, is
            no matrix of integers, or holds a number that is negative or beyond int64.
    """
    import numpy
    from safetensors import SafetensorError, safe_open

    expected = "`input_ids`, integers of shape (samples, length), at least one by one"
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            if "input_ids" not in names:
                raise UserError(
                    f"{path.name} has no `input_ids`",
                    where=where,
                    found=", ".join(names[:8]) or "no tensor",
                    expected=expected,
                    todo="save the token ids under that name",
                )
            stored = file.get_slice("input_ids")
            dtype, shape = stored.get_dtype(), stored.get_shape()
            fits = dtype in _INTEGERS and len(shape) == 2 and min(shape) > 0
            ids = file.get_tensor("input_ids") if fits else None
    except SafetensorError as error:
        raise UserError(
            f"{path.name} is no safetensors file", where=where, found=error, expected=expected
        ) from error
    if ids is None:
        found = f"{dtype} of shape {tuple(shape)}"
        raise UserError("`input_ids` are no token ids", where=where, found=found, expected=expected)
    if ids.min() < 0 or ids.max() > numpy.iinfo(numpy.int64).max:
        found = f"numbers from {ids.min()} to {ids.max()}"
        raise UserError(
            "`input_ids` are no token ids", where=where, found=found, expected="0 or more"
        )
    return cast("NDArray[numpy.int64]", ids.astype(numpy.int64))
