"""How far a checkpoint's activations are from the dense model's, matrix by matrix, block by block.

Accumulated: each block of the checkpoint sees what its own blocks before it put out, errors
included. Local: it sees what the dense blocks put out, so an error is the block's own. The pass
ends in the checkpoint's loss on the same tokens.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freelunch.core.artifact import Artifact
from freelunch.evaluation.cell import Found, Part, check_made_with
from freelunch.evaluation.perplexity import loss_facts, tokens_digest
from freelunch.evaluation.reference import (
    BLOCK,
    Reference,
    block_outputs,
    open_reference,
    timed,
)
from freelunch.model import token_ids
from freelunch.model.block_pass import BlockPass
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_file import create_hidden, hidden_file
from freelunch.model.token_ids import read_tokens
from freelunch.model.token_loss import window_losses
from freelunch.study.steps import CAPTURE_REFERENCE, REFERENCE

KINDS = ("accumulated", "local")


class Drift:
    """Measure the relative errors of a checkpoint's activations, and its loss.

    The error of a token is ||y - y_dense|| / ||y_dense||, of an output vector y. A token whose
    dense output is 0 has none.

    Args:
        model: The checkpoint.
        reference: The dense model's activations on the same sequences.
        input_ids: (sequences, length), int64.
        facts: What goes beside the checkpoint's own numbers: the dense model's losses, digests.
        scratch: A folder for the checkpoint's hidden states, on disk and not in memory.
    """

    def __init__(
        self,
        model: StreamedModel,
        reference: Reference,
        input_ids: Tensor,
        facts: dict[str, Any],
        scratch: Path,
    ) -> None:
        self._model, self._reference, self._input_ids = model, reference, input_ids
        self._facts = facts
        sequences, length = input_ids.shape
        self._blocks = BlockPass(model, sequences, length)
        shape = (sequences, length, model.config.hidden_size)
        self._hidden = create_hidden(scratch / hidden_file(0), shape, model.dtype)
        self._blocks.embed_(input_ids, self._hidden)
        self._drift: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        self._seconds: list[float] = []

    def through_(self, index: int, block: nn.Module) -> None:
        """Pass the dense block's inputs and the checkpoint's own through its block."""
        device = self._model.device
        errors: dict[str, dict[str, list[Tensor]]] = {kind: {} for kind in KINDS}
        for batch, states, wanted in self._reference.through(index):
            call = self._blocks.calls(len(states))[index]
            changed = self._hidden[batch].to(device)
            for kind, inputs in (("local", states), ("accumulated", changed)):
                with timed(device, self._seconds):
                    outputs = block_outputs(block, call, inputs)
                for name, output in outputs.items():
                    errors[kind].setdefault(name, []).append(relative(output, wanted[name]))
            self._hidden[batch] = outputs[BLOCK]
        for kind in KINDS:
            of_block = {name: torch.cat(parts) for name, parts in errors[kind].items()}
            self._drift[kind].append({name: _facts(each) for name, each in of_block.items()})

    def found(self) -> Found:
        """Return `drift`: for each of KINDS a list over blocks of {output: {mean, median, max} over
        tokens}, an output being a matrix by its name in the block, or BLOCK; None where it is not
        finite. And the perplexity as `Perplexity` has it, under `dense` the dense model's, and
        `tokens_per_second` of both through the blocks, their matrices watched.
        """
        sequences, length = self._input_ids.shape
        tokens = len(KINDS) * self._input_ids.numel()
        metrics = {
            "drift": self._drift,
            **loss_facts(window_losses(self._model, self._input_ids, self._hidden)),
            "tokens_per_second": {
                "dense": self._reference.tokens_per_second,
                "checkpoint": tokens / math.fsum(self._seconds),
            },
            "windows": sequences,
            "length": length,
            "token_ids_sha256": tokens_digest(self._input_ids),
            **self._facts,
        }
        dense_blocks = self._reference.passed_blocks
        counts = {
            "tokens": tokens + (self._input_ids.numel() if dense_blocks else 0),
            "sequences": sequences,
            "length": length,
            "dense_blocks": dense_blocks,
        }
        return Found(metrics, counts)


def begin(model: StreamedModel, part: Part, scratch: Path) -> Drift:
    """Return the measurement.

    Args:
        model: The checkpoint.
        part: Its inputs are the dense model, held-out text, and the dense model's reference on it.
        scratch: A folder for hidden states.
    """
    dense, held_out, reference = part.inputs
    measured = Artifact(reference, REFERENCE)
    check_made_with(measured, part.settings, CAPTURE_REFERENCE)
    sample = Artifact(held_out, token_ids.KIND)
    input_ids = read_tokens(sample)[: part.settings["samples"]]
    facts = {
        "dense": measured.facts["losses"],
        "model": measured.facts["model"],
        "held_out": measured.facts["held_out"],
    }
    activations = open_reference(measured, part.cache, dense, input_ids, scratch, model.device)
    return Drift(model, activations, input_ids, facts, scratch)


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
