"""The dense model's activations on held-out text: the reference for the drift of every cell.

One reference serves all cells of a model and seed. Its activations are as large as the outputs of
all matrices together, so they are only a cache: if they are not kept, or were removed, a cell
passes the text through the dense model again.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from freelunch.core.artifact import MANIFEST, Artifact, check_belongs
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.evaluation.perplexity import loss_facts
from freelunch.model.block_pass import BlockPass, DensePass, sequence_batches
from freelunch.model.blocks import BlockCall, LinearWatcher
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_file import HiddenStates, create_hidden, hidden_file, open_hidden
from freelunch.model.token_ids import read_tokens
from freelunch.model.token_loss import window_losses
from freelunch.model.transfer import read_batches, writing_behind
from freelunch.study.steps import HIDDEN_STATES, REFERENCE
from freelunch.study.windows import KEEP_ALL

# Name of a block's own output, besides those of its matrices.
BLOCK = "block"
SCRATCH = "dense.safetensors"

# A slice of the sequences, the inputs of a dense block, and the outputs of the block and its
# matrices.
Passed = tuple[slice, Tensor, dict[str, Tensor]]


def outputs_file(block: int) -> str:
    """Return the name of the file with all outputs of a block, side by side."""
    return f"outputs-{block:03d}.safetensors"


def measured_on(held_out: Artifact) -> Tensor:
    """Return the held-out token ids on which cells are measured, (sequences, length), int64.

    Those on which candidates are compared come before them.
    """
    return read_tokens(held_out)[held_out.facts["settings"]["samples"] :]


@torch.no_grad()
def capture_reference(dense: DensePass) -> Artifact:
    """Pass held-out text through the dense model; write its losses, and its activations if kept.

    Args:
        dense: The pass of held-out text. Token ids on which candidates are compared come first, and
            are left out. Only `keep: all` keeps activations, because computing any of them again
            takes a pass through all blocks before it.
    """
    model, input_ids = dense.model, measured_on(dense.sample)
    writer = ArtifactWriter(dense.folder, REFERENCE, dense.fingerprint)
    cache = ArtifactWriter(dense.hidden_folder, HIDDEN_STATES, dense.fingerprint)
    reference = PassingReference(model, input_ids, dense.scratch)
    if dense.keep == KEEP_ALL:
        cache.add(hidden_file(0), lambda path: _copy(reference.inputs, path))
    for index in range(model.num_blocks):
        passing = reference.through(index)
        if dense.keep == KEEP_ALL:
            _keep(cache, index, passing, input_ids.shape, model)
        else:
            for _ in passing:
                pass
        dense.report(index + 1, model.num_blocks + 1, "blocks and the head")
    losses = window_losses(model, input_ids, reference.inputs)
    dense.report(model.num_blocks + 1, model.num_blocks + 1, "blocks and the head")
    made = writer.finish(
        settings={"samples": len(input_ids)},
        model=model.artifact.digest,
        held_out=dense.sample.digest,
        losses=loss_facts(losses),
    )
    # The speed is not part of the reference, so it is stored with the cache.
    cache.finish(reference=made.digest, tokens_per_second=reference.tokens_per_second)
    return made


def _copy(states: HiddenStates, path: Path) -> None:
    create_hidden(path, states.shape, states.dtype)[:] = states[:]


def _keep(
    cache: ArtifactWriter,
    index: int,
    passing: Iterator[Passed],
    tokens: torch.Size,
    model: StreamedModel,
) -> None:
    """Write all outputs of a block, batch by batch."""
    widths: dict[str, int] = {}

    def write(path: Path) -> None:
        file = None
        with writing_behind(model.device) as behind:
            for batch, _, outputs in passing:
                widths.update({name: output.shape[-1] for name, output in outputs.items()})
                if file is None:
                    file = create_hidden(path, (*tokens, sum(widths.values())), model.dtype)
                behind(file, batch, torch.cat(list(outputs.values()), dim=-1))

    # `write` has filled `widths` by the time it is stored.
    cache.add(outputs_file(index), write, outputs=widths)


class Reference(ABC):
    """Held-out sequences on their way through the dense model.

    Args:
        batches: Slices of the sequences that run together.
        inputs: Hidden states before the first block, (sequences, length, d).
        device: Device for activations.

    Attributes:
        inputs: Hidden states before the next block, (sequences, length, d).
        tokens_per_second: Speed through the blocks while their matrices are watched.
        passed_blocks: How many blocks of the dense model were run for this reference.
    """

    tokens_per_second: float
    passed_blocks = 0

    def __init__(self, batches: list[slice], inputs: HiddenStates, device: torch.device) -> None:
        self._batches, self.inputs, self._device = batches, inputs, device

    def through(self, index: int) -> Iterator[Passed]:
        """Yield each batch, its inputs to a block and the block's outputs; blocks must come in
        order.
        """
        with writing_behind(self._device) as write:
            passing = self._pass(index)
            for batch, (inputs, outputs) in zip(self._batches, passing, strict=True):
                # Contiguous, because a view would keep all outputs in memory while it is written.
                write(self.inputs, batch, outputs[BLOCK].contiguous())
                yield batch, inputs, outputs

    @abstractmethod
    def _pass(self, index: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield, for each batch, the inputs and the outputs of a block, on the device."""


class PassingReference(Reference):
    """A reference that passes token ids, (sequences, length), int64, through the dense model;
    `scratch` holds the hidden states before the next block.
    """

    def __init__(self, model: StreamedModel, input_ids: Tensor, scratch: Path) -> None:
        self._tokens = input_ids.numel()
        sequences, length = input_ids.shape
        self._blocks = BlockPass(model, sequences, length)
        shape = (sequences, length, model.config.hidden_size)
        inputs = create_hidden(scratch / SCRATCH, shape, model.dtype)
        self._blocks.embed_(input_ids, inputs)
        self._loaded = model.load_blocks(range(model.num_blocks))
        self._seconds: list[float] = []
        super().__init__(self._blocks.batches, inputs, model.device)

    @property
    def tokens_per_second(self) -> float:  # type: ignore[override]
        """Return how many tokens per second have passed so far."""
        return self._tokens / math.fsum(self._seconds)

    def _pass(self, index: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        _, block = next(self._loaded)
        self.passed_blocks += 1
        for (inputs,) in read_batches(self._device, self._batches, self.inputs):
            call = self._blocks.calls(len(inputs))[index]
            with timed(self._device, self._seconds):
                outputs = block_outputs(block, call, inputs)
            yield inputs, outputs


class KeptReference(Reference):
    """A reference whose activations are read from a cache on disk."""

    def __init__(
        self, kept: Artifact, batches: list[slice], scratch: Path, device: torch.device
    ) -> None:
        self._kept = kept
        first = open_hidden(kept.path(hidden_file(0)))
        inputs = create_hidden(scratch / SCRATCH, first.shape, first.dtype)
        for batch in batches:
            inputs[batch] = first[batch]
        self.tokens_per_second = kept.facts["tokens_per_second"]
        super().__init__(batches, inputs, device)

    def _pass(self, index: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        name = outputs_file(index)
        widths: dict[str, int] = self._kept.files[name]["outputs"]
        sizes = list(widths.values())
        file = open_hidden(self._kept.path(name))
        for inputs, beside in read_batches(self._device, self._batches, self.inputs, file):
            outputs = beside.split(sizes, dim=-1)  # type: ignore[no-untyped-call]
            yield inputs, dict(zip(widths, outputs, strict=True))


def open_reference(
    reference: Artifact,
    cache_folder: Path | None,
    dense: Path,
    input_ids: Tensor,
    scratch: Path,
    device: torch.device,
) -> Reference:
    """Return the activations of a reference, read from its cache or computed again.

    Args:
        reference: Artifact that `capture_reference` wrote.
        cache_folder: Folder of the cached activations, if there is one.
        dense: Folder of the dense model.
        input_ids: Token ids of the reference, (sequences, length), int64.
        scratch, device: As in `PassingReference` and `Reference`.

    Raises:
        UserError: The cached activations belong to another model or another text.
    """
    if cache_folder is not None and (cache_folder / MANIFEST).is_file():
        kept = Artifact(cache_folder, HIDDEN_STATES)
        check_belongs(kept, "reference", reference)
        if hidden_file(0) in kept.files:
            return KeptReference(kept, sequence_batches(*input_ids.shape), scratch, device)
    return PassingReference(StreamedModel(dense, device), input_ids, scratch)


@contextmanager
def timed(device: torch.device, seconds: list[float]) -> Iterator[None]:
    """Append the seconds that the work inside the `with` block takes on a device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    start = time.perf_counter()
    yield
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    seconds.append(time.perf_counter() - start)


class _Outputs(LinearWatcher):
    """Keep the outputs of each linear layer."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__(block)
        self.outputs: dict[str, Tensor] = {}

    def see_output(self, name: str, outputs: Tensor) -> None:
        """Keep the output of a layer, in a copy: Falcon adds to it in place."""
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
