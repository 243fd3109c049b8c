"""Magnitude pruning."""

from torch import Tensor

from freelunch.statistics import InputStatistics


def score(weight: Tensor, statistics: InputStatistics) -> Tensor:
    """Return abs(W), (out, in), float32; the statistics are not used."""
    return weight.float().abs()
