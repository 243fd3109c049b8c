"""Mix texts: the documents of all parts, one part after another, each document once.

How much of a part is in earlier parts is measured without regard to spaces and case. A document
counts as a whole if it was seen, and otherwise the passages of it that were. Every RUN-th run of
RUN characters that was seen is kept, so a passage is found for certain from 2 * RUN - 1 characters
on, and up to RUN - 1 of them at each end are not counted. RUN is about a line: as much as the 13
tokens in a row by which held-out text is kept apart, but without a tokenizer. Runs of few distinct
characters, such as ruled lines, say nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.digest import SHA256
from freelunch.core.errors import UserError
from freelunch.data.documents import document_line, read_documents
from freelunch.study.steps import DOCUMENTS, TEXT

# The largest share of a part's characters that earlier parts may hold, too. With more, the shares
# would not be those of different texts.
LARGEST_OVERLAP = 0.1
# Characters in a row; a power of 2.
RUN = 64
# The fewest distinct characters of a run that counts; text has more than twice as many.
_DISTINCT = 8
# Characters that are hashed at once: the whole of a document would take eight bytes for each.
_PIECE = 2**18
# An odd number with bits in no order, as multiplicative hashing needs.
_FACTOR = 0x9E3779B97F4A7C15

Characters = NDArray[np.uint32]
Hashes = NDArray[np.uint64]


def mix_text(
    name: str,
    settings: Mapping[str, Any],
    parts: Mapping[str, Artifact],
    folder: Path,
    fingerprint: str,
) -> Artifact:
    """Write the documents of several texts as one text, an artifact of kind "text".

    Beside the facts of any text, it has `parts`, in their order: the `name` of each, its
    `documents` and `characters`, `duplicates` (how many were dropped since they came before) and
    `text` (the digest of its artifact). The shares are kept when samples are drawn
    (`mixture_drawing`), since they are shares of tokens. UserError if a part repeats too much of
    those before it.
    """
    writer = ArtifactWriter(folder, TEXT, fingerprint)
    lines: list[str] = []
    facts: list[dict[str, Any]] = []
    read = ((part, read_documents(text.folder)) for part, text in parts.items())
    for part, documents, dropped in documents_of_parts(name, read):
        lines += map(document_line, documents)
        counts = {"documents": len(documents), "characters": sum(map(len, documents))}
        digest = parts[part].digest
        facts.append({"name": part, **counts, "duplicates": dropped, "text": digest})
    writer.add_text(DOCUMENTS, "".join(lines))
    files = {f"{part}/{DOCUMENTS}": text.files[DOCUMENTS][SHA256] for part, text in parts.items()}
    return writer.finish(
        settings=dict(settings),
        origin={"source": settings["source"], "files": files},
        parts=facts,
        documents=sum(each["documents"] for each in facts),
        characters=sum(each["characters"] for each in facts),
        duplicates=sum(each["duplicates"] for each in facts),
    )


def documents_of_parts(
    name: str, parts: Iterable[tuple[str, Iterable[str]]]
) -> Iterator[tuple[str, list[str], int]]:
    """Yield each part of a mixture, its documents, each once and in no earlier part, and how many
    were dropped. Those of different parts are compared without regard to spaces and case; those
    without a word are left out.

    UserError if a part repeats too much of the parts before it.
    """
    before = PassageIndex()
    for part, documents in parts:
        written = [document for document in documents if document.strip()]
        # A table may repeat its own rows.
        once = list(dict.fromkeys(written))
        counts = [before.repeated(document) for document in once]
        repeated = [count for count, _ in counts if count]
        share = sum(repeated) / max(sum(size for _, size in counts), 1)
        if share > LARGEST_OVERLAP:
            raise UserError(
                "the parts of the mixture overlap",
                where=f"texts.{name}.parts.{part}",
                found=f"{share:.1%} of its characters, in {len(repeated):,} of its {len(once):,} "
                "documents, are in the parts before it, too",
                expected=f"at most {LARGEST_OVERLAP:.0%}",
                todo="leave out one of the parts",
            )
        new = [document for document in once if document not in before]
        before.add(once)
        yield part, new, len(written) - len(new)


class PassageIndex:
    """What the documents hold that were added so far: 8 bytes for each RUN characters, and a digest
    of each document.
    """

    def __init__(self) -> None:
        self._documents: set[bytes] = set()
        # Sorted.
        self._runs: Hashes = np.empty(0, np.uint64)

    def __contains__(self, document: str) -> bool:
        return _digest(_plain(document)) in self._documents

    def add(self, documents: Iterable[str]) -> None:
        """Add documents."""
        runs = [self._runs]
        for document in documents:
            plain = _plain(document)
            self._documents.add(_digest(plain))
            runs += [_aligned(piece) for _, piece in _pieces(plain)]
        self._runs = np.unique(np.concatenate(runs))

    def repeated(self, document: str) -> tuple[int, int]:
        """Return how many characters of a document were seen, and how many it has; spaces do not
        count.
        """
        plain = _plain(document)
        if _digest(plain) in self._documents:
            return len(plain), len(plain)
        # How many runs of those that were seen begin at a place, minus how many ended before it.
        inside = np.zeros(len(plain) + 1, np.int32)
        if self._runs.size:
            for start, piece in _pieces(plain):
                hashes = _hashes(piece)
                places = np.minimum(np.searchsorted(self._runs, hashes), self._runs.size - 1)
                begins = start + np.flatnonzero(self._runs[places] == hashes)
                inside[begins] += 1
                inside[begins + RUN] -= 1
        return int(np.count_nonzero(np.cumsum(inside, out=inside))), len(plain)


def _plain(document: str) -> str:
    """Return a document without spaces, in one case."""
    return "".join(document.split()).casefold()


def _digest(plain: str) -> bytes:
    return hashlib.sha256(plain.encode()).digest()


def _pieces(plain: str) -> Iterator[tuple[int, Characters]]:
    """Yield the characters of a document in pieces that each run is whole in, and where they begin,
    a multiple of RUN.
    """
    for start in range(0, len(plain), _PIECE):
        piece = plain[start : start + _PIECE + RUN - 1].encode("utf-32-le")
        yield start, np.frombuffer(piece, np.uint32)


def _aligned(piece: Characters) -> Hashes:
    """Return hashes of the runs that begin at a multiple of RUN, without those that say nothing."""
    runs = piece[: piece.size // RUN * RUN].reshape(-1, RUN)
    changes = np.count_nonzero(np.diff(np.sort(runs, axis=1), axis=1), axis=1)
    return _hashes(runs[changes + 1 >= _DISTINCT])[..., 0]


def _hashes(characters: Characters) -> Hashes:
    """Return a hash of each run of RUN characters along the last axis, (..., n), by the place where
    it begins, (..., max(n - RUN + 1, 0)). It is that of the run's first half, times a factor, plus
    that of its second half, all modulo 2^64.
    """
    hashes, step, factor = characters.astype(np.uint64), 1, _FACTOR
    while step < RUN:
        hashes = hashes[..., :-step] * np.uint64(factor) + hashes[..., step:]
        step, factor = 2 * step, factor * factor % 2**64
    return hashes
