"""Random pruning: the baseline that any criterion has to beat."""

import torch
from torch import Tensor

from freelunch.pruning.statistics import InputStatistics
from freelunch.study.criteria import Random


def score(weight: Tensor, statistics: InputStatistics, settings: Random, seed: int = 0) -> Tensor:
    """Return standard normal noise, (out, in), float32, drawn on the CPU, so that one seed gives
    the same mask on every device. Only the shape of the weight is used.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(weight.shape, generator=generator).to(weight.device)
