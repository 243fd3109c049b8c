"""How much of a text other texts hold, too, without regard to spaces and case.

A passage counts if RUN letters of it in a row were seen before, about a line of text: as much as
the 13 tokens in a row by which held-out text is kept apart, but without a tokenizer. Of what was
seen, only runs that follow each other are kept, so a passage may lack up to RUN - 1 letters at each
end.
"""

import numpy as np
from numpy.typing import NDArray

# Letters in a row; a power of 2.
RUN = 64
# An odd number with bits in no order, as multiplicative hashing needs.
_FACTOR = 0x9E3779B97F4A7C15
_MODULUS = 2**64

Hashes = NDArray[np.uint64]


def letters(document: str) -> str:
    """Return a document without spaces, in one case."""
    return "".join(document.split()).casefold()


class Seen:
    """What documents hold that were seen so far."""

    def __init__(self) -> None:
        self._documents: set[str] = set()
        self._runs: Hashes = np.empty(0, np.uint64)

    def __contains__(self, letters: str) -> bool:
        return letters in self._documents

    def add(self, documents: list[str]) -> None:
        """Add documents, each as its letters."""
        self._documents.update(documents)
        runs = [_runs(document)[::RUN] for document in documents]
        self._runs = np.unique(np.concatenate([self._runs, *runs]))

    def repeated(self, letters: str) -> int:
        """Return how many letters of a document were seen in whole documents or in runs."""
        if letters in self._documents:
            return len(letters)
        if not self._runs.size:
            return 0
        runs = _runs(letters)
        places = np.minimum(np.searchsorted(self._runs, runs), self._runs.size - 1)
        (found,) = np.nonzero(self._runs[places] == runs)
        inside = np.zeros(len(letters) + 1, np.int64)
        inside[found] += 1
        inside[found + RUN] -= 1
        return int(np.count_nonzero(np.cumsum(inside) > 0))


def _runs(letters: str) -> Hashes:
    """Return a hash of each run of RUN letters, by the place where it begins.

    The hash of a run is that of its first half, times a factor, plus that of its second half.
    """
    hashes = np.frombuffer(letters.encode("utf-32-le"), np.uint32).astype(np.uint64)
    step, factor = 1, _FACTOR
    while step < RUN:
        hashes = hashes[:-step] * np.uint64(factor) + hashes[step:]
        step, factor = 2 * step, factor * factor % _MODULUS
    return hashes
