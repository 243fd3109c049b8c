"""Inputs and outputs of a block's linear layers, for windows of single matrices."""

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from freelunch.model.hidden_file import HiddenStates, create_hidden
from freelunch.model.hidden_states import DenseStates
from freelunch.model.linear_hooks import LinearWatcher
from freelunch.model.transfer import Write, read_batches, writing_behind


def inputs_of(group: str) -> str:
    """Return the name under which the inputs of a group are recorded."""
    return f"{group}.inputs"


def outputs_of(name: str) -> str:
    """Return the name under which the outputs of a layer are recorded."""
    return f"{name}.outputs"


class Recorder(LinearWatcher):
    """Write the inputs and outputs of a block's linear layers to files while all tokens pass.

    Args:
        block: The block.
        states: Hidden states of the sample, which give the number of sequences and their length.
        folder: Folder for the files.
        inputs: Names of the groups whose inputs are written.
        outputs: Whether the outputs of all layers are written.
        write: Writes a batch.

    Attributes:
        files: Recorded inputs and outputs by name, each (sequences, length, features).
    """

    def __init__(
        self,
        block: nn.Module,
        states: DenseStates,
        folder: Path,
        inputs: Collection[str],
        outputs: bool,
        write: Write,
    ) -> None:
        super().__init__(block)
        self._states, self._folder = states, folder
        self._wanted, self._outputs, self._write_behind = inputs, outputs, write
        self.files: dict[str, HiddenStates] = {}
        self._rows: dict[str, int] = {}

    def see_input(self, group: str, inputs: Tensor) -> None:
        """Write a batch of a group's input."""
        if group in self._wanted:
            self._write(inputs_of(group), inputs)

    def see_output(self, name: str, outputs: Tensor) -> None:
        """Write a batch of a layer's output."""
        if self._outputs:
            self._write(outputs_of(name), outputs)

    def _write(self, name: str, tensor: Tensor) -> None:
        # Some families flatten tokens before a linear layer.
        rows = tensor.reshape(-1, self._states.length, tensor.shape[-1])
        if name not in self.files:
            shape = (self._states.sequences, self._states.length, tensor.shape[-1])
            path = self._folder / f"{name}.safetensors"
            self.files[name] = create_hidden(path, shape, tensor.dtype)
            self._rows[name] = 0
        start = self._rows[name]
        # A copy, because a block may change what it hands to a layer while this is written.
        self._write_behind(self.files[name], slice(start, start + len(rows)), rows.clone())
        self._rows[name] = start + len(rows)


def recorded(
    states: DenseStates,
    index: int,
    block: nn.Module,
    hidden: HiddenStates,
    folder: Path,
    inputs: Collection[str],
    outputs: bool = False,
) -> dict[str, HiddenStates]:
    """Pass hidden states through a block or a half of it; return what `Recorder` writes."""
    with writing_behind(states.blocks.model.device) as write:
        recorder = Recorder(block, states, folder, inputs, outputs, write)
        with recorder.watching():
            states.blocks.through_(index, block, hidden, None)
    return recorder.files


@torch.no_grad()
def dense_outputs(
    states: DenseStates, index: int, name: str, inputs: HiddenStates, path: Path
) -> HiddenStates:
    """Write the outputs of a matrix of the dense model for these inputs, (sequences, length, in),
    to a file, and return them, (sequences, length, out).
    """
    model, batches = states.blocks.model, states.blocks.batches
    linear = model.load_linear(index, name)
    shape = (inputs.shape[0], inputs.shape[1], linear.out_features)
    outputs = create_hidden(path, shape, inputs.dtype)
    with writing_behind(model.device) as write:
        arriving = read_batches(model.device, batches, inputs)
        for rows, (entering,) in zip(batches, arriving, strict=True):
            write(outputs, rows, linear(entering))
    return outputs
