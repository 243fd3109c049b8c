"""Token ids of a sample on disk: (samples, length), int64."""

import hashlib
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from freelunch.core.artifact import Artifact, ArtifactWriter
from freelunch.core.errors import UserError
from freelunch.model.checkpoint import load_config
from freelunch.study.steps import CALIBRATION

KIND = CALIBRATION
TOKENS = "tokens.safetensors"


def write_tokens(
    folder: Path, fingerprint: str, input_ids: Tensor, kind: str = KIND, **facts: Any
) -> Artifact:
    """Write token ids, (samples, length), int64, with their digest among the facts."""
    writer = ArtifactWriter(folder, kind, fingerprint)
    tokens = input_ids.contiguous()
    writer.add(TOKENS, lambda path: save_file({"input_ids": tokens}, path))
    return writer.finish(
        **facts, tokens_sha256=hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
    )


def read_tokens(sample: Artifact) -> Tensor:
    """Return the token ids of a sample, or of the windows of a text, (samples, length), int64."""
    return load_file(sample.path(TOKENS))["input_ids"]


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
