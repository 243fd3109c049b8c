"""Perplexity over non-overlapping windows of a text, the model streamed block by block."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from freelunch.artifact import Artifact
from freelunch.blocks import block_linears
from freelunch.calibration import check_vocabulary
from freelunch.checkpoint import StreamedModel
from freelunch.errors import UserError
from freelunch.evaluation.loss import window_losses
from freelunch.hidden import create_hidden, hidden_file
from freelunch.report import Report, silent
from freelunch.streaming import BlockPass
from freelunch.texts import read_documents


def text_windows(model: Artifact, text: Artifact, length: int, windows: int | None) -> Tensor:
    """Return the first windows of a text, its documents joined by two newlines, its tail dropped.

    Returns:
        Token ids, (windows, length), int64.

    Raises:
        UserError: The text is shorter than it has to be.
    """
    tokenizer = AutoTokenizer.from_pretrained(model.folder, trust_remote_code=False)
    joined = "\n\n".join(read_documents(text.folder))
    tokens = tokenizer(joined, return_tensors="pt", verbose=False)["input_ids"][0]
    available = len(tokens) // length
    wanted = available if windows is None else windows
    if available < max(wanted, 2):
        raise UserError(
            "the evaluation text is too short",
            where=text.folder,
            found=f"{len(tokens)} tokens, {available} windows of {length}",
            expected=f"{max(wanted, 2)} windows (study.evaluation.perplexity)",
            todo="ask for fewer or shorter windows, or use a longer text",
        )
    check_vocabulary(tokens, model, text.folder)
    return tokens[: wanted * length].reshape(wanted, length)  # type: ignore[no-any-return]


def evaluate_perplexity(
    model: StreamedModel, input_ids: Tensor, scratch: Path, report: Report = silent
) -> dict[str, Any]:
    """Return perplexity = exp(mean over windows of a window's mean loss), and what was measured.

    What is evaluated is what lies on disk: the digest of every shard is compared with the manifest
    and the zeros of every matrix are counted as blocks pass by.

    Args:
        model: The checkpoint.
        input_ids: (windows, length), int64.
        scratch: A folder for the hidden states of all windows, on disk and not in memory.
        report: Told of each block.

    Returns:
        `perplexity` and its standard error over windows, the windows' losses, what was read.
    """
    model.artifact.verify()
    windows, length = input_ids.shape
    blocks = BlockPass(model, windows, length)
    shape = (windows, length, model.config.hidden_size)
    hidden = create_hidden(scratch / hidden_file(0), shape, model.dtype)
    blocks.embed_(input_ids, hidden)
    zeros: dict[str, dict[str, int]] = {}
    for index in range(model.num_blocks):
        block = model.load_block(index)
        for name, linear in block_linears(block).items():
            zeros[model.sharding.name(index, name)] = _count_zeros(linear)
        blocks.through_(index, block, hidden, hidden)
        report(index + 1, model.num_blocks + 1, "blocks and the head")
    losses = window_losses(model, input_ids, hidden)
    report(model.num_blocks + 1, model.num_blocks + 1, "blocks and the head")
    return {
        **loss_facts(losses),
        "windows": windows,
        "length": length,
        "stride": length,
        "tokens": windows * length,
        "predicted_tokens": windows * (length - 1),
        "token_ids_sha256": hashlib.sha256(input_ids.numpy().tobytes()).hexdigest(),
        "identity": {"matrices": zeros, "checkpoint_digest": checkpoint_digest(model.artifact)},
    }


def loss_facts(losses: Tensor) -> dict[str, Any]:
    """Return the perplexity exp(mean loss) and what it comes from.

    Args:
        losses: Mean loss of each window, nats a token, (windows,), float64.
    """
    mean = float(losses.mean())
    error = float(losses.std()) / math.sqrt(len(losses))
    finite = math.isfinite(mean) and mean < math.log(torch.finfo(torch.float64).max)
    return {
        # JSON has no infinity; a perplexity that is none stays visible as null.
        "perplexity": math.exp(mean) if finite else None,
        "perplexity_standard_error": math.exp(mean) * error if finite else None,
        "loss": mean if finite else None,
        "loss_standard_error": error if finite else None,
        "window_losses": [float(loss) if math.isfinite(loss) else None for loss in losses],
    }


def checkpoint_digest(checkpoint: Artifact) -> str:
    """Return one digest of all weights of a checkpoint."""
    shards = sorted(name for name in checkpoint.files if name.endswith(".safetensors"))
    digests = {name: checkpoint.files[name]["sha256"] for name in shards}
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _count_zeros(linear: nn.Linear) -> dict[str, int]:
    weight = linear.weight
    return {
        "rows": weight.shape[0],
        "columns": weight.shape[1],
        "zeros": int((weight == 0).sum()),
    }
