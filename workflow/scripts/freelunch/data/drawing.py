"""Draw sequences of tokens from random documents of a text."""

import json
import random
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from freelunch.core.artifact import Artifact, check_belongs
from freelunch.core.errors import UserError
from freelunch.data.documents import read_documents
from freelunch.data.token_job import TokenJob, load_tokenizer
from freelunch.study.cell import derive_seed

# The file in a sample's artifact that says how it was drawn: `spans`, the document and the first
# token of each sequence; `generator`, the state of the random generator after the last one.
DRAWN = "drawn.json"

Span = tuple[int, int]
Gram = tuple[int, ...]
# Tokens in a row that two samples must not share if they are to be apart.
GRAM = 13
# Sequences in a row that may be refused before a drawing gives up, for each document.
_TRIES = 100


class Drawing:
    """Draw documents with replacement, and from each a random sequence of tokens.

    A document that is not longer than a sequence is skipped, and so is one that is left out, and a
    sequence that shares GRAM tokens in a row with one that is kept apart. This is the full-length
    mode of the paper's third version: nothing is padded. Successive draws continue one stream of
    random numbers.

    Args:
        documents: The text.
        tokenizer: The model's tokenizer.
        length: Tokens in a sequence.
        seed: The cell's seed.
        where: The text's name in messages.

    Attributes:
        spans: The document and the first token of each sequence of the last draw.
    """

    def __init__(
        self, documents: list[str], tokenizer: Any, length: int, seed: int, where: object
    ) -> None:
        self._documents, self._tokenizer, self._length = documents, tokenizer, length
        self._where = where
        self._generator = random.Random(derive_seed(seed, "calibration"))
        self._encoded: dict[int, list[int]] = {}
        self._left_out: frozenset[int] = frozenset()
        self._apart: frozenset[Gram] = frozenset()
        self.spans: list[Span] = []

    @classmethod
    def begin(cls, job: TokenJob, length: int, seed: int) -> "Drawing":
        """Return the drawing of a cell's first sample from a text."""
        documents = read_documents(job.text.folder)
        return cls(documents, load_tokenizer(job.model), length, seed, job.text.folder)

    @classmethod
    def resume(cls, job: TokenJob, sample: Artifact) -> "Drawing":
        """Return a drawing that continues after a sample.

        Raises:
            UserError: The sample was not drawn from this text by this model's tokenizer.
        """
        check_belongs(sample, "text", job.text)
        check_belongs(sample, "model", job.model)
        settings = sample.facts["settings"]
        drawing = cls.begin(job, settings["length"], settings["seed"])
        version, state, gauss = json.loads(sample.path(DRAWN).read_text())["generator"]
        drawing._generator.setstate((version, tuple(state), gauss))
        return drawing

    def draw(self, count: int) -> Tensor:
        """Return the token ids of `count` sequences, (count, length), int64.

        Raises:
            UserError: No document is long enough, or all that are long enough are left out.
        """
        sequences: list[list[int]] = []
        seen: set[int] = set()
        refused = 0
        self.spans = []
        while len(sequences) < count:
            index = self._generator.randrange(len(self._documents))
            seen.add(index)
            tokens = [] if index in self._left_out else self._tokens(index)
            if len(tokens) > self._length:
                start = self._generator.randrange(len(tokens) - self._length + 1)
                sequence = tokens[start : start + self._length]
                if self._apart.isdisjoint(grams(sequence)):
                    refused = 0
                    sequences.append(sequence)
                    self.spans.append((index, start))
                    continue
                refused += 1
            elif not sequences and not refused and len(seen) == len(self._documents):
                raise self._nothing_to_draw()
            if refused > _TRIES * len(self._documents):
                raise self._nothing_apart()
        return torch.tensor(sequences)

    def keep_apart(self, spans: Iterable[Span]) -> None:
        """Skip from now on the documents of these spans, and sequences that share GRAM tokens in a
        row with one of them, and nothing else.
        """
        spans = list(spans)
        self._left_out = frozenset(document for document, _ in spans)
        self._apart = frozenset(
            gram
            for document, start in spans
            for gram in grams(self._tokens(document)[start : start + self._length])
        )

    def state(self) -> str:
        """Return the content of the file DRAWN after the last draw."""
        return json.dumps({"spans": self.spans, "generator": self._generator.getstate()}) + "\n"

    def _tokens(self, index: int) -> list[int]:
        if index not in self._encoded:
            document = self._documents[index]
            self._encoded[index] = self._tokenizer(document, verbose=False)["input_ids"]
        return self._encoded[index]

    def _nothing_apart(self) -> UserError:
        return UserError(
            "no sequence is left that is apart from another sample",
            where=self._where,
            found=f"{GRAM} tokens in a row of every sequence are in another sample, too",
            expected="text that does not repeat itself",
            todo="use a text with more documents, or smaller samples (study.calibration, "
            "study.selection, study.evaluation.drift)",
        )

    def _nothing_to_draw(self) -> UserError:
        if self._left_out:
            return UserError(
                "no document is left to draw from",
                where=self._where,
                found=f"{len(self._left_out)} documents that another sample has touched "
                "(calibration and held-out text share none); no other document is long enough",
                expected=f"a document of more than study.calibration.length = {self._length} "
                "tokens",
                todo="use a text with more documents or fewer samples (study.calibration, "
                "study.selection), or set `select_on: evaluation` if this is for a search",
            )
        longest = max(len(tokens) for tokens in self._encoded.values())
        return UserError(
            "no document is longer than one calibration sequence",
            where=self._where,
            found=f"the longest document has {longest} tokens",
            expected=f"more than study.calibration.length = {self._length}",
            todo="shorten `length`, or use a text with longer documents",
        )


def grams(tokens: list[int]) -> Iterator[Gram]:
    """Yield each GRAM tokens in a row."""
    return (tuple(tokens[at : at + GRAM]) for at in range(len(tokens) - GRAM + 1))


def read_spans(sample: Artifact) -> list[Span]:
    """Return the document and the first token of each sequence of a sample, in its order."""
    return [
        (document, start) for document, start in json.loads(sample.path(DRAWN).read_text())["spans"]
    ]


def distinct_tokens(spans: Iterable[Span], length: int) -> int:
    """Return how many tokens of the text spans of a length cover, counting overlaps once."""
    covered, document, end = 0, -1, 0
    for here, start in sorted(spans):
        if here != document:
            document, end = here, 0
        covered += max(0, start + length - max(start, end))
        end = max(end, start + length)
    return covered
