"""Pruning by weights and activations (Wanda)."""

from torch import Tensor

from freelunch.pruning.statistics import InputStatistics
from freelunch.study.criteria import OfUnits, OfWeights


def score(
    weight: Tensor, statistics: InputStatistics, settings: OfWeights | OfUnits, seed: int = 0
) -> Tensor:
    """Return abs(W_ij) * ||X_j||, (out, in), float32 (arXiv 2306.11695, equation 1), where ||X_j||
    is the L2 norm of input feature j over all calibration tokens. Wanda's own code divides the
    squared norm by the number of sequences, which changes no mask.
    """
    return weight.float().abs() * statistics.squared_norm.sqrt()
