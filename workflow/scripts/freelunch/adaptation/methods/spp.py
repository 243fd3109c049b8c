"""Multiply the weights by a trained structured low-rank matrix (SPP, arXiv 2405.16057)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from freelunch.adaptation.training.matrices import LowRankMatrix
from freelunch.study.methods import Trained


class SppMatrix(LowRankMatrix):
    """W + s W . BA, where each row of B holds one number, in the column of the row's group."""

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
