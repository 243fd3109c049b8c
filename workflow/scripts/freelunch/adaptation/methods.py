"""Methods that train a matrix through two small ones: what each changes of `LowRankMatrix`, whose
methods say what may differ. Each also has a class of settings in `freelunch.study.retraining`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from freelunch.adaptation.training.matrices import Branch, LowRankMatrix, keeps_all
from freelunch.study.methods import Trained


class LoraMatrix(Branch):
    """W + s BA, in training and merged, so that the merged matrix is dense (arXiv 2106.09685)."""


class _Masked(LowRankMatrix):
    """Multiply the change of a matrix by its mask M, which the zeros of the stored weight are."""

    def __init__(
        self, linear: nn.Linear, keep: Tensor, trained: Trained, parameters: Sequence[Tensor]
    ) -> None:
        self._masked = not keeps_all(keep)
        super().__init__(linear, keep, trained, parameters)

    def times_factor_(self, values: Tensor) -> Tensor:
        # On a processor, `bool` takes an eighth of the time of `!= 0`.
        return values.mul_(self.stored.bool()) if self._masked else values


class LoraPruneMatrix(_Masked, Branch):
    """W + s BA in training, W + s M . BA when merged (PERP, arXiv 2312.15230)."""


class MaskLoraMatrix(_Masked):
    """W + s M . BA (PERP, arXiv 2312.15230)."""


class ScaleLoraMatrix(LowRankMatrix):
    """W . BA (PERP, arXiv 2312.15230)."""

    adds_stored = is_scaled = False

    @staticmethod
    def start(rows: int, columns: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return A and B with all entries 1 / sqrt(rank), so that BA = 1."""
        a = torch.full((rank, columns), 1 / math.sqrt(rank), dtype=torch.float64)
        return a, a.new_full((rows, rank), 1 / math.sqrt(rank))

    def times_factor_(self, values: Tensor) -> Tensor:
        """Return W . values."""
        return values.mul_(self.stored)


class SppMatrix(LowRankMatrix):
    """W + s W . BA (SPP, arXiv 2405.16057), where each row of B holds one number, in the column of
    the row's group.
    """

    def __init__(
        self, linear: nn.Linear, keep: Tensor, trained: Trained, parameters: Sequence[Tensor]
    ) -> None:
        rows = torch.arange(linear.out_features, device=linear.weight.device)
        self._columns = (rows * trained.rank // linear.out_features)[:, None]
        self._rank = trained.rank
        super().__init__(linear, keep, trained, parameters)

    @staticmethod
    def start(rows: int, columns: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return A, (rank, columns), as in LoRA, and the numbers of B, (rows, 1), which are 0."""
        a, b = LowRankMatrix.start(rows, columns, rank, seed)
        return a, b[:, :1].clone()

    def times_factor_(self, values: Tensor) -> Tensor:
        """Return W . values."""
        return values.mul_(self.stored)

    def spread(self, b: Tensor) -> Tensor:
        """Return B, (out, rank), from its numbers, (out, 1)."""
        return b.new_zeros(len(b), self._rank).scatter_(1, self._columns, b)

    def gathered(self, gradient: Tensor) -> Tensor:
        """Return the gradient of B's numbers, (out, 1)."""
        return gradient.gather(1, self._columns)


# The class of each method in `freelunch.study.methods.LOW_RANK`.
MATRICES: dict[str, type[LowRankMatrix]] = {
    "lora": LoraMatrix,
    "lora_prune": LoraPruneMatrix,
    "masklora": MaskLoraMatrix,
    "scalelora": ScaleLoraMatrix,
    "spp": SppMatrix,
}
