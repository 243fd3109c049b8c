"""What a text is: the format of its file, the field that holds it, and its documents in tokens.

No tensor library is imported, so that planning can ask.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from freelunch.core.errors import UserError, first_of
from freelunch.data.text_formats import FORMATS, SourceFile
from freelunch.study.cell import derive_seed
from freelunch.study.sources import PARAGRAPHS, ROWS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Characters that are read of a text: more than any study on one machine draws from.
MOST_CHARACTERS = 50_000_000
# How many rows decide the field, and how many lines decide the format.
_ROWS = 200
# Names that fields with the text usually have, the most usual first.
_FIELDS = ("text", "content", "document", "body", "passage", "article")
# A line of at least so many characters may be a document of its own; shorter ones are lines of one
# document, such as a book.
_DOCUMENT_CHARACTERS = 400
_FEWEST_DOCUMENTS = 16
# Characters that the tokenizer counts, in about a second. The rest is estimated from their ratio.
COUNTED_CHARACTERS = 500_000
# Characters per token if there is no tokenizer: as in Wikipedia with SmolLM2's (4.1 in docs/full).
TOKEN_CHARACTERS = 4.1


@dataclass(frozen=True)
class InspectedText:
    """A text that was looked at: its format, the field that holds it (jsonl and parquet), and its
    documents, which are `complete` unless it is longer than what is read.
    """

    format: str
    field: str
    documents: list[str]
    complete: bool


def inspect_text(paths: Sequence[Path], where: str) -> InspectedText:
    """Look at the files of a text, and find out how the first one stores it; UserError if there is
    no text in them. If they have few documents, as a book has one, these are divided into parts.
    """
    path = paths[0]
    _check_file(path, where)
    field = "text"
    with path.open("rb") as file:
        is_parquet = path.name.lower().endswith(".parquet") or file.read(4) == b"PAR1"
    source = SourceFile(where, path, path.name)
    beginning = [] if is_parquet else list(islice(source.lines(), _ROWS))
    written = [line for line in beginning if line.strip()]
    first = written[0].strip() if written else ""
    rows = [row for row in map(_row, written) if row]
    for batch in islice(source.batches(rows=_ROWS), 1) if is_parquet else ():
        rows = batch.to_pylist()
    if is_parquet or (rows and _row(first) is not None):
        form, field = "parquet" if is_parquet else "jsonl", _field(rows, path, where)
    elif first.startswith(("<doc ", "<doc>")):
        form = "doc_tags"
    elif first.startswith(("<?xml", "<mediawiki")):
        raise UserError(
            "XML is markup rather than text",
            where=where,
            found=f"{path}: {first[:60]}",
            expected="plain text, documents in <doc ...> tags, JSON Lines or Parquet",
            todo="take the text out of it first; of a wiki's dump, WikiExtractor does",
        )
    else:
        long = [line for line in written if len(line) >= _DOCUMENT_CHARACTERS]
        is_of_lines = len(long) >= _FEWEST_DOCUMENTS and 2 * len(long) >= len(written)
        form = "lines" if is_of_lines else "plain"
    documents, complete = read_documents(paths, form, field, where)
    if form == "plain" and len(documents) < _FEWEST_DOCUMENTS:
        parts, _ = read_documents(paths, PARAGRAPHS, field, where)
        if len(parts) >= _FEWEST_DOCUMENTS:
            form, documents = PARAGRAPHS, parts
    return InspectedText(form, field, documents, complete)


def read_documents(
    paths: Sequence[Path], form: str, field: str, where: str, *, is_fetched: bool = False
) -> tuple[list[str], bool]:
    """Return the documents of the files of a text in a format, or those at its beginning, and
    whether they are all. `is_fetched` says that they were fetched before, and so all count.

    UserError if a file is not there, is not in this format, is a table, or there are no documents.
    """
    documents: list[str] = []
    seen: set[str] = set()
    characters = 0
    for path in paths:
        _check_file(path, where)
        # The document of a plain file is all of its lines.
        source = SourceFile(where, path, path.name, MOST_CHARACTERS if form == "plain" else None)
        for document in FORMATS[form](source, field):
            # As `data.texts` keeps them: neither blank ones nor repetitions.
            if is_fetched or form == ROWS or (document.strip() and document not in seen):
                documents.append(document)
                seen.add(document)
            characters += len(document)
            if characters >= MOST_CHARACTERS:
                return documents, False
    if not any(document.strip() for document in documents):
        found, todo = f"{paths[0]}: blank lines only", "use a file with text"
        raise UserError("the text has no documents", where=where, found=found, todo=todo)
    return documents, True


def _check_file(path: Path, where: str) -> None:
    if not path.is_file():
        does = "is no regular file" if path.exists() else "does not exist"
        found = f"{path.absolute()} {does}"
        if path.is_dir():
            inside = first_of(sorted(file.name for file in path.iterdir()))
            found = f"the folder {path}, with {', '.join(inside) or 'no file'}"
        raise UserError(
            "there is no such text",
            where=where,
            found=found,
            expected="a file; a folder of files; a text of config/registry.yaml, such as c4; or "
            "owner/name:file, a file of a dataset on the Hugging Face hub",
            todo="correct the name or the path",
        )
    if path.stat().st_size == 0:
        raise UserError("the text is empty", where=where, found=path, todo="use a file with text")


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _field(rows: Sequence[Mapping[str, Any]], path: Path, where: str) -> str:
    """Return the field that holds the text: one with a usual name, or else the longest."""
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
    longest = max(texts, key=lambda key: fmean(len(row[key]) for row in rows))
    return next((name for name in _FIELDS if name in texts), longest)


@dataclass(frozen=True)
class Amounts:
    """The tokens of each document of a text: `exact` if a tokenizer counted all of them, `complete`
    if these are all documents of the text, rather than its beginning.
    """

    lengths: Sequence[int]
    exact: bool
    complete: bool = True

    @classmethod
    def of(
        cls, documents: Iterable[str], tokenizer: "Tokenizer | None", complete: bool = True
    ) -> "Amounts":
        """Count the tokens of documents, or estimate them by their characters."""
        lengths, counted, tokens, exact = [], 0, 0, tokenizer is not None
        for document in documents:
            left = COUNTED_CHARACTERS - counted
            if tokenizer is None or left <= 0:
                ratio = counted / tokens if tokens else TOKEN_CHARACTERS
                lengths.append(round(len(document) / ratio))
                exact = False
                continue
            length = len(tokenizer.encode(document[:left], add_special_tokens=False).ids)
            counted += min(len(document), left)
            tokens += length
            if len(document) > left:
                length, exact = round(length * len(document) / left), False
            lengths.append(length)
        return cls(lengths, exact, complete)

    @property
    def tokens(self) -> int:
        """Return the tokens of the documents joined, with one between each two."""
        return sum(self.lengths) + len(self.lengths) - 1

    def longer_than(self, length: int) -> int:
        """Return how many documents a sequence of this length can be drawn from."""
        return sum(tokens > length for tokens in self.lengths)

    def left_after(self, samples: int, length: int, seed: int) -> int:
        """Return how many documents are long enough and not touched by the calibration sample, by
        drawing as `data.samples.Drawing` does. At least one has to be longer than a sequence.
        """
        generator = random.Random(derive_seed(seed, "calibration"))
        touched: set[int] = set()
        drawn = 0
        while drawn < samples:
            index = generator.randrange(len(self.lengths))
            if self.lengths[index] > length:
                generator.randrange(self.lengths[index] - length + 1)
                touched.add(index)
                drawn += 1
        return self.longer_than(length) - len(touched)
