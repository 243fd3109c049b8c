"""What a text is: the format of its file, the field that holds it, and its documents."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from freelunch.core.errors import UserError, first_of
from freelunch.data.sources import Obtained
from freelunch.data.text_formats import FORMATS, SourceFile
from freelunch.data.unpacked import unpacked_name
from freelunch.study.sources import ROWS, WIKI

# Characters that are read of a text: more than any study on one machine draws from. Removing a
# wiki's markup takes some seconds for a million.
MOST_CHARACTERS, _MOST_OF_WIKI = 50_000_000, 3_000_000
# How many rows decide the field, and how many lines decide the format.
_ROWS = 200
# Names that fields with the text usually have, the most usual first.
_FIELDS = ("text", "content", "document", "body", "passage", "article")
# A line of at least so many characters may be a document of its own; shorter ones are lines of one
# document, such as a book.
_DOCUMENT_CHARACTERS = 400
_FEWEST_DOCUMENTS = 16
# What the XML export of a wiki begins with.
_WIKI_EXPORT = re.compile(r"\s*(<\?xml[^>]*\?>)?(\s|<!--.*?-->)*<mediawiki[\s>]", re.DOTALL)


@dataclass(frozen=True)
class SeenText:
    """A text that was looked at.

    Attributes:
        format: Its format, a value of `texts.*.format`.
        field: The field that holds the text (jsonl and parquet).
        why: Why this format and field, as a sentence without its capital letter and full stop.
        documents: Its documents, or those in as many characters as are read.
        complete: Whether these are all of its documents.
    """

    format: str
    field: str
    why: str
    documents: list[str]
    complete: bool


def text_at(path: Path, where: str) -> SeenText:
    """Look at a file, and find out how it stores a text.

    Raises:
        UserError: There is no such file, or it is empty or holds no text.
    """
    _check_file(path, where)
    name, field = unpacked_name(path.name).lower(), "text"
    parquet = _is_parquet(path)
    beginning = [] if parquet else list(islice(_source(path, where).lines(), _ROWS))
    first = next((line for line in beginning if line.strip()), "").strip()
    if parquet:
        form = "parquet"
        field, why = _field(_columns(path, where), path, where)
    elif first.startswith("[") and name.endswith(".json"):
        raise UserError(
            "this JSON file is a list, but a text needs one JSON object a line",
            where=where,
            found=path,
            expected="one object a line (JSON Lines)",
            todo=f"convert it, such as by `jq -c '.[]' {path} > {path.with_suffix('.jsonl')}`",
            instead=path.with_suffix(".jsonl"),
        )
    elif _is_object(first):
        form = "jsonl"
        field, why = _field(_objects(beginning), path, where)
    elif name.endswith((".jsonl", ".ndjson")):
        raise UserError(
            "this is named as JSON Lines, but its first line is not a JSON object",
            where=where,
            found=f"{path}: {first[:40]}",
            expected="one object a line",
            todo="correct the file; if it is plain text, let its name end in .txt",
        )
    elif first.startswith(("<doc ", "<doc>")):
        form, why = "doc_tags", "each document stands between <doc ...> and </doc>"
    elif _WIKI_EXPORT.match("\n".join(beginning)):
        form, why = WIKI, "this is the XML export of a wiki"
    else:
        form, why = _plain_or_lines(beginning)
    documents, complete = read_documents(path, form, field, where)
    return SeenText(form, field, why, documents, complete)


def read_documents(
    path: Path, form: str, field: str, where: str, *, is_fetched: bool = False
) -> tuple[list[str], bool]:
    """Return the documents of a text, or those at its beginning, and whether they are all.

    Args:
        path: The file.
        form: A value of `texts.*.format`.
        field: The field that holds the text.
        where: The text, for messages.
        is_fetched: Whether these are the documents of a text that was fetched, which all count.

    Raises:
        UserError: The file is not there, is not in this format, is a table, or has no documents.
    """
    _check_file(path, where)
    source = _source(path, where)
    documents: list[str] = []
    seen: set[str] = set()
    characters = 0
    lines: Iterable[str] = source.lines()
    most = _MOST_OF_WIKI if form == WIKI else MOST_CHARACTERS
    if form == "plain":
        lines = _first(lines)
    for document in FORMATS[form](source, lines, field):
        # As `data.texts` keeps them: neither blank ones nor repetitions.
        if is_fetched or form == ROWS or (document.strip() and document not in seen):
            documents.append(document)
            seen.add(document)
        characters += len(document)
        if characters >= most:
            return documents, False
    if not any(document.strip() for document in documents):
        raise UserError(
            "the text has no documents",
            where=where,
            found=f"{path}: blank lines only",
            todo="use a file with text",
        )
    return documents, True


def _source(path: Path, where: str) -> SourceFile:
    return SourceFile(where, Obtained(path, {"files": {path.name: ""}}))


def _first(lines: Iterable[str]) -> Iterator[str]:
    characters = 0
    for line in lines:
        yield line
        characters += len(line) + 1
        if characters >= MOST_CHARACTERS:
            return


def _check_file(path: Path, where: str) -> None:
    """Refuse a path that is not a file, and an empty file."""
    problem, found, todo = None, str(path.absolute()), "name the file that holds the text"
    instead = None
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.is_file())
        problem = "this is a folder, but a text is one file"
        found += f", with {', '.join(first_of(inside)) or 'no file'}"
        if inside:
            instead = path / inside[0]
            todo = f"name one of its files, such as {instead}"
    elif not path.is_file():
        problem, todo = "there is no such file", "correct the path of the text"
    elif path.stat().st_size == 0:
        problem, todo = "the text is empty", "use a file with text"
    if problem:
        raise UserError(problem, where=where, found=found, todo=todo, instead=instead)


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return path.name.lower().endswith(".parquet") or file.read(4) == b"PAR1"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _objects(lines: Iterable[str]) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in lines if _is_object(line)]


def _columns(path: Path, where: str) -> list[Mapping[str, Any]]:
    """Return the first rows of a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            batch = next(file.iter_batches(batch_size=_ROWS), None)
            return [] if batch is None else list(batch.to_pylist())
    except pyarrow.ArrowException as error:
        raise UserError(
            "not a valid Parquet file",
            where=where,
            found=f"{path}: {error}",
            todo="fetch the file again",
        ) from error


def _field(rows: list[Mapping[str, Any]], path: Path, where: str) -> tuple[str, str]:
    """Return the field that holds the text, and why it was chosen."""
    fields = dict.fromkeys(key for row in rows for key in row)
    # The text of a document is in every row.
    texts = [key for key in fields if all(isinstance(row.get(key), str) for row in rows)]
    if not texts:
        raise UserError(
            "no field holds text in each row",
            where=where,
            found=f"{path}: fields {', '.join(fields) or '(none)'}",
            expected="one field that is a string in each row",
            todo="write the text of each document to one field",
        )
    if len(texts) == 1:
        return texts[0], f"`{texts[0]}` is the only field with text"
    for name in _FIELDS:
        if name in texts:
            return name, f"`{name}` was chosen from the fields with text: {', '.join(texts)}"
    longest = max(texts, key=lambda key: fmean(len(row[key]) for row in rows))
    return longest, f"`{longest}` is the longest of the fields with text: {', '.join(texts)}"


def _plain_or_lines(lines: list[str]) -> tuple[str, str]:
    """Return whether each line is a document, or the file is one, and why."""
    filled = [line for line in lines if line.strip()]
    long = [line for line in filled if len(line) >= _DOCUMENT_CHARACTERS]
    if len(long) >= _FEWEST_DOCUMENTS and 2 * len(long) >= len(filled):
        return "lines", "the lines are long, so each is a document"
    return "plain", "the lines are short or few, so the whole file is one document"
