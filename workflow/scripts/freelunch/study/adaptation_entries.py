"""Entries of `adaptations`: which class each has, by its method."""

from collections.abc import Mapping
from typing import Any

from freelunch.study.adaptations import RECONSTRUCTION, LeastSquares, Reconstruction
from freelunch.study.retraining import RETRAINING
from freelunch.study.settings import chosen_by, reader
from freelunch.study.windows import LEAST_SQUARES

AdaptationEntry = chosen_by(
    "method",
    "adaptations",
    {RECONSTRUCTION: Reconstruction, LEAST_SQUARES: LeastSquares, **RETRAINING},
)


def read_adaptation(settings: Mapping[str, Any]) -> Any:
    """Return an adaptation's settings from JSON, with defaults, as the class of its method."""
    return reader(AdaptationEntry)(settings)
