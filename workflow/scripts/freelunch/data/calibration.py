"""Draw the calibration sample: windows of exactly the wanted length from random documents."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from freelunch.core.artifact import Artifact
from freelunch.core.errors import UserError
from freelunch.data.texts import read_documents
from freelunch.model.token_ids import TOKENS, check_vocabulary, read_tokens, write_tokens
from freelunch.study.cell import derive_seed
from freelunch.study.steps import SAMPLE_CALIBRATION, SAMPLE_HELD_OUT


def sample_calibration(
    model: Artifact,
    text: Artifact,
    samples: int,
    length: int,
    seed: int,
    folder: Path,
    fingerprint: str,
) -> Artifact:
    """Write the token ids of a calibration sample, (samples, length), int64.

    A text is sampled by `Drawing`; a `tokens` source is taken as it is, and must have the
    announced shape.

    Raises:
        UserError: The text has no document longer than one sequence; ready token ids have another
            shape or do not belong to the model's vocabulary.
    """
    if text.kind == "tokens":
        input_ids = load_file(text.path(TOKENS))["input_ids"]
        if input_ids.shape != (samples, length):
            raise UserError(
                "the ready token ids have another shape than `study.calibration` announces",
                where=text.folder,
                found=tuple(input_ids.shape),
                expected=(samples, length),
                todo="set `samples` and `length` to the shape of the file",
            )
        # Of which documents they come is not known.
        distinct = len({tuple(row) for row in input_ids.tolist()}) * length
    else:
        drawing = Drawing.of(model, text, length, seed)
        input_ids = drawing.draw(samples)
        distinct = drawing.distinct_tokens
    check_vocabulary(input_ids, model, text.folder)
    return write_tokens(
        folder,
        fingerprint,
        input_ids,
        settings={"samples": samples, "length": length, "seed": seed},
        distinct_tokens=distinct,
        model=model.digest,
        text=text.digest,
    )


def sample_held_out(
    model: Artifact,
    text: Artifact,
    calibration: Artifact,
    samples: int,
    folder: Path,
    fingerprint: str,
) -> Artifact:
    """Write token ids, (samples, length), int64, of documents that a calibration sample left.

    Raises:
        UserError: The sample touches every document that is long enough.
    """
    drawing, _ = _drawn_again(model, text, calibration)
    drawing.leave_out(drawing.drawn)
    input_ids = drawing.draw(samples)
    return write_tokens(
        folder,
        fingerprint,
        input_ids,
        settings={**calibration.facts["settings"], "samples": samples},
        model=model.digest,
        text=text.digest,
        calibration=calibration.digest,
    )


def extend_calibration(
    model: Artifact,
    text: Artifact,
    calibration: Artifact,
    held_out: Artifact | None,
    samples: int,
    folder: Path,
    fingerprint: str,
) -> Artifact:
    """Write token ids, (samples, length), int64, that begin with a calibration sample and go on
    with more draws like it, of documents that the held-out sample does not touch.

    Args:
        model: For its tokenizer.
        text: The text.
        calibration: The sample.
        held_out: What is held out of it; not needed for fewer samples, which are the first of it.
        samples: How many.
        folder: Where they go.
        fingerprint: Digest of everything the result depends on.

    Raises:
        UserError: One of the samples was not drawn from this text, or no document is left.
    """
    input_ids, length = read_tokens(calibration), calibration.facts["settings"]["length"]
    facts: dict[str, Any] = {}
    if held_out is None or samples <= len(input_ids):
        input_ids = input_ids[:samples]
        distinct = calibration.facts["distinct_tokens"]
        if text.kind != "tokens":
            drawing, _ = _drawn_again(model, text, calibration)
            distinct = _distinct(drawing.spans[:samples], length)
    else:
        drawing, _ = _drawn_again(model, text, calibration)
        spans = drawing.spans
        drawing.leave_out(drawing.drawn)
        if not torch.equal(
            drawing.draw(held_out.facts["settings"]["samples"]), read_tokens(held_out)
        ):
            raise _drawn_from_another(held_out, SAMPLE_HELD_OUT)
        drawing.leave_out(drawing.drawn)
        more = drawing.draw(samples - len(input_ids))
        input_ids = torch.cat([input_ids, more])
        distinct = _distinct([*spans, *drawing.spans], length)
        facts["held_out"] = held_out.digest
    return write_tokens(
        folder,
        fingerprint,
        input_ids,
        settings={**calibration.facts["settings"], "samples": samples},
        distinct_tokens=min(distinct, input_ids.numel()),
        model=model.digest,
        text=text.digest,
        calibration=calibration.digest,
        **facts,
    )


def check_sample(masks: Artifact, sample: Artifact) -> None:
    """Check that masks were chosen on a calibration sample, or on that which a sample extends.

    Raises:
        UserError: They were chosen on another one.
    """
    chosen_on = sample.facts.get("calibration", sample.digest)
    if masks.facts["calibration"] != chosen_on:
        raise UserError(
            "these masks were chosen on another calibration sample",
            where=masks.folder,
            found=f"calibration {masks.facts['calibration']}",
            expected=f"{chosen_on}, of {sample.folder}",
            todo="the same command with `--forcerun prune_model` chooses them again",
        )


def _drawn_again(
    model: Artifact, text: Artifact, calibration: Artifact
) -> tuple["Drawing", Tensor]:
    """Draw a calibration sample again, to know its documents; return also its token ids."""
    settings = calibration.facts["settings"]
    drawing = Drawing.of(model, text, settings["length"], settings["seed"])
    input_ids = drawing.draw(settings["samples"])
    if not torch.equal(input_ids, read_tokens(calibration)):
        raise _drawn_from_another(calibration, SAMPLE_CALIBRATION)
    return drawing, input_ids


def _drawn_from_another(sample: Artifact, rule: str) -> UserError:
    return UserError(
        "the calibration sample was not drawn from this text",
        where=sample.folder,
        todo=f"the same command with `--forcerun {rule}` draws it again",
    )


class Drawing:
    """Draw documents with replacement; of each longer than `length` take a random window.

    This is the full-length mode of the paper's third version (study.md, section 2), with nothing
    removed: no token is taken for padding.

    Args:
        documents: The text.
        tokenizer: The model's.
        length: Tokens in a window.
        seed: The cell's.
        where: What the text is called, for messages.

    Attributes:
        spans: Of each window of the last draw, its document and first token.
    """

    def __init__(
        self, documents: list[str], tokenizer: Any, length: int, seed: int, where: object
    ) -> None:
        self._documents, self._tokenizer, self._length = documents, tokenizer, length
        self._where = where
        self._generator = random.Random(derive_seed(seed, "calibration"))
        self._encoded: dict[int, list[int]] = {}
        self._left_out: frozenset[int] = frozenset()
        self.spans: list[tuple[int, int]] = []

    @classmethod
    def of(cls, model: Artifact, text: Artifact, length: int, seed: int) -> "Drawing":
        """Return a drawing from a text, by a model's tokenizer."""
        tokenizer = AutoTokenizer.from_pretrained(model.folder, trust_remote_code=False)
        return cls(read_documents(text.folder), tokenizer, length, seed, text.folder)

    def draw(self, samples: int) -> Tensor:
        """Return token ids, (samples, length), int64.

        Raises:
            UserError: No document is long enough.
        """
        windows: list[list[int]] = []
        seen: set[int] = set()
        self.spans = []
        while len(windows) < samples:
            index = self._generator.randrange(len(self._documents))
            seen.add(index)
            tokens = self._tokens(index)
            if len(tokens) > self._length and index not in self._left_out:
                start = self._generator.randrange(len(tokens) - self._length + 1)
                windows.append(tokens[start : start + self._length])
                self.spans.append((index, start))
            elif not windows and len(seen) == len(self._documents):
                raise self._too_short()
        return torch.tensor(windows)

    @property
    def drawn(self) -> frozenset[int]:
        """The documents of the last draw."""
        return frozenset(document for document, _ in self.spans)

    @property
    def distinct_tokens(self) -> int:
        """How many tokens the windows of the last draw cover; their overlaps count once."""
        return _distinct(self.spans, self._length)

    def leave_out(self, documents: frozenset[int]) -> None:
        """From now on draw none of these documents, and no longer others."""
        self._left_out = documents

    def _tokens(self, index: int) -> list[int]:
        if index not in self._encoded:
            document = self._documents[index]
            self._encoded[index] = self._tokenizer(document, verbose=False)["input_ids"]
        return self._encoded[index]

    def _too_short(self) -> UserError:
        if self._left_out:
            return UserError(
                "no document is left to draw from",
                where=self._where,
                found=f"{len(self._left_out)} documents that another sample has touched "
                "(calibration and held-out text share none), and no other that is long enough",
                expected=f"one of more than study.calibration.length = {self._length} tokens",
                todo="use a text with more documents, fewer samples (study.calibration, "
                "study.selection), or, where it is for a search, `select_on: evaluation`",
            )
        return UserError(
            "no document is longer than one calibration sequence",
            where=self._where,
            found=f"the longest has {max(map(len, self._encoded.values()))} tokens",
            expected=f"more than study.calibration.length = {self._length}",
            todo="shorten `length`, or use a text with longer documents",
        )


def _distinct(spans: Sequence[tuple[int, int]], length: int) -> int:
    """Return how many places in documents windows of a length cover."""
    covered, document, end = 0, -1, 0
    for here, start in sorted(spans):
        if here != document:
            document, end = here, 0
        covered += max(0, start + length - max(start, end))
        end = max(end, start + length)
    return covered
