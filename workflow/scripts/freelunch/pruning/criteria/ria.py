"""Relative importance and activations (RIA)."""

import torch
from torch import Tensor

from freelunch.pruning.statistics import InputStatistics
from freelunch.study.criteria import Ria


def score(weight: Tensor, statistics: InputStatistics, settings: Ria, seed: int = 0) -> Tensor:
    """Return the relative importance of each weight times its input's size, (out, in), float32.

    (abs(W_ij) / sum of abs(column j) + abs(W_ij) / sum of abs(row i)) * ||X_j||^a (Zhang et al.,
    Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models, ICLR 2024).
    A row or column of zeros is worth 0. RIA's own code compares these scores
    within the matrix, the study within rows: see `scope`.

    Args:
        weight: (out, in).
        statistics: Of the input.
        settings: `exponent` a.
    """
    magnitude = weight.float().abs()
    tiny = torch.finfo(torch.float32).tiny
    of_column = magnitude / magnitude.sum(dim=0).clamp(min=tiny)
    of_row = magnitude / magnitude.sum(dim=1, keepdim=True).clamp(min=tiny)
    norm = statistics.squared_norm.sqrt()
    return (of_column + of_row) * norm.pow(settings.exponent)
