"""Wanda for whole units (Wanda-sp)."""

from torch import Tensor

from freelunch.pruning.criteria import wanda
from freelunch.pruning.statistics import InputStatistics
from freelunch.study.criteria import WandaSp


def unit_score(weight: Tensor, statistics: InputStatistics, settings: WandaSp) -> Tensor:
    """Return the mean over outputs of Wanda's scores, (in,), float32.

    Wanda-sp was introduced alongside FLAP (An et al., AAAI 2024). A head's score is the mean over
    its inputs of the attention's output projection; a channel's is that of its input of the down
    projection. Wanda-sp sums over the head, which makes the same choice within a block. With
    `scope: model`, which the paper does not have, heads compete with channels by their means.
    """
    return wanda.score(weight, statistics, settings).mean(dim=0)
