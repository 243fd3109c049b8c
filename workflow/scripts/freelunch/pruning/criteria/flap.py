"""Fluctuation-based adaptive structured pruning (FLAP)."""

from torch import Tensor

from freelunch.pruning.criteria import wanda
from freelunch.pruning.statistics import InputStatistics
from freelunch.study.criteria import Flap


def unit_score(weight: Tensor, statistics: InputStatistics, settings: Flap) -> Tensor:
    """Return the score of each input of an output projection, (in,), float32: an estimate of what
    is lost if the input is replaced by a constant (An et al., Fluctuation-based Adaptive
    Structured Pruning for Large Language Models, AAAI 2024), by the setting `metric`:

    WIFV, weighted input feature variance: Var(X_j) * ||W_:j||^2; IFV, input feature variance:
    Var(X_j); WIFN, weighted input feature norm: the mean over outputs of Wanda's scores.

    The variance is over all calibration tokens; FLAP's own code updates it sequence by sequence,
    and squares the scores of attention inputs once more, which the paper does not mention; we
    follow the paper. `pruning.structured` makes scores comparable between layers.
    """
    if settings.metric == "WIFN":
        return wanda.score(weight, statistics, settings).mean(dim=0)
    if settings.metric == "IFV":
        return statistics.variance
    return statistics.variance * weight.float().square().sum(dim=0)
