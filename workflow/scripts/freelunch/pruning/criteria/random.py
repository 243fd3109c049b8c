"""Random pruning: what any criterion has to beat."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from freelunch.pruning.statistics import InputStatistics


def score(weight: Tensor, statistics: InputStatistics, settings: Mapping[str, Any]) -> Tensor:
    """Return standard normal noise, (out, in), float32.

    It is drawn on the CPU, so that one seed gives one mask on every device.

    Args:
        weight: (out, in); only its shape matters.
        statistics: Not used.
        settings: `seed`.
    """
    generator = torch.Generator().manual_seed(settings["seed"])
    return torch.randn(weight.shape, generator=generator).to(weight.device)
