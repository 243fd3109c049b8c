"""Losses that compare a window's outputs with its targets; they are 0 where the two are equal."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of (output - target)^2 over tokens and features.

    Args:
        outputs: (batch, length, features), any float dtype; all losses are computed in float32.
        targets: The same shape as `outputs`.

    Returns:
        0-d, float32.
    """
    # The memory of torch's mean is as large as the outputs, and whoever keeps a loss keeps it all.
    return nn.functional.mse_loss(outputs.float(), targets.float()).clone()


def negative_cosine(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over tokens of 1 - cos(output, target), which does not train the scale.

    It is computed as half the squared distance of the normalised vectors, which loses no precision
    where they are close: for equal vectors, both the loss and its gradient are exactly 0.
    """
    normalise = nn.functional.normalize
    distances = normalise(outputs.float(), dim=-1) - normalise(targets.float(), dim=-1)
    return distances.square().sum(-1).mean() / 2


def relative_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over tokens of ||output - target||^2 / ||target||^2.

    All tokens have the same weight, even if one is a hundred times as large as the others (a
    massive activation).
    """
    targets = targets.float()
    error = (outputs.float() - targets).square().sum(-1)
    return (error / targets.square().sum(-1).clamp(min=torch.finfo(torch.float32).tiny)).mean()


# Losses by their names in the config.
LOSSES: dict[str, Loss] = {
    "mean_squared_error": mean_squared_error,
    "negative_cosine": negative_cosine,
    "relative_squared_error": relative_squared_error,
}
