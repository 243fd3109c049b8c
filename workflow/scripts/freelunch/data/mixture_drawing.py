"""Draw sequences of tokens from a mixture: every part has its share, and no token comes twice.

For each part and seed, the documents are put in random order and divided into three sets: those for
training, and two that are held out. All samples of one kind are beginnings of one order of
sequences, so a larger sample begins with the smaller one. Nothing depends on how many sequences are
drawn.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from freelunch.core.artifact import Artifact
from freelunch.core.errors import UserError
from freelunch.data.documents import read_documents
from freelunch.data.drawing import GRAM, Gram, Span, grams
from freelunch.model.token_ids import read_tokens
from freelunch.study.cell import derive_seed
from freelunch.study.sources import REFUSE

# What the documents of a part are for: training; choosing among candidates; measuring cells.
TRAINING, SELECTION, MEASURED = "training", "selection", "measured"


@dataclass
class Part:
    """A part of a mixture, as one seed divides it.

    Attributes:
        name: Key in `texts`.
        share: Its share of the tokens of every sample.
        spans: The document and the first token of each sequence that may be drawn, in the order of
            drawing, for each use of the documents. No two overlap.
        facts: `documents` longer than a sequence, apart from evaluation text, and their `tokens`;
            `short_documents` and `evaluation_documents`, which were left out; `repeating`, the
            sequences that were left out since they share GRAM tokens in a row with a held-out
            document.
    """

    name: str
    share: float
    spans: dict[str, list[Span]] = field(default_factory=dict)
    facts: dict[str, int] = field(default_factory=dict)


class MixtureDrawing:
    """The sequences of a mixture by one model's tokenizer and one seed.

    The three sets share no document, and no GRAM tokens in a row. No document that is used shares
    GRAM tokens in a row with a window of the evaluation text.

    Args:
        documents: The documents of the mixture, one part after another.
        parts: Name, share and number of documents of each part.
        tokens: Token ids of each document.
        evaluated: Documents that the evaluation uses, and GRAM tokens in a row in its windows.
        length: Tokens in a sequence.
        seed: The cell's seed.
        settings: The mixture's settings: `evaluation_text` and `held_out` apply here.
        where: The text's name in messages.

    Raises:
        UserError: A part holds evaluation text and must not, or has too few documents.
    """

    def __init__(
        self,
        documents: Sequence[str],
        parts: Iterable[tuple[str, float, int]],
        tokens: Sequence[list[int]],
        evaluated: tuple[frozenset[str], frozenset[Gram]],
        length: int,
        seed: int,
        settings: Mapping[str, Any],
        where: str,
    ) -> None:
        self._documents, self._tokens, self._evaluated = documents, tokens, evaluated
        self._length, self._where, self._settings = length, where, settings
        self.parts: list[Part] = []
        used: dict[str, dict[str, list[int]]] = {}
        first = 0
        for name, share, count in parts:
            self.parts.append(Part(name, share))
            generator = random.Random(derive_seed(seed, "mixture", name))
            used[name] = self._divided(self.parts[-1], range(first, first + count), generator)
            first += count
        held_out = {
            use: frozenset(
                gram
                for divided in used.values()
                for index in divided[use]
                for gram in grams(tokens[index])
            )
            for use in (SELECTION, MEASURED)
        }
        apart = {
            SELECTION: frozenset[Gram](),
            MEASURED: held_out[SELECTION],
            TRAINING: held_out[SELECTION] | held_out[MEASURED],
        }
        for part in self.parts:
            generator = random.Random(derive_seed(seed, "mixture", part.name, "sequences"))
            for use, indices in used[part.name].items():
                spans = self._sequences(indices, generator)
                part.spans[use] = [
                    (index, at)
                    for index, at in spans
                    if apart[use].isdisjoint(grams(tokens[index][at : at + length]))
                ]
                lost = len(spans) - len(part.spans[use])
                part.facts["repeating"] = part.facts.get("repeating", 0) + lost

    @classmethod
    def of(
        cls,
        model: Artifact,
        text: Artifact,
        evaluation: Artifact,
        windows: Artifact,
        length: int,
        seed: int,
    ) -> "MixtureDrawing":
        """Return the drawing from a mixture's artifact, by a model's tokenizer.

        Args:
            model: For its tokenizer.
            text: The mixture.
            evaluation: The evaluation text.
            windows: Its windows by the same tokenizer.
            length: Tokens in a sequence.
            seed: The cell's seed.
        """
        tokenizer = AutoTokenizer.from_pretrained(model.folder, trust_remote_code=False)
        documents, settings = read_documents(text.folder), text.facts["settings"]
        evaluated = read_documents(evaluation.folder)
        if windows.facts["documents"] is not None:
            evaluated = [evaluated[index] for index in set(windows.facts["documents"])]
        in_windows = (gram for row in read_tokens(windows).tolist() for gram in grams(row))
        return cls(
            documents,
            [
                (part["name"], settings["parts"][part["name"]]["share"], part["documents"])
                for part in text.facts["parts"]
            ],
            tokenizer(documents, verbose=False)["input_ids"],
            (frozenset(evaluated), frozenset(in_windows)),
            length,
            seed,
            settings,
            f"texts.{text.folder.name}.parts",
        )

    def draw(self, use: str, count: int) -> Tensor:
        """Return the token ids of the first sequences for a use, (count, length), int64.

        Each sequence is of the part that is furthest behind its share.

        Raises:
            UserError: A part is too short for its share.
        """
        rows: list[list[int]] = []
        drawn = dict.fromkeys((part.name for part in self.parts), 0)
        while len(rows) < count:
            behind = [part.share * (len(rows) + 1) - drawn[part.name] for part in self.parts]
            part = self.parts[behind.index(max(behind))]
            if drawn[part.name] == len(part.spans[use]):
                raise self._too_short(part, use, count)
            index, at = part.spans[use][drawn[part.name]]
            rows.append(self._tokens[index][at : at + self._length])
            drawn[part.name] += 1
        return torch.tensor(rows, dtype=torch.int64).reshape(count, self._length)

    def _divided(
        self, part: Part, indices: Iterable[int], generator: random.Random
    ) -> dict[str, list[int]]:
        """Return the documents of a part for each use, and note what was left out."""
        indices = list(indices)
        long = [index for index in indices if len(self._tokens[index]) > self._length]
        kept = [index for index in long if not self._holds_evaluation_text(index)]
        if len(kept) < len(long) and self._settings["evaluation_text"] == REFUSE:
            raise self._evaluation_text(part, long, kept)
        part.facts = {
            "documents": len(kept),
            "tokens": sum(len(self._tokens[index]) for index in kept),
            "short_documents": len(indices) - len(long),
            "evaluation_documents": len(long) - len(kept),
        }
        generator.shuffle(kept)
        half = math.ceil(len(kept) * self._settings["held_out"] / 2)
        if len(kept) <= 2 * half:
            raise UserError(
                "a part of the mixture has too few documents",
                where=f"{self._where}.{part.name}",
                found=f"{len(kept)} documents of more than {self._length} tokens that the "
                "evaluation does not use",
                expected="at least 3: one to train on, and two that are held out",
                todo="leave out the part, or shorten study.calibration.length",
            )
        return {
            SELECTION: kept[:half],
            MEASURED: kept[half : 2 * half],
            TRAINING: kept[2 * half :],
        }

    def _holds_evaluation_text(self, index: int) -> bool:
        documents, in_windows = self._evaluated
        return self._documents[index] in documents or not in_windows.isdisjoint(
            grams(self._tokens[index])
        )

    def _sequences(self, indices: Iterable[int], generator: random.Random) -> list[Span]:
        """Return sequences of documents that do not overlap, in random order."""
        spans = []
        for index in indices:
            count, left = divmod(len(self._tokens[index]), self._length)
            offset = generator.randrange(left + 1)
            spans += [(index, offset + at * self._length) for at in range(count)]
        generator.shuffle(spans)
        return spans

    def _evaluation_text(self, part: Part, long: list[int], kept: list[int]) -> UserError:
        tokens = {index: len(self._tokens[index]) for index in long}
        share = 1 - sum(tokens[index] for index in kept) / sum(tokens.values())
        held = len(long) - len(kept)
        documents = f"{held:,} documents that share" if held > 1 else "a document that shares"
        return UserError(
            "a part of the mixture holds evaluation text",
            where=f"{self._where}.{part.name}",
            found=f"{share:.1%} of its tokens, in {documents} {GRAM} tokens in a row with a window "
            "of the evaluation text",
            expected="none",
            todo="set `evaluation_text: leave_out` in the mixture, which leaves these documents "
            "out, or use another text",
        )

    def _too_short(self, part: Part, use: str, count: int) -> UserError:
        found, needed = len(part.spans[use]), math.ceil(part.share * count)
        todo = (
            "give the part a smaller share, draw fewer sequences, or train several epochs on them"
        )
        if use != TRAINING:
            todo = "raise `held_out` in the mixture, or hold out fewer sequences"
        return UserError(
            "a part of the mixture is too short",
            where=f"{self._where}.{part.name}",
            found=f"{found:,} sequences of {self._length} tokens for {use}, "
            f"{found * self._length:,} tokens in all",
            expected=f"{needed:,} sequences, {needed * self._length:,} tokens: {part.share:g} of "
            f"the {count:,} sequences that are drawn",
            todo=todo,
        )
