"""Targets of single matrices as the paper's code makes them, behind matrices that are sparse.

Its code passes dense hidden states through a block in which the matrices before the one that is
reconstructed are already sparse and adapted, and takes the output of this one, still dense, as the
target.
"""

from torch import nn

from freelunch.adaptation.reconstruction.recording import dense_outputs, inputs_of, recorded
from freelunch.model.blocks import block_linears
from freelunch.model.halves import half
from freelunch.model.hidden_file import HiddenStates
from freelunch.model.hidden_states import DenseStates
from freelunch.study.families import Family


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
