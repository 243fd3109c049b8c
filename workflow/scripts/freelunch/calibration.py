"""Draw the calibration sample: windows of exactly the wanted length from random documents."""

import hashlib
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from freelunch.artifact import Artifact, ArtifactWriter
from freelunch.cell import derive_seed
from freelunch.checkpoint import load_config
from freelunch.errors import UserError
from freelunch.texts import read_documents

KIND = "calibration"
TOKENS = "tokens.safetensors"


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
    else:
        tokenizer = AutoTokenizer.from_pretrained(model.folder, trust_remote_code=False)
        drawing = Drawing(read_documents(text.folder), tokenizer, length, seed, text.folder)
        input_ids = drawing.draw(samples)
    check_vocabulary(input_ids, model, text.folder)
    settings = {"samples": samples, "length": length, "seed": seed}
    return _write(
        folder, fingerprint, input_ids, settings=settings, model=model.digest, text=text.digest
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
    settings = calibration.facts["settings"]
    tokenizer = AutoTokenizer.from_pretrained(model.folder, trust_remote_code=False)
    documents = read_documents(text.folder)
    drawing = Drawing(documents, tokenizer, settings["length"], settings["seed"], text.folder)
    # The same documents are drawn again, to know them.
    if not torch.equal(drawing.draw(settings["samples"]), read_tokens(calibration)):
        raise UserError(
            "the calibration sample was not drawn from this text",
            where=calibration.folder,
            todo="the same command with `--forcerun sample_calibration` draws it again",
        )
    drawing.leave_out_drawn()
    input_ids = drawing.draw(samples)
    return _write(
        folder,
        fingerprint,
        input_ids,
        settings={**settings, "samples": samples},
        model=model.digest,
        text=text.digest,
        calibration=calibration.digest,
    )


def _write(folder: Path, fingerprint: str, input_ids: Tensor, **facts: Any) -> Artifact:
    writer = ArtifactWriter(folder, KIND, fingerprint)
    tokens = input_ids.contiguous()
    writer.add(TOKENS, lambda path: save_file({"input_ids": tokens}, path))
    return writer.finish(
        **facts, tokens_sha256=hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
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
    """

    def __init__(
        self, documents: list[str], tokenizer: Any, length: int, seed: int, where: object
    ) -> None:
        self._documents, self._tokenizer, self._length = documents, tokenizer, length
        self._where = where
        self._generator = random.Random(derive_seed(seed, "calibration"))
        self._encoded: dict[int, list[int]] = {}
        self._drawn: set[int] = set()
        self._left_out: frozenset[int] = frozenset()

    def draw(self, samples: int) -> Tensor:
        """Return token ids, (samples, length), int64.

        Raises:
            UserError: No document is long enough.
        """
        windows: list[list[int]] = []
        seen: set[int] = set()
        while len(windows) < samples:
            index = self._generator.randrange(len(self._documents))
            seen.add(index)
            tokens = self._tokens(index)
            if len(tokens) > self._length and index not in self._left_out:
                start = self._generator.randrange(len(tokens) - self._length + 1)
                windows.append(tokens[start : start + self._length])
                self._drawn.add(index)
            elif not windows and len(seen) == len(self._documents):
                raise self._too_short()
        return torch.tensor(windows)

    def leave_out_drawn(self) -> None:
        """From now on draw none of the documents that were drawn before."""
        self._left_out = frozenset(self._drawn)

    def _tokens(self, index: int) -> list[int]:
        if index not in self._encoded:
            document = self._documents[index]
            self._encoded[index] = self._tokenizer(document, verbose=False)["input_ids"]
        return self._encoded[index]

    def _too_short(self) -> UserError:
        if self._left_out:
            return UserError(
                "calibration leaves no document to choose among candidates by",
                where=self._where,
                found=f"{len(self._left_out)} documents in the calibration sample, and no other "
                "that is long enough",
                expected=f"a document of more than study.calibration.length = {self._length} "
                "tokens that the sample does not touch",
                todo="use a text with more documents, fewer samples, or `select_on: evaluation`",
            )
        return UserError(
            "no document is longer than one calibration sequence",
            where=self._where,
            found=f"the longest has {max(map(len, self._encoded.values()))} tokens",
            expected=f"more than study.calibration.length = {self._length}",
            todo="shorten `length`, or use a text with longer documents",
        )


def read_tokens(calibration: Artifact) -> Tensor:
    """Return the token ids of a calibration sample, (samples, length), int64."""
    return load_file(calibration.path(TOKENS))["input_ids"]


def check_vocabulary(input_ids: Tensor, model: Artifact, where: object) -> None:
    """Check that token ids belong to a model; UserError if one is beyond its vocabulary."""
    vocabulary = int(load_config(model.folder).vocab_size)
    if int(input_ids.max()) >= vocabulary:
        raise UserError(
            "token ids lie outside the model's vocabulary",
            where=where,
            found=int(input_ids.max()),
            expected=f"less than {vocabulary}",
            todo="use the tokenizer that belongs to the model",
        )
