"""Read the documents of a text from its source's file, in each format of `texts.*.format`."""

import csv
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from freelunch.core.errors import UserError, nearest
from freelunch.data.unpacked import Incomplete, lines_of, unpacked_name
from freelunch.data.wiki import NotAnExport, articles

# What to do, unless an error says it.
_TODO = "correct or remove this entry, or fetch the file again"
# A title of Wikipedia cannot contain angle brackets, so no line of an article matches.
_OPENING = re.compile(r"<doc(\s[^<>]*)?>")
_CLOSING = "</doc>"
# Separators of tables of one row a line, by the ending of the file's name.
_TABLES = {".csv": ",", ".tsv": "\t"}


class SourceFile:
    """A file and how far it has been read, for messages that name the line.

    Args:
        where: The text, for messages.
        path: The file.
        name: Its name in the source; in the scratch folder, it may have another.
        most: Characters after which no more lines are read; None to read all.

    Attributes:
        number: The line read last, counted from 1; 0 before the first.
    """

    def __init__(self, where: str, path: Path, name: str, most: int | None = None) -> None:
        self._where, self._path, self._name, self._most = where, path, name, most
        self.number = 0

    def lines(self) -> Iterator[str]:
        """Yield each line without its end.

        A file whose name ends in `.gz` or `.bz2` is decompressed; a byte order mark at its start is
        dropped.

        Raises:
            UserError: The file is binary, is not in UTF-8, or cannot be decompressed.
        """
        characters = 0
        try:
            for raw in lines_of(self._path):
                self.number += 1
                if b"\0" in raw:
                    raise self.error(
                        "this file is binary or in UTF-16",
                        found=f"{self._path}: a NUL byte",
                        expected="text in UTF-8, which may be compressed (.gz, .bz2), or Parquet",
                        todo="convert the file to text in UTF-8, such as by `iconv -f UTF-16 -t "
                        "UTF-8`",
                    )
                content = raw.removesuffix(b"\n").removesuffix(b"\r")
                line = content.decode("utf-8-sig" if self.number == 1 else "utf-8")
                yield line
                characters += len(line) + 1
                if self._most is not None and characters >= self._most:
                    return
        except UnicodeDecodeError as error:
            raise self.error(
                "not valid UTF-8",
                found=f"byte 0x{error.object[error.start]:02x} at column {error.start + 1}",
                expected="UTF-8",
                todo="convert the file to UTF-8",
            ) from error
        except Incomplete as error:
            raise self.error(
                "this file cannot be decompressed",
                found=error,
                expected="a name that ends in .gz or .bz2 only if the file is compressed",
                todo="fetch or compress the file again",
            ) from error
        except ValueError as error:
            raise self.error("this cannot be text", found=error, todo="use another file") from error

    def check_no_table(self) -> None:
        """Refuse a table (CSV), whose separators and other columns would be read as text."""
        name = Path(unpacked_name(self._name))
        separator = _TABLES.get(name.suffix.lower())
        if separator is None:
            return
        columns = next(csv.reader(self.lines(), delimiter=separator), [])
        # A file from a package is in a scratch folder, which nobody can name in a command.
        file = self._path if self._path.name == self._name else Path(self._name)
        options = f"delimiter={json.dumps(separator)}, newlines_in_values=True"
        read = f"csv.read_csv({json.dumps(str(file))}, parse_options=csv.ParseOptions({options}))"
        target = json.dumps(str(file.with_name(f"{name.stem}.parquet")))
        script = f"from pyarrow import csv, parquet; parquet.write_table({read}, {target})"
        raise self.error(
            f"this is a table ({name.suffix[1:].upper()}), but a text is plain text, JSON Lines, "
            "Parquet or the export of a wiki",
            found=f"{file}: columns {', '.join(columns) or '(none)'}",
            expected="a format whose `field` names the column that holds the text",
            todo=f"if it is plain text, let its name end in .txt; or convert it: python -c "
            f"{shlex.quote(script)}",
        )

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
        """Return an error that names the entry, the file and the line, and what to do."""
        line = f", line {self.number}" if self.number else ""
        return UserError(
            problem, where=f"{self._where}: {self._name}{line}", **{"todo": _TODO, **more}
        )


def _each_line(source: SourceFile, field: str) -> Iterator[str]:
    source.check_no_table()
    yield from source.lines()


def _whole_file(source: SourceFile, field: str) -> Iterator[str]:
    source.check_no_table()
    yield "\n".join(source.lines())


def _between_tags(source: SourceFile, field: str) -> Iterator[str]:
    """Yield what stands between `<doc ...>` and `</doc>`, each tag on a line of its own."""
    todo = "put each tag on a line of its own, and each document between two tags"
    body: list[str] | None = None
    for line in source.lines():
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


def _wiki_articles(source: SourceFile, field: str) -> Iterator[str]:
    """Yield the articles of a wiki's XML export, as plain text."""
    is_empty = True
    try:
        for article in articles(source.lines()):
            is_empty = False
            yield article
    except ElementTree.ParseError as error:
        raise source.error(
            "not complete XML", found=error, todo="fetch the export again"
        ) from error
    except NotAnExport as error:
        raise source.error(
            "not an export of a wiki",
            found=error,
            todo="correct `format`, or use the XML export of a wiki's current pages",
        ) from error
    if is_empty:
        raise source.error(
            "the export has no articles",
            expected="pages of the main namespace, apart from redirects",
            todo="export such pages, too",
        )


def _json_field(source: SourceFile, field: str) -> Iterator[str]:
    """Yield one field of one JSON object per line; blank lines are skipped."""
    for line in source.lines():
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


def _table_rows(source: SourceFile, field: str) -> Iterator[str]:
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


_Reader = Callable[[SourceFile, str], Iterator[str]]
FORMATS: dict[str, _Reader] = {
    "lines": _each_line,
    "plain": _whole_file,
    "doc_tags": _between_tags,
    "mediawiki": _wiki_articles,
    "jsonl": _json_field,
    "parquet": _table_rows,
    "parquet_rows": _table_rows,
}
