"""Read the documents of a text from its source's file, in each format of `texts.*.format`."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from freelunch.core.errors import UserError, nearest
from freelunch.data.sources import Obtained
from freelunch.data.unpacked import lines_of

# A title of Wikipedia cannot contain angle brackets, so no line of an article matches.
_OPENING = re.compile(r"<doc(\s[^<>]*)?>")
_CLOSING = "</doc>"


class SourceFile:
    """A file and how far it has been read, for messages that name the line.

    Attributes:
        number: The line read last, counted from 1; 0 before the first.
    """

    def __init__(self, where: str, obtained: Obtained) -> None:
        self._where, self._path = where, obtained.path
        # The file may have another name in the scratch folder; messages use its name in the source.
        self._name = next(iter(obtained.origin["files"]))
        self.number = 0

    def lines(self) -> Iterator[str]:
        """Yield each line without its end.

        A file whose name ends in `.gz` is decompressed; a byte order mark at its start is dropped.
        """
        try:
            for raw in lines_of(self._path):
                self.number += 1
                content = raw.removesuffix(b"\n").removesuffix(b"\r")
                yield content.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise self.error(
                "not valid UTF-8",
                found=f"byte 0x{error.object[error.start]:02x} at column {error.start + 1}",
                expected="UTF-8",
                todo="convert the file to UTF-8",
            ) from error
        except ValueError as error:
            raise self.error("this cannot be text", found=error, todo="use another file") from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise self.error(
                "not a complete gzip file",
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
                "not a valid Parquet file",
                found=error,
                todo="correct the source or the `format`",
            ) from error

    def missing(self, field: str, fields: Iterable[str]) -> UserError:
        """Return the error that the file has no such field."""
        fields = list(fields)
        return self.error(
            f"there is no field {field!r}",
            found=f"fields {', '.join(fields) or '(none)'}",
            expected=nearest(field, fields),
            todo="set `field` to the name of the field that holds the text",
        )

    def error(self, problem: str, **more: Any) -> UserError:
        """Return an error that names the entry, the file and the line."""
        line = f", line {self.number}" if self.number else ""
        return UserError(problem, where=f"{self._where}: {self._name}{line}", **more)


def _each_line(source: SourceFile, lines: Iterable[str], field: str) -> Iterator[str]:
    yield from lines


def _whole_file(source: SourceFile, lines: Iterable[str], field: str) -> Iterator[str]:
    yield "\n".join(lines)


def _between_tags(source: SourceFile, lines: Iterable[str], field: str) -> Iterator[str]:
    """Yield what stands between `<doc ...>` and `</doc>`, each tag on a line of its own."""
    todo = "put each tag on a line of its own, and each document between two tags"
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


def _json_field(source: SourceFile, lines: Iterable[str], field: str) -> Iterator[str]:
    """Yield one field of one JSON object per line; blank lines are skipped."""
    for line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise source.error(
                "not valid JSON", found=error, expected="one object a line"
            ) from error
        if not isinstance(value, dict):
            raise source.error("not a JSON object", found=line[:60], expected="one object a line")
        if field not in value:
            raise source.missing(field, value)
        document = value[field]
        if not isinstance(document, str):
            raise _not_a_string(source, field, json.dumps(document))
        try:
            document.encode()
        except UnicodeEncodeError as error:
            raise source.error(
                f"the field {field!r} holds half a character",
                found=f"\\u{ord(document[error.start]):04x}",
                expected="surrogates in pairs",
                todo="fix or remove the line",
            ) from error
        yield document


def _table_rows(source: SourceFile, lines: Iterable[str], field: str) -> Iterator[str]:
    """Yield one field of each row of a Parquet file."""
    for number, document in enumerate(source.rows(field), 1):
        source.number = number
        if not isinstance(document, str):
            raise _not_a_string(source, field, str(document))
        yield document


def _not_a_string(source: SourceFile, field: str, found: str) -> UserError:
    return source.error(
        f"the field {field!r} is not a string", found=found[:60], expected="a string"
    )


_Reader = Callable[[SourceFile, Iterable[str], str], Iterator[str]]
FORMATS: dict[str, _Reader] = {
    "lines": _each_line,
    "plain": _whole_file,
    "doc_tags": _between_tags,
    "jsonl": _json_field,
    "parquet": _table_rows,
}
