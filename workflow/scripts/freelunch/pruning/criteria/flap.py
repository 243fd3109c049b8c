"""Fluctuation-based adaptive structured pruning (FLAP)."""

from torch import Tensor

from freelunch.pruning.criteria import wanda
from freelunch.pruning.statistics import InputStatistics
from freelunch.study.criteria import Flap


def unit_score(weight: Tensor, statistics: InputStatistics, settings: Flap) -> Tensor:
    """Return the score of each input of an output projection, (in,), float32.

    The score estimates what is lost if the input is replaced by a constant (An et al.,
    Fluctuation-based Adaptive Structured Pruning for Large Language Models, AAAI 2024):
    WIFV, weighted input feature variance: Var(X_j) * ||W_:j||^2;
    IFV, input feature variance: Var(X_j);
    WIFN, weighted input feature norm: the mean over outputs of Wanda's scores.

    The variance is taken over all calibration tokens; FLAP's own code updates it sequence by
    sequence. FLAP's own code also squares the scores of attention inputs once more, which the paper
    does not mention; we follow the paper. `pruning.structured` makes the scores comparable between
    layers.

    Args:
        weight: Weight of the output projection, (out, in).
        statistics: Statistics of the projection's input.
        settings: Settings of the criterion, of which `metric` is used.
    """
    if settings.metric == "WIFN":
        return wanda.score(weight, statistics, settings).mean(dim=0)
    if settings.metric == "IFV":
        return statistics.variance
    return statistics.variance * weight.float().square().sum(dim=0)
