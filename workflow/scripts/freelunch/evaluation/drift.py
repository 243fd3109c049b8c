"""Drift: how far a checkpoint's activations are from the dense model's, by matrix and block.

Accumulated drift: each block of the checkpoint sees the outputs of the checkpoint's blocks before
it, errors included. Local drift: each block sees the outputs of the dense blocks before it, so that
all errors are its own. The pass ends with the loss of both models on the same tokens.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from freelunch.core.artifact import Artifact
from freelunch.evaluation.measurements import Facts, Measured, MeasurementSpec
from freelunch.evaluation.perplexity import loss_facts, tokens_digest
from freelunch.model import token_ids
from freelunch.model.blocks import BlockCall, LinearWatcher
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import BlockPass
from freelunch.model.tensor_file import create_hidden, hidden_file
from freelunch.model.token_loss import window_losses
from freelunch.model.transfer import read_batches, writing_behind
from freelunch.study.steps import SAMPLE_HELD_OUT

KINDS = ("accumulated", "local")
# Name of a block's own output, besides those of its matrices.
BLOCK = "block"
DENSE = "dense.safetensors"

# The inputs of a dense block, and the outputs of the block and its matrices.
Passed = tuple[Tensor, dict[str, Tensor]]


class Drift:
    """Measure the relative errors of a checkpoint's activations on token ids, (sequences, length),
    int64, and the losses of the checkpoint and of the dense model, which passes the tokens beside
    it. The error of a token with the output vector y is ||y - y_dense|| / ||y_dense||; a token
    whose dense output is 0 is left out. `facts` are stored with the result.
    """

    def __init__(
        self,
        model: StreamedModel,
        dense: StreamedModel,
        input_ids: Tensor,
        facts: Facts,
        scratch: Path,
    ) -> None:
        self._model, self._dense, self._input_ids, self._facts = model, dense, input_ids, facts
        self._hidden, self._dense_hidden = (
            create_hidden(scratch / name, (*input_ids.shape, each.config.hidden_size), each.dtype)
            for each, name in ((model, hidden_file(0)), (dense, DENSE))
        )
        self._blocks, self._dense_blocks = (
            BlockPass(each, *input_ids.shape) for each in (model, dense)
        )
        self._blocks.embed_(input_ids, self._hidden)
        self._dense_blocks.embed_(input_ids, self._dense_hidden)
        self._loaded = dense.load_blocks(range(dense.num_blocks))
        self._drift: dict[str, list[Facts]] = {kind: [] for kind in KINDS}

    def through_(self, index: int, block: nn.Module) -> None:
        """Pass the dense block's inputs and the checkpoint's own through the checkpoint's block."""
        device, batches = self._model.device, self._blocks.batches
        errors: dict[str, dict[str, list[Tensor]]] = {kind: {} for kind in KINDS}
        changing = read_batches(device, batches, self._hidden)
        passing = zip(batches, self._through_dense(index), changing, strict=True)
        with writing_behind(device) as write:
            for batch, (states, wanted), (changed,) in passing:
                call = self._blocks.calls(len(states))[index]
                for kind, inputs in (("local", states), ("accumulated", changed)):
                    outputs = block_outputs(block, call, inputs)
                    for name, output in outputs.items():
                        errors[kind].setdefault(name, []).append(relative(output, wanted[name]))
                write(self._hidden, batch, outputs[BLOCK])
        for kind in KINDS:
            of_block = {name: torch.cat(parts) for name, parts in errors[kind].items()}
            self._drift[kind].append({name: _facts(each) for name, each in of_block.items()})

    def _through_dense(self, index: int) -> Iterator[Passed]:
        _, block = next(self._loaded)
        device, batches = self._dense.device, self._dense_blocks.batches
        arriving = read_batches(device, batches, self._dense_hidden)
        with writing_behind(device) as write:
            for batch, (inputs,) in zip(batches, arriving, strict=True):
                call = self._dense_blocks.calls(len(inputs))[index]
                outputs = block_outputs(block, call, inputs)
                # Contiguous, because a view would keep all outputs in memory while it is written.
                write(self._dense_hidden, batch, outputs[BLOCK].contiguous())
                yield inputs, outputs

    def result(self) -> Measured:
        """Return the drift and the perplexity.

        `drift` holds, for each of KINDS, a list over blocks of {output: {mean, median, max} over
        tokens}, None where not finite; an output is a matrix, by its name in the block, or BLOCK.
        The perplexity has the form of `Perplexity`; that of the dense model is under `dense`.
        """
        sequences, length = self._input_ids.shape
        metrics = {
            "drift": self._drift,
            **loss_facts(window_losses(self._model, self._input_ids, self._hidden)),
            "windows": sequences,
            "length": length,
            "token_ids_sha256": tokens_digest(self._input_ids),
            "dense": loss_facts(window_losses(self._dense, self._input_ids, self._dense_hidden)),
            **self._facts,
        }
        tokens = (len(KINDS) + 1) * self._input_ids.numel()
        counts = {"tokens": tokens, "sequences": sequences, "length": length}
        return Measured(metrics, counts)


def begin(model: StreamedModel, spec: MeasurementSpec, scratch: Path) -> Drift:
    """Return the measurement, whose inputs are the dense model and held-out text. UserError: the
    text holds another number of sequences than the study asks for.
    """
    folder, held_out = spec.inputs
    dense, sample = StreamedModel(folder, model.device), Artifact(held_out, token_ids.KIND)
    # Behind those on which candidates are compared.
    input_ids = token_ids.read_tokens(sample)[sample.facts["settings"]["samples"] :]
    spec.check_made(held_out, {"samples": len(input_ids)}, SAMPLE_HELD_OUT)
    facts = {"model": dense.artifact.digest, "held_out": sample.digest}
    return Drift(model, dense, input_ids, facts, scratch)


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


class _Outputs(LinearWatcher):
    def __init__(self, block: nn.Module) -> None:
        super().__init__(block)
        self.outputs: dict[str, Tensor] = {}

    def see_output(self, name: str, outputs: Tensor) -> None:
        # A copy: Falcon adds to it in place.
        self.outputs[name] = outputs.clone()


def block_outputs(block: nn.Module, call: BlockCall, inputs: Tensor) -> dict[str, Tensor]:
    """Return the outputs of a block's matrices and of the block itself, by name, each (sequences,
    length, width), for its inputs, (sequences, length, d).
    """
    watcher = _Outputs(block)
    with watcher.watching():
        output = call(block, inputs)
    # OPT joins the tokens of all sequences before its MLP, so shapes are given back here.
    shape = (*inputs.shape[:-1], -1)
    return {name: each.reshape(shape) for name, each in (watcher.outputs | {BLOCK: output}).items()}
