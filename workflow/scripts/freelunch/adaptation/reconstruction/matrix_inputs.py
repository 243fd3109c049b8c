"""Inputs and outputs of a block's linear layers, for windows of single matrices.

The targets of the paper's code lie behind sparse matrices: it passes dense hidden states through a
block in which the matrices before the one that is reconstructed are already sparse and adapted, and
takes the output of this one, still dense, as the target.
"""

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from freelunch.model.blocks import LinearWatcher, block_linears, half
from freelunch.model.hidden_states import DenseStates
from freelunch.model.tensor_file import HiddenStates, create_hidden
from freelunch.model.transfer import Write, read_batches, writing_behind
from freelunch.study.families import Family

# What is recorded: inputs and outputs of layers, each (sequences, length, features), by INPUTS and
# the name of a group, or by OUTPUTS and the name of a layer.
INPUTS, OUTPUTS = "inputs", "outputs"
Recorded = dict[tuple[str, str], HiddenStates]


class _Recorder(LinearWatcher):
    def __init__(
        self,
        block: nn.Module,
        states: DenseStates,
        folder: Path,
        groups: Collection[str],
        outputs: bool,
        write: Write,
    ) -> None:
        super().__init__(block)
        self._states, self._folder, self._write_behind = states, folder, write
        self._groups, self._outputs = groups, outputs
        self.files: Recorded = {}
        self._rows: dict[tuple[str, str], int] = {}

    def see_input(self, group: str, inputs: Tensor) -> None:
        if group in self._groups:
            self._write((INPUTS, group), inputs)

    def see_output(self, name: str, outputs: Tensor) -> None:
        if self._outputs:
            self._write((OUTPUTS, name), outputs)

    def _write(self, key: tuple[str, str], tensor: Tensor) -> None:
        # Some families flatten tokens before a linear layer.
        rows = tensor.reshape(-1, self._states.length, tensor.shape[-1])
        if key not in self.files:
            shape = (self._states.sequences, self._states.length, tensor.shape[-1])
            path = self._folder / f"{key[1]}.{key[0]}.safetensors"
            self.files[key] = create_hidden(path, shape, tensor.dtype)
            self._rows[key] = 0
        start = self._rows[key]
        # A copy, because a block may change what it hands to a layer while this is written.
        self._write_behind(self.files[key], slice(start, start + len(rows)), rows.clone())
        self._rows[key] = start + len(rows)


def recorded(
    states: DenseStates,
    index: int,
    block: nn.Module,
    hidden: HiddenStates,
    folder: Path,
    groups: Collection[str],
    outputs: bool = False,
) -> Recorded:
    """Pass hidden states through a block or a half of it; return the inputs of these groups of
    layers and, if asked, the outputs of all layers.
    """
    with writing_behind(states.blocks.model.device) as write:
        recorder = _Recorder(block, states, folder, groups, outputs, write)
        with recorder.watching():
            states.blocks.through_(index, block, hidden, None)
    return recorder.files


@torch.no_grad()
def dense_outputs(
    states: DenseStates, index: int, name: str, inputs: HiddenStates, path: Path
) -> HiddenStates:
    """Return the outputs of a matrix of the dense model, (sequences, length, out), for these
    inputs, (sequences, length, in), written to a file.
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
    """What arrives at the matrices of a block whose earlier matrices are adapted, while hidden
    states of the dense model enter each block.

    With a family, the residual stream is lost, as in the paper's code: the target of the
    attention's last matrix enters the MLP, and that of the MLP's last matrix enters the next block.
    The residual stream, which a model adds to each of them, is missing. Of the dense model's hidden
    states, only those before the first block matter.
    """

    def __init__(self, states: DenseStates, lost: Family | None = None) -> None:
        self._states, self._lost, self._folder = states, lost, states.scratch / "behind"
        self._folder.mkdir(exist_ok=True)
        self._entering = states.at(0) if lost else None
        # A block's index, and what enters its MLP.
        self._middle: tuple[int, HiddenStates] | None = None

    def hidden(self, index: int) -> HiddenStates:
        """Return what enters a block, (sequences, length, d)."""
        return self._states.at(index) if self._entering is None else self._entering

    def inputs(self, index: int, block: nn.Module, group: str) -> HiddenStates:
        """Return the inputs of a group of matrices, (sequences, length, in), in a block whose
        matrices before this group are adapted.
        """
        part, entering = block, self.hidden(index)
        if self._lost is not None:
            part = half(block, self._lost, self._lost.mlp_half)
            if group not in block_linears(part):
                if self._middle is None or self._middle[0] != index:
                    self._middle = index, self._behind_attention(index, block, self._lost)
                entering = self._middle[1]
                part = half(block, self._lost, self._lost.attention_half)
        return self._recorded(index, part, entering, group)

    def on(self, index: int, block: nn.Module) -> None:
        """Go on behind an adapted block."""
        if self._lost is not None:
            middle = self._behind_attention(index, block, self._lost)
            mlp = half(block, self._lost, self._lost.attention_half)
            self._entering = self._leaving(index, mlp, middle, self._lost.mlp_output)

    def _behind_attention(self, index: int, block: nn.Module, family: Family) -> HiddenStates:
        attention = half(block, family, family.mlp_half)
        return self._leaving(index, attention, self.hidden(index), family.attention_output)

    def _leaving(
        self, index: int, part: nn.Module, entering: HiddenStates, last: str
    ) -> HiddenStates:
        """Return what the dense weights of the last matrix of a half make of its inputs."""
        inputs = self._recorded(index, part, entering, last)
        return dense_outputs(self._states, index, last, inputs, self._folder / f"{last}.outputs")

    def _recorded(
        self, index: int, part: nn.Module, entering: HiddenStates, group: str
    ) -> HiddenStates:
        files = recorded(self._states, index, part, entering, self._folder, [group])
        return files[INPUTS, group]
