"""Perplexity over windows of a text, the model streamed block by block."""

import hashlib
import json
import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoTokenizer

from freelunch.core.artifact import Artifact
from freelunch.core.errors import UserError
from freelunch.core.progress import Report, silent
from freelunch.data.documents import read_documents
from freelunch.model.block_pass import BlockPass
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_file import create_hidden, hidden_file
from freelunch.model.token_ids import check_vocabulary
from freelunch.model.token_loss import window_losses


@dataclass(frozen=True)
class TextWindows:
    """Windows of a text, and how much text their scored tokens are.

    Attributes:
        input_ids: (windows, length), int64.
        stride: Tokens from the start of a window to the next. A window's last `stride` tokens are
            scored: each token of the text once, with at least length - stride tokens before it.
        bytes: Of the scored tokens' text in UTF-8; None if the tokenizer does not tell where in the
            text a token is.
        words: Runs of characters other than white space that begin there; None likewise.
    """

    input_ids: Tensor
    stride: int
    bytes: int | None
    words: int | None


def text_windows(
    model: Artifact, text: Artifact, length: int, windows: int | None, stride: int | None = None
) -> TextWindows:
    """Return the first windows of a text, its documents joined by two newlines, its tail dropped.

    Args:
        model: For its tokenizer.
        text: The text.
        length: Tokens in a window.
        windows: How many; None for as many as there are.
        stride: Tokens from one to the next; None for `length`: windows that do not overlap.

    Raises:
        UserError: The text is shorter than it has to be.
    """
    tokenizer = AutoTokenizer.from_pretrained(model.folder, trust_remote_code=False)
    joined = "\n\n".join(read_documents(text.folder))
    encoded = tokenizer(joined, verbose=False, return_offsets_mapping=tokenizer.is_fast)
    tokens = torch.tensor(encoded["input_ids"], dtype=torch.int64)
    stride = stride or length
    available = max(0, (len(tokens) - length) // stride + 1)
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
    amounts: tuple[int | None, int | None] = (None, None)
    if tokenizer.is_fast:
        # A token reaches to where the next begins: some tokenizers leave white space to neither.
        begins = [begin for begin, _ in encoded["offset_mapping"]] + [len(joined)]
        lasts = range(length, length + wanted * stride, stride)
        scored = _scored(length, stride)
        amounts = _amounts(joined, [(begins[last - scored], begins[last]) for last in lasts])
    return TextWindows(tokens.unfold(0, length, stride)[:wanted].contiguous(), stride, *amounts)


def _scored(length: int, stride: int) -> int:
    """Return how many tokens of a window are scored; nothing predicts the first one."""
    return min(stride, length - 1)


def _amounts(text: str, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return how many bytes the spans of a text have, and how many words begin in them."""
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    return (
        sum(len(text[begin:end].encode()) for begin, end in spans),
        sum(bisect_left(starts, end) - bisect_left(starts, begin) for begin, end in spans),
    )


def per_text(metrics: Mapping[str, Any], windows: TextWindows) -> dict[str, Any]:
    """Return perplexities of the same text per byte and per word, which models with different
    tokenizers can be compared by; null where they are not known.

    They are exp(loss of all scored tokens / bytes or words), as in lm-evaluation-harness.

    Args:
        metrics: What `evaluate_perplexity` returned for the windows.
        windows: They.
    """
    found: dict[str, Any] = {"bytes": windows.bytes, "words": windows.words}
    for unit, amount in (("byte", windows.bytes), ("word", windows.words)):
        value = None
        if amount and metrics["loss"] is not None:
            value = metrics["loss"] * metrics["predicted_tokens"] / amount
        found[f"{unit}_perplexity"] = None if value is None else exponential(value)
        if unit == "byte":
            found["bits_per_byte"] = None if value is None else value / math.log(2)
    return found


def evaluate_perplexity(
    model: StreamedModel,
    input_ids: Tensor,
    scratch: Path,
    report: Report = silent,
    stride: int | None = None,
) -> dict[str, Any]:
    """Return perplexity = exp(mean over windows of a window's mean loss), and what was measured.

    What is evaluated is what lies on disk: the digest of every shard is compared with the manifest
    and the zeros of every matrix are counted as blocks pass by.

    Args:
        model: The checkpoint.
        input_ids: (windows, length), int64.
        scratch: A folder for the hidden states of all windows, on disk and not in memory.
        report: Told of each block.
        stride: As in `TextWindows`; None for windows that do not overlap.

    Returns:
        `perplexity` and its standard error over windows, the windows' losses, what was read.
    """
    model.artifact.verify()
    windows, length = input_ids.shape
    stride = stride or length
    scored = _scored(length, stride)
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
    losses = window_losses(model, input_ids, hidden, scored)
    report(model.num_blocks + 1, model.num_blocks + 1, "blocks and the head")
    return {
        **loss_facts(losses),
        "windows": windows,
        "length": length,
        "stride": stride,
        "tokens": windows * length,
        "predicted_tokens": windows * scored,
        "token_ids_sha256": hashlib.sha256(input_ids.numpy().tobytes()).hexdigest(),
        "identity": {
            "matrices": zeros,
            "checkpoint_digest": checkpoint_digest(model.artifact),
            **stored(model.artifact),
        },
    }


def loss_facts(losses: Tensor) -> dict[str, Any]:
    """Return the perplexity exp(mean loss) and what it comes from.

    Args:
        losses: Mean loss of each window, nats a token, (windows,), float64.
    """
    mean = float(losses.mean())
    error = float(losses.std()) / math.sqrt(len(losses))
    perplexity = exponential(mean)
    finite = perplexity is not None
    return {
        # JSON has no infinity; a perplexity that is none stays visible as null.
        "perplexity": perplexity,
        "perplexity_standard_error": perplexity * error if perplexity is not None else None,
        "loss": mean if finite else None,
        "loss_standard_error": error if finite else None,
        "window_losses": [float(loss) if math.isfinite(loss) else None for loss in losses],
    }


def exponential(value: float) -> float | None:
    """Return e to a power; None where that is not finite."""
    fits = math.isfinite(value) and value < math.log(torch.finfo(torch.float64).max)
    return math.exp(value) if fits else None


def stored(checkpoint: Artifact) -> dict[str, int]:
    """Return the bytes of a checkpoint's weights on disk, shards that others share included, and
    how many numbers they are.
    """
    shards = [path for path in checkpoint.files if path.endswith(".safetensors")]
    parameters = 0
    for shard in shards:
        with safe_open(checkpoint.path(shard), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                parameters += math.prod(tensors.get_slice(name).get_shape())
    sizes = (checkpoint.files[shard]["bytes"] for shard in shards)
    return {"stored_bytes": sum(sizes), "parameters": parameters}


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
