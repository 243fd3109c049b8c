"""Draw sequences of tokens from a mixture: every part has its share, and no token comes twice.

For each part and seed, the documents are put in random order and divided into three sets: those for
training, and two that are held out. All samples of one kind are beginnings of one order of
sequences, so a larger sample begins with the smaller one. Nothing depends on how many sequences are
drawn.
"""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from freelunch.core.artifact import Artifact, check_belongs
from freelunch.core.errors import UserError
from freelunch.data.documents import read_documents
from freelunch.data.samples import GRAM, Gram, Span, TokenJob, encode, grams, load_tokenizer
from freelunch.model.token_ids import begin_with, read_tokens
from freelunch.study.cell import derive_seed
from freelunch.study.sources import REFUSE

# What the documents of a part are for: training; choosing among candidates; measuring cells.
TRAINING, SELECTION, MEASURED = "training", "selection", "measured"


def sample_mixture(
    job: TokenJob, evaluation: Artifact, windows: Artifact, settings: dict[str, int], most: int = 0
) -> Artifact:
    """Write the token ids of a sample of a mixture, (samples, length), int64, drawn by `settings`.

    A sample that is larger than the calibration sample begins with it. With `measured`, it is
    held-out text: that many sequences, on which cells are measured, follow the `samples` on which
    candidates are compared. The largest sample of the study has `most` sequences, so that a mixture
    that is too short for it is refused at once.

    UserError if a part is too short or holds evaluation text, whose windows are by the same
    tokenizer, or if the calibration sample is of another text or model.
    """
    samples = settings["samples"]
    last: dict[str, Any] = {"windows": windows.digest}
    if job.calibration is not None:
        check_belongs(job.calibration, "text", job.text)
        check_belongs(job.calibration, "model", job.model)
        last["calibration"] = job.calibration.digest
    drawing = MixtureDrawing(job, evaluation, windows, settings["length"], settings["seed"])
    if "measured" in settings:
        drawn = (drawing.draw(SELECTION, samples), drawing.draw(MEASURED, settings["measured"]))
        input_ids = torch.cat(drawn)
    else:
        input_ids = drawing.draw(TRAINING, max(samples, most))[:samples]
        last["distinct_tokens"] = input_ids.numel()
    parts = {part.name: {"share": part.share, **part.facts} for part in drawing.parts}
    return job.write(input_ids, settings=settings, parts=parts, last=last)


@dataclass
class MixturePart:
    """A part of a mixture, as one seed divides it.

    Attributes:
        name, share: Key in `texts`, and its share of the tokens of every sample.
        indices: Its documents for each use, by their numbers in the mixture.
        spans: The document and the first token of each sequence for a use, in the order of drawing.
            No two overlap.
        facts: `documents` longer than a sequence, apart from evaluation text, and their `tokens`;
            `short_documents` and `evaluation_documents`, which were left out; `repeating`, the
            sequences left out since they share GRAM tokens in a row with a held-out document.
    """

    name: str
    share: float
    indices: dict[str, list[int]] = field(default_factory=dict)
    spans: dict[str, list[Span]] = field(default_factory=dict)
    facts: dict[str, int] = field(default_factory=dict)


class MixtureDrawing:
    """The sequences of a mixture, the text of a job, by one model's tokenizer and one seed.

    The three sets share no document, and no GRAM tokens in a row. No document that is used shares
    GRAM tokens in a row with a window of the evaluation text. UserError if a part holds evaluation
    text and must not, or has too few documents. `documents` are those of all `parts`, one part
    after another, and `tokens` their token ids.
    """

    def __init__(
        self, job: TokenJob, evaluation: Artifact, windows: Artifact, length: int, seed: int
    ) -> None:
        self._length, self._where = length, f"texts.{job.text.folder.name}.parts"
        self._bos = job.bos
        self._settings: dict[str, Any] = job.text.facts["settings"]
        self.documents = read_documents(job.text.folder)
        tokenizer = load_tokenizer(job.model)
        self.tokens: list[list[int]] = encode(tokenizer, self.documents)
        evaluated = read_documents(evaluation.folder)
        if windows.facts["documents"] is not None:
            evaluated = [evaluated[index] for index in set(windows.facts["documents"])]
        self._evaluated = frozenset(evaluated)
        rows: list[list[int]] = read_tokens(windows).tolist()
        self._in_windows = frozenset(gram for row in rows for gram in grams(row))
        self.parts: list[MixturePart] = []
        first = 0
        for facts in job.text.facts["parts"]:
            name, end = facts["name"], first + facts["documents"]
            part = MixturePart(name, self._settings["parts"][name]["share"])
            generator = random.Random(derive_seed(seed, "mixture", name))
            self._divide_(part, range(first, end), generator)
            self.parts.append(part)
            first = end
        chosen_on, measured = self._grams_of(SELECTION), self._grams_of(MEASURED)
        apart = {SELECTION: frozenset(), MEASURED: chosen_on, TRAINING: chosen_on | measured}
        for part in self.parts:
            generator = random.Random(derive_seed(seed, "mixture", part.name, "sequences"))
            part.facts["repeating"] = 0
            for use, indices in part.indices.items():
                spans = self._sequences(indices, generator)
                part.spans[use] = [
                    (index, at)
                    for index, at in spans
                    if apart[use].isdisjoint(grams(self.tokens[index][at : at + length]))
                ]
                part.facts["repeating"] += len(spans) - len(part.spans[use])

    def draw(self, use: str, count: int) -> Tensor:
        """Return the token ids of the first sequences for a use, (count, length), int64, each of
        the part that is furthest behind its share; UserError if a part is too short for its share.
        """
        rows: list[list[int]] = []
        drawn = dict.fromkeys((part.name for part in self.parts), 0)
        while len(rows) < count:
            behind = [part.share * (len(rows) + 1) - drawn[part.name] for part in self.parts]
            part = self.parts[behind.index(max(behind))]
            available, needed = len(part.spans[use]), math.ceil(part.share * count)
            if drawn[part.name] == available:
                todo = "give the part a smaller share, draw fewer sequences, or train for epochs"
                if use != TRAINING:
                    todo = "raise `held_out` in the mixture, or hold out fewer sequences"
                raise self._refusal(
                    part,
                    "a part of the mixture is too short",
                    found=f"{available:,} sequences of {self._length} tokens for {use}",
                    expected=f"{needed:,} sequences, {needed * self._length:,} tokens: "
                    f"{part.share:g} of the {count:,} sequences that are drawn",
                    todo=todo,
                )
            index, at = part.spans[use][drawn[part.name]]
            rows.append(self.tokens[index][at : at + self._length])
            drawn[part.name] += 1
        drawn_ids = torch.tensor(rows, dtype=torch.int64).reshape(count, self._length)
        return begin_with(drawn_ids, self._bos)

    def _grams_of(self, use: str) -> frozenset[Gram]:
        indices = (index for part in self.parts for index in part.indices[use])
        return frozenset(gram for index in indices for gram in grams(self.tokens[index]))

    def _divide_(self, part: MixturePart, indices: range, generator: random.Random) -> None:
        """Choose the documents of a part for each use, and note what is left out."""
        long = [index for index in indices if len(self.tokens[index]) > self._length]
        usable = [index for index in long if not self._holds_evaluation_text(index)]
        tokens, left_out = self._count(usable), len(long) - len(usable)
        if left_out and self._settings["evaluation_text"] == REFUSE:
            raise self._refusal(
                part,
                "a part of the mixture holds evaluation text",
                found=f"{1 - tokens / self._count(long):.1%} of its tokens, in {left_out:,} "
                f"documents, which share {GRAM} tokens in a row with an evaluation window",
                expected="none",
                todo="set `evaluation_text: leave_out` in the mixture, which leaves these "
                "documents out, or use another text",
            )
        part.facts = {
            "documents": len(usable),
            "tokens": tokens,
            "short_documents": len(indices) - len(long),
            "evaluation_documents": left_out,
        }
        generator.shuffle(usable)
        half = math.ceil(len(usable) * self._settings["held_out"] / 2)
        if len(usable) <= 2 * half:
            raise self._refusal(
                part,
                "a part of the mixture has too few documents",
                found=f"{len(usable)} documents of more than {self._length} tokens that the "
                "evaluation does not use",
                expected="at least 3: one to train on, and two that are held out",
                todo="leave out the part, or shorten study.calibration.length",
            )
        selection, measured, training = usable[:half], usable[half : 2 * half], usable[2 * half :]
        part.indices = {SELECTION: selection, MEASURED: measured, TRAINING: training}

    def _count(self, indices: Iterable[int]) -> int:
        return sum(len(self.tokens[index]) for index in indices)

    def _holds_evaluation_text(self, index: int) -> bool:
        in_windows = not self._in_windows.isdisjoint(grams(self.tokens[index]))
        return in_windows or self.documents[index] in self._evaluated

    def _sequences(self, indices: Iterable[int], generator: random.Random) -> list[Span]:
        spans = []
        for index in indices:
            count, left = divmod(len(self.tokens[index]), self._length)
            offset = generator.randrange(left + 1)
            spans += [(index, offset + at * self._length) for at in range(count)]
        generator.shuffle(spans)
        return spans

    def _refusal(self, part: MixturePart, problem: str, **more: str) -> UserError:
        return UserError(problem, where=f"{self._where}.{part.name}", **more)
