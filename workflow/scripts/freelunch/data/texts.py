"""Fetch a text and write it as documents, or store ready token ids.

A text becomes `documents.jsonl`: one JSON object `{"text": ...}` per line, in the order of the
source's files and of the documents in each. Blank documents and all but the first of equal ones are
dropped, except in the format `parquet_rows`. All others are kept exactly, apart from line ends:
CRLF becomes LF, and the line end that separates two documents belongs to neither.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.errors import UserError, first_of
from freelunch.data.documents import TOKEN_IDS, document_line
from freelunch.data.sources import Obtained, fetching, obtain
from freelunch.data.text_formats import FORMATS, SourceFile
from freelunch.study.sources import ROWS, Text, Tokens, WheelFiles
from freelunch.study.steps import DOCUMENTS, READY_TOKENS, TEXT

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


def fetch_text(name: str, entry: Text | WheelFiles, folder: Path, fingerprint: str) -> Artifact:
    """Obtain a text, the entry `name` of `texts`, and write it as documents, or ready token ids as
    int64.

    Return an artifact of kind "text", with the facts `settings` (the entry), `origin`, `documents`
    and `characters` (how many), and `duplicates` (how many documents were dropped since an equal
    one came before). For the source `tokens`, an artifact of kind "tokens": `input_ids`, int64
    (samples, length), and the facts `settings`, `origin`, `samples`, `length` and `tokens_sha256`,
    the digest of the ids as little-endian int64 in row order.

    UserError if the text cannot be obtained, is not in the format its entry names, or is empty.
    """
    where = f"texts.{name}"
    with fetching(folder) as scratch:
        obtained = obtain(where, entry, scratch)
        if isinstance(entry, Tokens):
            from safetensors.numpy import save_file

            writer = ArtifactWriter(folder, READY_TOKENS, fingerprint)
            ids = _read_ids(f"{where}.path", obtained.path)
            writer.add(TOKEN_IDS, lambda target: save_file({"input_ids": ids}, target))
            tokens_sha256 = hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()
            counts = {"samples": ids.shape[0], "length": ids.shape[1]}
            facts = {**counts, "tokens_sha256": tokens_sha256}
        else:
            # Each of several files is one document.
            form = "plain" if isinstance(entry, WheelFiles) else entry.format
            field = "" if isinstance(entry, WheelFiles) else entry.field
            writer = ArtifactWriter(folder, TEXT, fingerprint)
            facts = _write_documents(where, obtained, form, field, writer)
        return writer.finish(settings=entry.deciding(), origin=obtained.origin, **facts)


def _write_documents(
    where: str, obtained: Obtained, form: str, field: str, writer: ArtifactWriter
) -> dict[str, int]:
    counts = {"documents": 0, "characters": 0, "duplicates": 0}

    def write(target: Path) -> None:
        seen = set[bytes]()
        with target.open("w", encoding="utf-8", newline="\n") as file:
            for name, path in obtained.files.items():
                source = SourceFile(where, path, name)
                for document in FORMATS[form](source, field):
                    digest = hashlib.sha256(document.encode()).digest()
                    if digest in seen and form != ROWS:
                        counts["duplicates"] += bool(document.strip())
                        continue
                    seen.add(digest)
                    if document.strip() or form == ROWS:
                        file.write(document_line(document))
                        counts["documents"] += 1
                        counts["characters"] += len(document)
        if not counts["documents"]:
            found = "blank lines only" if source.number else "an empty file"
            todo = "correct the source or the `format`"
            raise source.error("the text has no documents", found=found, todo=todo)

    writer.add(DOCUMENTS, write)
    return counts


def _read_ids(where: str, path: Path) -> "NDArray[numpy.int64]":
    """Return `input_ids`, int64 (samples, length), of a safetensors file; UserError if it is no
    such file, or the ids are missing, not a matrix of integers, empty, negative or beyond int64.
    """
    import numpy
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    expected = "`input_ids`, integers from 0 of shape (samples, length), at least one by one"
    try:
        tensors = load_file(path)
    # The library raises one of the others for a dtype that numpy does not have.
    except (SafetensorError, KeyError, TypeError, AttributeError) as error:
        problem = f"{path.name} is not a safetensors file of integers"
        raise UserError(problem, where=where, found=error, expected=expected) from error
    ids = tensors.get("input_ids")
    found = None
    if ids is None:
        found = ", ".join(first_of(tensors, 8)) or "no tensor"
    elif ids.dtype.kind not in "iu" or ids.ndim != 2 or not ids.size:
        found = f"{ids.dtype} of shape {ids.shape}"
    elif ids.min() < 0 or ids.max() > numpy.iinfo(numpy.int64).max:
        found = f"numbers from {ids.min()} to {ids.max()}"
    if ids is None or found is not None:
        raise UserError("no token ids", where=where, found=found, expected=expected)
    return cast("NDArray[numpy.int64]", ids.astype(numpy.int64))
