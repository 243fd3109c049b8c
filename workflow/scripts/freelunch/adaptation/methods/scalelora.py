"""Multiply the weights by a trained low-rank matrix (PERP, arXiv 2312.15230)."""

import math

import torch
from torch import Tensor

from freelunch.adaptation.training.matrices import LowRankMatrix


class ScaleLoraMatrix(LowRankMatrix):
    """W . BA."""

    adds_stored = is_scaled = False

    @staticmethod
    def start(rows: int, columns: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return A and B with all entries 1 / sqrt(rank), so that BA = 1."""
        a = torch.full((rank, columns), 1 / math.sqrt(rank), dtype=torch.float64)
        return a, a.new_full((rows, rank), 1 / math.sqrt(rank))

    def times_factor_(self, values: Tensor) -> Tensor:
        """Return W . values."""
        return values.mul_(self.stored)
