"""Pruning criteria: pure functions from a weight and its input's statistics to scores.

A criterion is one module here with a function `score(weight, statistics)`; its name in `SCORES` is
what the config calls it.
"""

from collections.abc import Callable

from torch import Tensor

from freelunch.criteria import magnitude, wanda
from freelunch.statistics import InputStatistics

# weight (out, in) and the statistics of its input -> scores (out, in), float32; the lowest go.
Score = Callable[[Tensor, InputStatistics], Tensor]

SCORES: dict[str, Score] = {"magnitude": magnitude.score, "wanda": wanda.score}
