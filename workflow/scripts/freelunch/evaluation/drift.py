"""How far a checkpoint's activations are from the dense model's, matrix by matrix, block by block.

Both models are streamed side by side over the same tokens. Accumulated: each block of the
checkpoint sees what its own blocks before it put out, errors included. Local: it sees what the
dense blocks put out, so an error is the block's own. The passes end in both models' losses.
"""

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freelunch.core.progress import Report, silent
from freelunch.evaluation.perplexity import loss_facts
from freelunch.model.block_pass import BlockPass
from freelunch.model.blocks import BlockCall
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_file import create_hidden, hidden_file
from freelunch.model.linear_hooks import LinearWatcher
from freelunch.model.token_loss import window_losses

# The name of a block's own output beside those of its matrices.
BLOCK = "block"
KINDS = ("accumulated", "local")


@torch.no_grad()
def measure_drift(
    dense: StreamedModel,
    checkpoint: StreamedModel,
    input_ids: Tensor,
    scratch: Path,
    report: Report = silent,
) -> dict[str, Any]:
    """Return the relative errors of a checkpoint's activations, and its loss.

    The error of a token is ||y - y_dense|| / ||y_dense||, of an output vector y. A token whose
    dense output is 0 has none.

    Args:
        dense: The dense model.
        checkpoint: What was made of it.
        input_ids: (sequences, length), int64.
        scratch: A folder for the hidden states of both, on disk and not in memory.
        report: Told of each block.

    Returns:
        `drift`: for each of KINDS a list over blocks of {output: {mean, median, max} over tokens},
        an output being a matrix by its name in the block, or BLOCK; None where it is not finite.
        And the perplexity, as `evaluate_perplexity` returns it; under `dense` the dense model's.
        `tokens_per_second` of both through the blocks, their matrices watched.
    """
    checkpoint.artifact.verify()
    sequences, length = input_ids.shape
    passes = {model: BlockPass(model, sequences, length) for model in (dense, checkpoint)}
    hidden = {}
    for number, model in enumerate(passes):
        shape = (sequences, length, model.config.hidden_size)
        hidden[model] = create_hidden(scratch / hidden_file(number), shape, model.dtype)
        passes[model].embed_(input_ids, hidden[model])
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    seconds: dict[str, list[float]] = {"dense": [], "checkpoint": []}
    for index in range(dense.num_blocks):
        block, other = dense.load_block(index), checkpoint.load_block(index)
        errors: dict[str, dict[str, list[Tensor]]] = {kind: {} for kind in KINDS}
        for batch in passes[dense].batches:
            states = hidden[dense][batch].to(dense.device)
            changed = hidden[checkpoint][batch].to(checkpoint.device)
            call = passes[dense].calls(len(states))[index]
            calls = passes[checkpoint].calls(len(states))[index]
            with _timed(dense.device, seconds["dense"]):
                wanted = _outputs(block, call, states)
            for kind, inputs in (("local", states), ("accumulated", changed)):
                with _timed(checkpoint.device, seconds["checkpoint"]):
                    outputs = _outputs(other, calls, inputs)
                for name, output in outputs.items():
                    errors[kind].setdefault(name, []).append(relative(output, wanted[name]))
            hidden[dense][batch], hidden[checkpoint][batch] = wanted[BLOCK], outputs[BLOCK]
        for kind in KINDS:
            of_block = {name: torch.cat(parts) for name, parts in errors[kind].items()}
            found[kind].append({name: _facts(each) for name, each in of_block.items()})
        report(index + 1, dense.num_blocks + 1, "blocks and the head")
    losses = {model: window_losses(model, input_ids, hidden[model]) for model in passes}
    report(dense.num_blocks + 1, dense.num_blocks + 1, "blocks and the head")
    return {
        "drift": found,
        **loss_facts(losses[checkpoint]),
        "dense": loss_facts(losses[dense]),
        # In turns, on one machine with the same threads: their ratio is worth more than they are.
        "tokens_per_second": {
            "dense": input_ids.numel() / math.fsum(seconds["dense"]),
            "checkpoint": len(KINDS) * input_ids.numel() / math.fsum(seconds["checkpoint"]),
        },
        "windows": sequences,
        "length": length,
        "token_ids_sha256": hashlib.sha256(input_ids.numpy().tobytes()).hexdigest(),
    }


def relative(output: Tensor, wanted: Tensor) -> Tensor:
    """Return ||y - y_dense|| / ||y_dense|| of each token whose y_dense is not 0.

    Args:
        output: y, (batch, length, outputs).
        wanted: y_dense, the same.

    Returns:
        (tokens,), float32.
    """
    wanted = wanted.float().flatten(0, -2)
    size = wanted.norm(dim=-1)
    error = (output.float().flatten(0, -2) - wanted).norm(dim=-1)
    found: Tensor = (error / size)[size > 0]
    return found.cpu()


@contextmanager
def _timed(device: torch.device, seconds: list[float]) -> Iterator[None]:
    """Add how long what is done on a device takes."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    start = time.perf_counter()
    yield
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    seconds.append(time.perf_counter() - start)


class _Outputs(LinearWatcher):
    """Keep what each linear layer puts out."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__(block)
        self.outputs: dict[str, Tensor] = {}

    def see_output(self, name: str, outputs: Tensor) -> None:
        """Keep it."""
        self.outputs[name] = outputs


def _outputs(block: nn.Module, call: BlockCall, inputs: Tensor) -> dict[str, Tensor]:
    """Return what a block's matrices and the block itself put out, by name."""
    watcher = _Outputs(block)
    with watcher.watching():
        output = call(block, inputs)
    return {**watcher.outputs, BLOCK: output}


def _facts(errors: Tensor) -> dict[str, float | None]:
    """Return mean, median and maximum over tokens; None where one is not finite."""
    if not len(errors):
        return dict.fromkeys(("mean", "median", "max"))
    values = {
        "mean": float(errors.double().mean()),
        "median": float(errors.median()),
        "max": float(errors.max()),
    }
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
