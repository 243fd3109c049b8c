"""A sample on disk: the token ids of its sequences, (samples, length), int64."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.errors import UserError, run_again
from freelunch.model.checkpoint import folder_of_texts, load_config
from freelunch.study.steps import CALIBRATION, PRUNE_MODEL

KIND = CALIBRATION
TOKENS = "tokens.safetensors"


def write_tokens(
    folder: Path,
    fingerprint: str,
    input_ids: Tensor,
    *,
    kind: str = KIND,
    files: Mapping[str, str] | None = None,
    **facts: Any,
) -> Artifact:
    """Write the token ids of a sample, or of the windows of a text, (samples, length), int64, with
    small text files by name.

    The facts are for the manifest, which also gets `tokens_sha256`, the digest of the token ids;
    the other arguments are those of `ArtifactWriter`.
    """
    writer = ArtifactWriter(folder, kind, fingerprint)
    tokens = input_ids.contiguous()
    writer.add(TOKENS, lambda path: save_file({"input_ids": tokens}, path))
    for name, content in (files or {}).items():
        writer.add_text(name, content)
    return writer.finish(
        **facts, tokens_sha256=hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
    )


def read_tokens(sample: Artifact) -> Tensor:
    """Return the token ids of a sample, or of the windows of a text, (samples, length), int64."""
    return load_file(sample.path(TOKENS))["input_ids"]


def begin_with(input_ids: Tensor, bos: int | None) -> Tensor:
    """Return sequences, (samples, length), with a token in the place of each first one; as they are
    if it is None.
    """
    if bos is None:
        return input_ids
    begun = input_ids.clone()
    begun[:, 0] = bos
    return begun


def check_vocabulary(input_ids: Tensor, model: Artifact, where: object) -> None:
    """Check that a model has all these token ids; UserError if one is beyond its vocabulary."""
    vocabulary = int(load_config(folder_of_texts(model)).vocab_size)
    if int(input_ids.max()) >= vocabulary:
        raise UserError(
            "token ids lie outside the model's vocabulary",
            where=where,
            found=int(input_ids.max()),
            expected=f"less than {vocabulary}",
            todo="use the tokenizer that belongs to the model",
        )


def check_sample(masks: Artifact, sample: Artifact) -> None:
    """Check that masks were chosen on a calibration sample, or on the one that a sample extends;
    UserError if they were chosen on another one.
    """
    chosen_on = sample.facts.get("calibration", sample.digest)
    if masks.facts["calibration"] != chosen_on:
        raise UserError(
            "these masks were chosen on another calibration sample",
            where=masks.folder,
            found=f"calibration {masks.facts['calibration']}",
            expected=f"{chosen_on}, of {sample.folder}",
            todo=run_again(PRUNE_MODEL),
        )
