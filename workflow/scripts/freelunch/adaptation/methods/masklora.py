"""LoRA whose update is masked during training (PERP, arXiv 2312.15230)."""

from collections.abc import Sequence

from torch import Tensor, nn

from freelunch.adaptation.training.matrices import LowRankMatrix, keeps_all
from freelunch.study.methods import Trained


class MaskedChange(LowRankMatrix):
    """Multiply the change of a matrix by its mask M, which the zeros of the stored weight are."""

    def __init__(
        self, linear: nn.Linear, keep: Tensor, trained: Trained, parameters: Sequence[Tensor]
    ) -> None:
        self._masked = not keeps_all(keep)
        super().__init__(linear, keep, trained, parameters)

    def times_factor_(self, values: Tensor) -> Tensor:
        """Return M . values. On a processor, `bool` takes an eighth of the time of `!= 0`."""
        return values.mul_(self.stored.bool()) if self._masked else values


class MaskLoraMatrix(MaskedChange):
    """W + s M . BA."""
