"""Magnitude pruning."""

from torch import Tensor

from freelunch.pruning.statistics import InputStatistics
from freelunch.study.criteria import Magnitude


def score(
    weight: Tensor, statistics: InputStatistics, settings: Magnitude, seed: int = 0
) -> Tensor:
    """Return abs(W), (out, in), float32; neither statistics nor settings are used."""
    return weight.float().abs()
