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

    A text is sampled by `sample_windows`; a `tokens` source is taken as it is, and must have the
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
        input_ids = sample_windows(
            read_documents(text.folder), tokenizer, samples, length, seed, text.folder
        )
    check_vocabulary(input_ids, model, text.folder)
    writer = ArtifactWriter(folder, KIND, fingerprint)
    writer.add(TOKENS, lambda path: save_file({"input_ids": input_ids.contiguous()}, path))
    return writer.finish(
        settings={"samples": samples, "length": length, "seed": seed},
        model=model.digest,
        text=text.digest,
        tokens_sha256=hashlib.sha256(input_ids.contiguous().numpy().tobytes()).hexdigest(),
    )


def sample_windows(
    documents: list[str], tokenizer: Any, samples: int, length: int, seed: int, where: object
) -> Tensor:
    """Draw documents with replacement; of each longer than `length` take a random window.

    This is the full-length mode of the paper's third version (study.md, section 2), with nothing
    removed: no token is taken for padding.

    Returns:
        Token ids, (samples, length), int64.
    """
    generator = random.Random(derive_seed(seed, "calibration"))
    encoded: dict[int, list[int]] = {}
    windows: list[list[int]] = []
    while len(windows) < samples:
        index = generator.randrange(len(documents))
        if index not in encoded:
            encoded[index] = tokenizer(documents[index], verbose=False)["input_ids"]
        tokens = encoded[index]
        if len(tokens) > length:
            start = generator.randrange(len(tokens) - length + 1)
            windows.append(tokens[start : start + length])
        elif not windows and len(encoded) == len(documents):
            raise UserError(
                "no document is longer than one calibration sequence",
                where=where,
                found=f"the longest has {max(map(len, encoded.values()))} tokens",
                expected=f"more than study.calibration.length = {length}",
                todo="shorten `length`, or use a text with longer documents",
            )
    return torch.tensor(windows)


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
