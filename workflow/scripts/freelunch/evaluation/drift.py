"""Drift: how far a checkpoint's activations are from the dense model's, by matrix and block.

Accumulated drift: each block of the checkpoint sees the outputs of the checkpoint's blocks before
it, errors included. Local drift: each block sees the outputs of the dense blocks before it, so that
all errors are its own. The pass ends with the checkpoint's loss on the same tokens.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from freelunch.core.artifact import Artifact
from freelunch.evaluation.dense_reference import (
    BLOCK,
    Reference,
    block_outputs,
    measured_on,
    open_reference,
    timed,
)
from freelunch.evaluation.measurements import Facts, Measured, MeasurementSpec
from freelunch.evaluation.perplexity import loss_facts, tokens_digest
from freelunch.model import token_ids
from freelunch.model.block_pass import BlockPass
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_file import create_hidden, hidden_file
from freelunch.model.token_loss import window_losses
from freelunch.model.transfer import read_batches, writing_behind
from freelunch.study.steps import CAPTURE_REFERENCE, REFERENCE

KINDS = ("accumulated", "local")


class Drift:
    """Measure the relative errors of a checkpoint's activations on the sequences of a reference,
    (sequences, length), int64, and its loss. The error of a token with the output vector y is
    ||y - y_dense|| / ||y_dense||; a token whose dense output is 0 is left out. `facts`, such as
    the dense model's losses, are stored with the result.
    """

    def __init__(
        self,
        model: StreamedModel,
        reference: Reference,
        input_ids: Tensor,
        facts: Facts,
        scratch: Path,
    ) -> None:
        self._model, self._reference, self._input_ids = model, reference, input_ids
        self._facts = facts
        sequences, length = input_ids.shape
        self._blocks = BlockPass(model, sequences, length)
        shape = (sequences, length, model.config.hidden_size)
        self._hidden = create_hidden(scratch / hidden_file(0), shape, model.dtype)
        self._blocks.embed_(input_ids, self._hidden)
        self._drift: dict[str, list[Facts]] = {kind: [] for kind in KINDS}
        self._seconds: list[float] = []

    def through_(self, index: int, block: nn.Module) -> None:
        """Pass the dense block's inputs and the checkpoint's own through the checkpoint's block."""
        device = self._model.device
        errors: dict[str, dict[str, list[Tensor]]] = {kind: {} for kind in KINDS}
        passing = zip(
            self._reference.through(index),
            read_batches(device, self._blocks.batches, self._hidden),
            strict=True,
        )
        with writing_behind(device) as write:
            for (batch, states, wanted), (changed,) in passing:
                call = self._blocks.calls(len(states))[index]
                for kind, inputs in (("local", states), ("accumulated", changed)):
                    with timed(device, self._seconds):
                        outputs = block_outputs(block, call, inputs)
                    for name, output in outputs.items():
                        errors[kind].setdefault(name, []).append(relative(output, wanted[name]))
                write(self._hidden, batch, outputs[BLOCK])
        for kind in KINDS:
            of_block = {name: torch.cat(parts) for name, parts in errors[kind].items()}
            self._drift[kind].append({name: _facts(each) for name, each in of_block.items()})

    def result(self) -> Measured:
        """Return the drift, the perplexity and the speed.

        `drift` holds, for each of KINDS, a list over blocks of {output: {mean, median, max} over
        tokens}, None where not finite; an output is a matrix, by its name in the block, or BLOCK.
        The perplexity has the form of `Perplexity`; that of the dense model is under `dense`.
        `tokens_per_second` is the speed of both models while their matrices are watched.
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
        return Measured(metrics, counts)


def begin(model: StreamedModel, spec: MeasurementSpec, scratch: Path) -> Drift:
    """Return the measurement, whose inputs are the dense model, held-out text, and the dense
    model's reference on this text.
    """
    dense, held_out, reference = spec.inputs
    captured = Artifact(reference, REFERENCE)
    spec.check_made(captured, CAPTURE_REFERENCE)
    input_ids = measured_on(Artifact(held_out, token_ids.KIND))
    facts = {"dense": captured.facts["losses"]}
    facts |= {key: captured.facts[key] for key in ("model", "held_out")}
    activations = open_reference(captured, spec.cache, dense, input_ids, scratch, model.device)
    return Drift(model, activations, input_ids, facts, scratch)


def relative(output: Tensor, wanted: Tensor) -> Tensor:
    """Return ||y - y_dense|| / ||y_dense||, (tokens,), float32, of each token whose y_dense is not
    0; both are (batch, length, outputs).
    """
    wanted = wanted.float().flatten(0, -2)
    size = wanted.norm(dim=-1)
    error = (output.float().flatten(0, -2) - wanted).norm(dim=-1)
    errors: Tensor = (error / size)[size > 0]
    return errors.cpu()


def _facts(errors: Tensor) -> dict[str, float | None]:
    if not len(errors):
        return dict.fromkeys(("mean", "median", "max"))
    values = {"mean": errors.double().mean(), "median": errors.median(), "max": errors.max()}
    return {name: float(value) if value.isfinite() else None for name, value in values.items()}
