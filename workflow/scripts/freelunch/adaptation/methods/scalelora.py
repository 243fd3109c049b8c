"""Multiply the weights by a trained low-rank matrix (PERP, arXiv 2312.15230)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from freelunch.adaptation.training.matrices import LowRankMatrix
from freelunch.study.methods import Trained


class ScaleLoraMatrix(LowRankMatrix):
    """W . BA."""

    adds_stored = False

    def __init__(
        self, linear: nn.Linear, keep: Tensor, trained: Trained, parameters: Sequence[Tensor]
    ) -> None:
        super().__init__(linear, keep, trained, parameters)
        self.scale = 1.0

    @staticmethod
    def start(rows: int, columns: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return A and B with all entries 1 / sqrt(rank), so that BA = 1."""
        a = torch.full((rank, columns), 1 / math.sqrt(rank), dtype=torch.float64)
        return a, a.new_full((rows, rank), 1 / math.sqrt(rank))

    def times_factor_(self, values: Tensor) -> Tensor:
        """Return W . values."""
        return values.mul_(self.stored)
