"""What the dense model makes of held-out text: what the drift of every cell is measured against.

It serves all cells of a model and seed. Its activations are as large as the outputs of all matrices
together, so they are a cache: where they are not kept, or were removed, a cell passes the text
through the dense model again.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from freelunch.core.artifact import MANIFEST, Artifact, ArtifactWriter, check_belongs
from freelunch.core.progress import Report, silent
from freelunch.evaluation.perplexity import loss_facts
from freelunch.model.block_pass import BlockPass, sequence_batches
from freelunch.model.blocks import BlockCall
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_file import HiddenStates, create_hidden, hidden_file, open_hidden
from freelunch.model.linear_hooks import LinearWatcher
from freelunch.model.token_ids import read_tokens
from freelunch.model.token_loss import window_losses
from freelunch.study.boundaries import ALL
from freelunch.study.steps import HIDDEN_STATES, REFERENCE

# The name of a block's own output beside those of its matrices.
BLOCK = "block"
SCRATCH = "dense.safetensors"

# Some sequences, what enters a dense block, and what its matrices and it put out.
Passed = tuple[slice, Tensor, dict[str, Tensor]]


def outputs_file(block: int) -> str:
    """Return the name of the file with all outputs of a block, side by side."""
    return f"outputs-{block:03d}.safetensors"


@torch.no_grad()
def capture_reference(
    model: StreamedModel,
    held_out: Artifact,
    samples: int,
    keep: str,
    folder: Path,
    cache_folder: Path,
    fingerprint: str,
    scratch: Path,
    report: Report = silent,
) -> Artifact:
    """Pass held-out text through the dense model: write its losses, and keep its activations.

    Args:
        model: The dense model.
        held_out: Token ids.
        samples: How many of its sequences.
        keep: `keep_hidden_states` of the study. Only `all` keeps activations: to make any of them
            again takes a pass through all blocks before it.
        folder: Where the losses go.
        cache_folder: Where the activations go.
        fingerprint: Digest of everything the result depends on.
        scratch: A folder for the hidden states before the next block.
        report: Told of each block.
    """
    input_ids = read_tokens(held_out)[:samples]
    writer = ArtifactWriter(folder, REFERENCE, fingerprint)
    cache = ArtifactWriter(cache_folder, HIDDEN_STATES, fingerprint)
    reference = PassingReference(model, input_ids, scratch)
    if keep == ALL:
        cache.add(hidden_file(0), lambda path: _copy(reference.inputs, path))
    for index in range(model.num_blocks):
        passing = reference.through(index)
        if keep == ALL:
            _keep(cache, index, passing, input_ids.shape, model.dtype)
        else:
            for _ in passing:
                pass
        report(index + 1, model.num_blocks + 1, "blocks and the head")
    losses = window_losses(model, input_ids, reference.inputs)
    report(model.num_blocks + 1, model.num_blocks + 1, "blocks and the head")
    made = writer.finish(
        settings={"samples": samples},
        model=model.artifact.digest,
        held_out=held_out.digest,
        losses=loss_facts(losses),
    )
    # A time is no part of what the reference is, so it stands beside it.
    cache.finish(reference=made.digest, tokens_per_second=reference.tokens_per_second)
    return made


def _copy(states: HiddenStates, path: Path) -> None:
    create_hidden(path, states.shape, states.dtype)[:] = states[:]


def _keep(
    cache: ArtifactWriter,
    index: int,
    passing: Iterator[Passed],
    tokens: torch.Size,
    dtype: torch.dtype,
) -> None:
    """Write all outputs of a block as they come."""
    widths: dict[str, int] = {}

    def write(path: Path) -> None:
        file = None
        for batch, _, outputs in passing:
            widths.update({name: output.shape[-1] for name, output in outputs.items()})
            if file is None:
                file = create_hidden(path, (*tokens, sum(widths.values())), dtype)
            file[batch] = torch.cat(list(outputs.values()), dim=-1)

    # `widths` is filled by then.
    cache.add(outputs_file(index), write, outputs=widths)


class Reference(ABC):
    """Held-out sequences on their way through the dense model.

    Args:
        batches: The slices of sequences that run together.
        inputs: Hidden states before the first block, (sequences, length, d).
        device: Where activations go.

    Attributes:
        inputs: Hidden states before the next block.
        tokens_per_second: Through the blocks, their matrices watched.
        passed_blocks: How many blocks of the dense model were passed for it.
    """

    tokens_per_second: float
    passed_blocks = 0

    def __init__(self, batches: list[slice], inputs: HiddenStates, device: torch.device) -> None:
        self._batches, self.inputs, self._device = batches, inputs, device

    def through(self, index: int) -> Iterator[Passed]:
        """Yield what a block makes of each batch; blocks are asked for in order."""
        outputs_of = self._block(index)
        for batch in self._batches:
            inputs = self.inputs[batch].to(self._device)
            outputs = outputs_of(batch, inputs)
            self.inputs[batch] = outputs[BLOCK]
            yield batch, inputs, outputs

    @abstractmethod
    def _block(self, index: int) -> Callable[[slice, Tensor], dict[str, Tensor]]:
        """Return what gives the outputs of a block for a batch of its inputs."""


class PassingReference(Reference):
    """A reference that passes the sequences through the dense model.

    Args:
        model: The dense model.
        input_ids: (sequences, length), int64.
        scratch: A folder for the hidden states before the next block.
    """

    def __init__(self, model: StreamedModel, input_ids: Tensor, scratch: Path) -> None:
        self._model, self._tokens = model, input_ids.numel()
        sequences, length = input_ids.shape
        self._blocks = BlockPass(model, sequences, length)
        shape = (sequences, length, model.config.hidden_size)
        inputs = create_hidden(scratch / SCRATCH, shape, model.dtype)
        self._blocks.embed_(input_ids, inputs)
        self._seconds: list[float] = []
        super().__init__(self._blocks.batches, inputs, model.device)

    @property
    def tokens_per_second(self) -> float:  # type: ignore[override]
        """Return how many tokens a second passed so far."""
        return self._tokens / math.fsum(self._seconds)

    def _block(self, index: int) -> Callable[[slice, Tensor], dict[str, Tensor]]:
        block = self._model.load_block(index)
        self.passed_blocks += 1

        def outputs_of(batch: slice, inputs: Tensor) -> dict[str, Tensor]:
            call = self._blocks.calls(len(inputs))[index]
            with timed(self._device, self._seconds):
                return block_outputs(block, call, inputs)

        return outputs_of


class KeptReference(Reference):
    """A reference whose activations are on disk.

    Args:
        kept: The cache.
        batches: As of `Reference`.
        scratch: A folder for the hidden states before the next block.
        device: As of `Reference`.
    """

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

    def _block(self, index: int) -> Callable[[slice, Tensor], dict[str, Tensor]]:
        name = outputs_file(index)
        widths: dict[str, int] = self._kept.files[name]["outputs"]
        sizes = list(widths.values())
        file = open_hidden(self._kept.path(name))

        def outputs_of(batch: slice, inputs: Tensor) -> dict[str, Tensor]:
            outputs = file[batch].to(self._device).split(sizes, dim=-1)  # type: ignore[no-untyped-call]
            return dict(zip(widths, outputs, strict=True))

        return outputs_of


def open_reference(
    reference: Artifact,
    cache_folder: Path | None,
    dense: Path,
    input_ids: Tensor,
    scratch: Path,
    device: torch.device,
) -> Reference:
    """Return the activations that a reference stands for: those that are kept, or made again.

    Args:
        reference: What `capture_reference` wrote.
        cache_folder: Where it kept activations, if it did.
        dense: The folder of the dense model.
        input_ids: (sequences, length), int64: those of the reference.
        scratch: A folder for the hidden states before the next block.
        device: Where activations go.

    Raises:
        UserError: What is kept belongs to another model or other text.
    """
    if cache_folder is not None and (cache_folder / MANIFEST).is_file():
        kept = Artifact(cache_folder, HIDDEN_STATES)
        check_belongs(kept, "reference", reference)
        if hidden_file(0) in kept.files:
            return KeptReference(kept, sequence_batches(*input_ids.shape), scratch, device)
    return PassingReference(StreamedModel(dense, device), input_ids, scratch)


@contextmanager
def timed(device: torch.device, seconds: list[float]) -> Iterator[None]:
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


def block_outputs(block: nn.Module, call: BlockCall, inputs: Tensor) -> dict[str, Tensor]:
    """Return what a block's matrices and the block itself put out, by name."""
    watcher = _Outputs(block)
    with watcher.watching():
        output = call(block, inputs)
    return {**watcher.outputs, BLOCK: output}
