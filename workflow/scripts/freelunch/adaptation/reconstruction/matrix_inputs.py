"""Inputs and outputs of a block's linear layers, for windows of single matrices.

The targets that the paper's code makes lie behind matrices that are sparse: it passes dense hidden
states through a block in which the matrices before the one that is reconstructed are already sparse
and adapted, and takes the output of this one, still dense, as the target.
"""

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from freelunch.model.blocks import LinearWatcher, block_linears, half
from freelunch.model.hidden_file import HiddenStates, create_hidden
from freelunch.model.hidden_states import DenseStates
from freelunch.model.transfer import Write, read_batches, writing_behind
from freelunch.study.families import Family


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


class BehindSparse:
    """What arrives at the matrices of a block whose earlier matrices are adapted.

    Args:
        states: Hidden states of the dense model, which enter each block.
    """

    def __init__(self, states: DenseStates) -> None:
        self.states, self.folder = states, states.scratch / "behind"
        self.folder.mkdir(exist_ok=True)

    def inputs(self, index: int, block: nn.Module, group: str) -> HiddenStates:
        """Return the inputs of a group of matrices, (sequences, length, in), in a block whose
        matrices before this group are adapted.
        """
        part, entering = self.entering(index, block, group)
        return self._recorded(index, part, entering, group)

    def hidden(self, index: int) -> HiddenStates:
        """Return what enters a block, (sequences, length, d)."""
        return self.states.at(index)

    def entering(self, index: int, block: nn.Module, group: str) -> tuple[nn.Module, HiddenStates]:
        """Return the part of a block that a group of matrices is in, and what enters this part."""
        return block, self.hidden(index)

    def on(self, index: int, block: nn.Module) -> None:
        """Go on behind an adapted block."""

    def _recorded(
        self, index: int, part: nn.Module, entering: HiddenStates, group: str
    ) -> HiddenStates:
        return recorded(self.states, index, part, entering, self.folder, [group])[inputs_of(group)]


class LostResidual(BehindSparse):
    """The same where the residual stream is lost, as in the paper's code.

    The target of the attention's last matrix enters the MLP, and that of the MLP's last matrix
    enters the next block. The residual stream, which a model adds to each of them, is missing.

    Args:
        states: Hidden states of the dense model, of which only those before the first block matter.
        family: Family of the model.
    """

    def __init__(self, states: DenseStates, family: Family) -> None:
        super().__init__(states)
        self._family, self._hidden = family, states.at(0)
        # A block's index, and what enters its MLP.
        self._middle: tuple[int, HiddenStates] | None = None

    def hidden(self, index: int) -> HiddenStates:
        return self._hidden

    def entering(self, index: int, block: nn.Module, group: str) -> tuple[nn.Module, HiddenStates]:
        attention = half(block, self._family, self._family.mlp_half)
        if group in block_linears(attention):
            return attention, self._hidden
        if self._middle is None or self._middle[0] != index:
            self._middle = index, self._behind_attention(index, block)
        return half(block, self._family, self._family.attention_half), self._middle[1]

    def on(self, index: int, block: nn.Module) -> None:
        middle = self._behind_attention(index, block)
        mlp = half(block, self._family, self._family.attention_half)
        self._hidden = self._leaving(index, mlp, middle, self._family.mlp_output)

    def _behind_attention(self, index: int, block: nn.Module) -> HiddenStates:
        attention = half(block, self._family, self._family.mlp_half)
        return self._leaving(index, attention, self._hidden, self._family.attention_output)

    def _leaving(
        self, index: int, part: nn.Module, entering: HiddenStates, last: str
    ) -> HiddenStates:
        """Return what the dense weights of the last matrix of a half make of its inputs."""
        inputs = self._recorded(index, part, entering, last)
        return dense_outputs(self.states, index, last, inputs, self.folder / f"{last}.outputs")
