"""The dense model's activations on held-out text: the reference for the drift of every cell.

One reference serves all cells of a model and seed. Its activations are as large as the outputs of
all matrices together, so they are only a cache: if they are not kept, or were removed, a cell
passes the text through the dense model again.
"""

import math
import time
from collections import deque
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
from freelunch.model.hidden_file import create_hidden, hidden_file, open_hidden
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
    """Return the held-out token ids on which cells are measured, (sequences, length), int64, behind
    those on which candidates are compared.
    """
    return read_tokens(held_out)[held_out.facts["settings"]["samples"] :]


@torch.no_grad()
def capture_reference(dense: DensePass) -> Artifact:
    """Pass held-out text, without the token ids on which candidates are compared, through the dense
    model; write its losses. Only `keep: all` also keeps the activations, because computing any
    of them again takes a pass through all blocks before it.
    """
    model, input_ids = dense.model, measured_on(dense.sample)
    writer = ArtifactWriter(dense.folder, REFERENCE, dense.fingerprint)
    cache = ArtifactWriter(dense.hidden_folder, HIDDEN_STATES, dense.fingerprint)
    reference = PassingReference(model, input_ids, dense.scratch)

    def copy(path: Path) -> None:
        create_hidden(path, reference.inputs.shape, reference.inputs.dtype)[:] = reference.inputs[:]

    if dense.keep == KEEP_ALL:
        cache.add(hidden_file(0), copy)
    for index in range(model.num_blocks):
        passing = reference.through(index)
        if dense.keep == KEEP_ALL:
            _keep(cache, index, passing, input_ids.shape, model)
        else:
            deque(passing, maxlen=0)
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


def _keep(
    cache: ArtifactWriter,
    index: int,
    passing: Iterator[Passed],
    tokens: torch.Size,
    model: StreamedModel,
) -> None:
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


class PassingReference:
    """A reference that passes token ids, (sequences, length), int64, through the dense model.

    Attributes:
        inputs: Hidden states before the next block, (sequences, length, d).
        passed_blocks: How many blocks of the dense model were run.
    """

    def __init__(self, model: StreamedModel, input_ids: Tensor, scratch: Path) -> None:
        self._tokens, self._device, self.passed_blocks = input_ids.numel(), model.device, 0
        self._blocks = BlockPass(model, *input_ids.shape)
        shape = (*input_ids.shape, model.config.hidden_size)
        self.inputs = create_hidden(scratch / SCRATCH, shape, model.dtype)
        self._blocks.embed_(input_ids, self.inputs)
        self._loaded = model.load_blocks(range(model.num_blocks))
        self._seconds: list[float] = []

    @property
    def tokens_per_second(self) -> float:
        """Return how many tokens per second have passed so far, their matrices being watched."""
        return self._tokens / math.fsum(self._seconds)

    def through(self, index: int) -> Iterator[Passed]:
        """Yield each batch, its inputs to a block and the block's outputs; blocks come in order."""
        _, block = next(self._loaded)
        self.passed_blocks += 1
        batches = self._blocks.batches
        arriving = read_batches(self._device, batches, self.inputs)
        with writing_behind(self._device) as write:
            for batch, (inputs,) in zip(batches, arriving, strict=True):
                call = self._blocks.calls(len(inputs))[index]
                with timed(self._device, self._seconds):
                    outputs = block_outputs(block, call, inputs)
                # Contiguous, because a view would keep all outputs in memory while it is written.
                write(self.inputs, batch, outputs[BLOCK].contiguous())
                yield batch, inputs, outputs


class KeptReference:
    """A reference whose activations are read from a cache on disk."""

    passed_blocks = 0

    def __init__(self, kept: Artifact, batches: list[slice], device: torch.device) -> None:
        self._kept, self._batches, self._device = kept, batches, device
        self.tokens_per_second: float = kept.facts["tokens_per_second"]

    def through(self, index: int) -> Iterator[Passed]:
        """Yield what `PassingReference` yields."""
        widths: dict[str, int] = self._kept.files[outputs_file(index)]["outputs"]
        sizes, before = list(widths.values()), outputs_file(index - 1) if index else hidden_file(0)
        files = (open_hidden(self._kept.path(name)) for name in (before, outputs_file(index)))
        arriving = read_batches(self._device, self._batches, *files)
        for batch, (entering, beside) in zip(self._batches, arriving, strict=True):
            outputs = beside.split(sizes, dim=-1)  # type: ignore[no-untyped-call]
            # The outputs of the block before are the last in its file.
            inputs = entering[..., -widths[BLOCK] :].contiguous()
            yield batch, inputs, dict(zip(widths, outputs, strict=True))


Reference = PassingReference | KeptReference


def open_reference(
    reference: Artifact,
    cache_folder: Path | None,
    dense: Path,
    input_ids: Tensor,
    scratch: Path,
    device: torch.device,
) -> Reference:
    """Return the activations of a reference, which `capture_reference` wrote, for its token ids,
    (sequences, length), int64: read from its cache, if there is one, or computed again by the
    dense model of a folder. UserError: the cached activations belong to another model or text.
    """
    if cache_folder is not None and (cache_folder / MANIFEST).is_file():
        kept = Artifact(cache_folder, HIDDEN_STATES)
        check_belongs(kept, "reference", reference)
        if hidden_file(0) in kept.files:
            return KeptReference(kept, sequence_batches(*input_ids.shape), device)
    return PassingReference(StreamedModel(dense, device), input_ids, scratch)


@contextmanager
def timed(device: torch.device, seconds: list[float]) -> Iterator[None]:
    """Append the seconds that the work inside the `with` block takes on a device."""

    def now() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()

    start = now()
    yield
    seconds.append(now() - start)


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
