"""Random pruning: what any criterion has to beat."""

import torch
from torch import Tensor

from freelunch.pruning.statistics import InputStatistics
from freelunch.study.criteria import Random


def score(weight: Tensor, statistics: InputStatistics, settings: Random, seed: int = 0) -> Tensor:
    """Return standard normal noise, (out, in), float32.

    It is drawn on the CPU, so that one seed gives one mask on every device.

    Args:
        weight: (out, in); only its shape matters.
        statistics: Not used.
        settings: Not used.
        seed: Of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(weight.shape, generator=generator).to(weight.device)
