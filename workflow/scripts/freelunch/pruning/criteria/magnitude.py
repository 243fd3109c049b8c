"""Magnitude pruning."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from freelunch.pruning.statistics import InputStatistics


def score(weight: Tensor, statistics: InputStatistics, settings: Mapping[str, Any]) -> Tensor:
    """Return abs(W), (out, in), float32; neither statistics nor settings are used."""
    return weight.float().abs()
