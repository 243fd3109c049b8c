"""Fluctuation-based adaptive structured pruning (FLAP)."""

from torch import Tensor

from freelunch.pruning.criteria import wanda
from freelunch.pruning.statistics import InputStatistics
from freelunch.study.criteria import Flap


def unit_score(weight: Tensor, statistics: InputStatistics, settings: Flap) -> Tensor:
    """Return how much is lost if an input of an output projection becomes constant, (in,), float32.

    An et al., Fluctuation-based Adaptive Structured Pruning for Large Language Models, AAAI 2024:
    WIFV, weighted input feature variance: Var(X_j) * ||W_:j||^2;
    IFV, input feature variance: Var(X_j);
    WIFN, weighted input feature norm: the mean over outputs of Wanda's scores.

    The variance is over all calibration tokens; FLAP's own code updates it sequence by sequence.
    That code also squares the attention's scores once more, of which the paper says nothing; here
    they are as the paper has them. `pruning.structured` makes scores comparable between layers.

    Args:
        weight: (out, in).
        statistics: Of the input.
        settings: `metric`.
    """
    if settings.metric == "WIFN":
        return wanda.score(weight, statistics, settings).mean(dim=0)
    if settings.metric == "IFV":
        return statistics.variance
    return statistics.variance * weight.float().square().sum(dim=0)
