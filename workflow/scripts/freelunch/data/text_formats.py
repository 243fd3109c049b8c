"""Read the documents of a text from its source's file, in each format of `texts.*.format`."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from freelunch.core.errors import UserError, nearest
from freelunch.data.unpacked import lines_of
from freelunch.study.sources import PACKED, PARAGRAPHS

# A title of Wikipedia cannot contain angle brackets, so no line of an article matches.
_OPENING, _CLOSING = re.compile(r"<doc(\s[^<>]*)?>"), "</doc>"
# The fewest characters of a part of a document: about twice a sequence of 256 tokens.
_PART_CHARACTERS = 2_000
# Separators of tables of one row a line, by the ending of the file's name.
_TABLES = {".csv": ",", ".tsv": "\t"}
_JSON = (".json", ".jsonl", ".ndjson")


class SourceFile:
    """A file of a text and how far it has been read, for messages: `number` is the line read last,
    from 1. `name` is its name in the source; no more lines are read after `most` characters.
    """

    def __init__(self, where: str, path: Path, name: str, most: int | None = None) -> None:
        self._where, self._path, self._name, self._most = where, path, name, most
        self.number = 0

    def lines(self) -> Iterator[str]:
        """Yield each line without its end. A file whose name ends in `.gz` is decompressed; a byte
        order mark at its start is dropped. UserError if it is binary, not in UTF-8, or damaged.
        """
        characters = 0
        try:
            for raw in lines_of(self._path):
                self.number += 1
                if b"\0" in raw:
                    raise ValueError("a NUL byte: the file is binary or in UTF-16")
                content = raw.removesuffix(b"\n").removesuffix(b"\r")
                line = content.decode("utf-8-sig" if self.number == 1 else "utf-8")
                yield line
                characters += len(line) + 1
                if self._most is not None and characters >= self._most:
                    return
        except ValueError as error:
            found = str(error)
            if isinstance(error, UnicodeDecodeError):
                found = f"byte 0x{error.object[error.start]:02x} at column {error.start + 1}"
            raise self.error(
                "this cannot be read as text",
                found=found,
                expected="text in UTF-8, in a file whose name ends in .gz if, and only if, "
                "it is compressed; or Parquet",
                todo="convert the file, such as by `iconv -f UTF-16 -t UTF-8`, or fetch it again",
            ) from error

    def check_prose(self) -> None:
        """Refuse a table (CSV) and JSON, whose separators and names would be read as text."""
        ending = Path(self._name.removesuffix(PACKED)).suffix.lower()
        first = next(filter(str.strip, self.lines()), "")
        self.number = 0
        if separator := _TABLES.get(ending):
            columns = next(csv.reader([first], delimiter=separator), [])
            what, found = "a table", f"columns {', '.join(columns) or '(none)'}"
        elif ending in _JSON or first.startswith('{"'):
            what, found = "JSON", first[:60]
        else:
            return
        raise self.error(
            f"this is {what}",
            found=f"{self._name}: {found}",
            expected="plain text; JSON Lines, one object a line, with `format: jsonl`; or Parquet",
            todo="convert it, such as a list by `jq -c '.[]'`, and set `format` and `field`; if it "
            "is plain text, let its name end in .txt",
        )

    def batches(self, field: str | None = None, rows: int = 65_536) -> Iterator[Any]:
        """Yield batches of so many rows of a Parquet file: all of its columns, or one."""
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self._path) as file:
                names = file.schema_arrow.names
                if field is not None and field not in names:
                    raise self.missing(field, names)
                columns = None if field is None else [field]
                yield from file.iter_batches(batch_size=rows, columns=columns)
        except pyarrow.ArrowException as error:
            todo = "correct the source or the `format`"
            raise self.error("not a valid Parquet file", found=error, todo=todo) from error

    def missing(self, field: str, fields: Iterable[str]) -> UserError:
        """Return the error that the file has no such field."""
        fields = list(fields)
        return self.error(
            f"there is no field {field!r}",
            found=f"fields {', '.join(fields) or '(none)'}",
            expected=nearest(field, fields),
            todo="set `field` to the name of the field that holds the text",
        )

    def string(self, field: str, document: object, found: str) -> str:
        """Return what a field holds; UserError if it is no string of whole characters."""
        if not isinstance(document, str):
            problem = f"the field {field!r} is not a string"
            raise self.error(problem, found=found[:60], expected="a string")
        try:
            document.encode()
        except UnicodeEncodeError as error:
            problem = f"the field {field!r} holds half a character"
            half = f"\\u{ord(document[error.start]):04x}"
            raise self.error(problem, found=half, expected="surrogates in pairs") from error
        return document

    def error(self, problem: str, **more: Any) -> UserError:
        """Return an error that names the entry, the file and the line, and what to do."""
        place = f"{self._where}: {self._name}" + (f", line {self.number}" if self.number else "")
        todo = "correct or remove this entry, or fetch the file again"
        return UserError(problem, where=place, **{"todo": todo, **more})


def _each_line(source: SourceFile, field: str) -> Iterator[str]:
    source.check_prose()
    yield from source.lines()


def _whole_file(source: SourceFile, field: str) -> Iterator[str]:
    source.check_prose()
    yield "\n".join(source.lines())


def _paragraphs(source: SourceFile, field: str) -> Iterator[str]:
    """Yield parts of a file that end at a blank line, or late at any line end."""
    source.check_prose()
    part: list[str] = []
    size = 0
    for line in source.lines():
        part.append(line)
        size += len(line) + 1
        if size >= _PART_CHARACTERS * (2 if line.strip() else 1):
            yield "\n".join(part).strip("\n")
            part, size = [], 0
    yield "\n".join(part).strip("\n")


def _between_tags(source: SourceFile, field: str) -> Iterator[str]:
    """Yield what stands between `<doc ...>` and `</doc>`, each tag on a line of its own."""

    def misplaced(found: str, expected: str) -> UserError:
        return source.error(
            "the tags do not enclose the documents",
            found=found,
            expected=expected,
            todo="put each tag on a line of its own, and each document between two tags",
        )

    body: list[str] | None = None
    for line in source.lines():
        opens, closes = _OPENING.fullmatch(line), line == _CLOSING
        if body is None:
            if opens:
                body = []
            elif closes or line.strip():
                raise misplaced(line[:60], "<doc ...>")
        elif opens:
            raise misplaced(line[:60], _CLOSING)
        elif closes:
            yield "\n".join(body).strip("\n")
            body = None
        else:
            body.append(line)
    if body is not None:
        raise misplaced("the end of the file", _CLOSING)


def _json_field(source: SourceFile, field: str) -> Iterator[str]:
    """Yield one field of one JSON object per line; blank lines are skipped."""
    expected = "one JSON object a line"
    for line in filter(str.strip, source.lines()):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise source.error("not valid JSON", found=error, expected=expected) from error
        if not isinstance(value, dict):
            raise source.error("not a JSON object", found=line[:60], expected=expected)
        if field not in value:
            raise source.missing(field, value)
        yield source.string(field, value[field], json.dumps(value[field]))


def _table_rows(source: SourceFile, field: str) -> Iterator[str]:
    for batch in source.batches(field):
        for document in batch.column(0).to_pylist():
            source.number += 1
            yield source.string(field, document, str(document))


FORMATS: dict[str, Callable[[SourceFile, str], Iterator[str]]] = {
    "lines": _each_line,
    "plain": _whole_file,
    PARAGRAPHS: _paragraphs,
    "doc_tags": _between_tags,
    "jsonl": _json_field,
    "parquet": _table_rows,
    "parquet_rows": _table_rows,
}
