"""Relative importance and activations (RIA)."""

import torch
from torch import Tensor

from freelunch.pruning.statistics import InputStatistics
from freelunch.study.criteria import Ria


def score(weight: Tensor, statistics: InputStatistics, settings: Ria, seed: int = 0) -> Tensor:
    """Return the relative importance of each weight times the norm of its input, (out, in),
    float32: (abs(W_ij) / sum of abs(column j) + abs(W_ij) / sum of abs(row i)) * ||X_j||^a,
    where a is the setting `exponent` (Zhang et al., Plug-and-Play: An Efficient Post-training
    Pruning Method for Large Language Models, ICLR 2024).

    The weights of an all-zero row or column score 0. RIA's own code compares scores within the
    whole matrix; the study compares them within rows (see `scope`).
    """
    magnitude = weight.float().abs()
    tiny = torch.finfo(torch.float32).tiny
    of_column = magnitude / magnitude.sum(dim=0).clamp(min=tiny)
    of_row = magnitude / magnitude.sum(dim=1, keepdim=True).clamp(min=tiny)
    norm = statistics.squared_norm.sqrt()
    return (of_column + of_row) * norm.pow(settings.exponent)
