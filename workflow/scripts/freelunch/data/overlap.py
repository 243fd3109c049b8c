"""How much of a text other texts hold, too, without regard to spaces and case.

A document counts as a whole if it was seen, and otherwise the passages of it that were. Of what was
seen, every RUN-th run of RUN characters is kept, so a passage is found for certain from
2 * RUN - 1 characters on, and up to RUN - 1 of them at each end are not counted. RUN is about a
line: as much as the 13 tokens in a row by which held-out text is kept apart, but without a
tokenizer. Runs of few distinct characters, such as ruled lines, say nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

# Characters in a row; a power of 2.
RUN = 64
# The fewest distinct characters of a run that counts; text has more than twice as many.
_DISTINCT = 8
# Characters that are hashed at once: the whole of a document would take eight bytes for each.
_PIECE = 2**18
# An odd number with bits in no order, as multiplicative hashing needs.
_FACTOR = 0x9E3779B97F4A7C15
_MODULUS = 2**64

Characters = NDArray[np.uint32]
Hashes = NDArray[np.uint64]


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
    it begins, (..., max(n - RUN + 1, 0)).

    The hash of a run is that of its first half, times a factor, plus that of its second half, all
    modulo 2^64.
    """
    hashes, step, factor = characters.astype(np.uint64), 1, _FACTOR
    while step < RUN:
        hashes = hashes[..., :-step] * np.uint64(factor) + hashes[..., step:]
        step, factor = 2 * step, factor * factor % _MODULUS
    return hashes
