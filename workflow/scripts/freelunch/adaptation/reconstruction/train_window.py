"""Train a window by gradients, so that its outputs match the targets, by one of several losses."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from freelunch.adaptation.job import WindowResult
from freelunch.adaptation.reconstruction.window import WindowModules
from freelunch.adaptation.training.optimisation import (
    divergence,
    precision_of,
    schedule,
    stepping_in_backward,
)
from freelunch.model.hidden_file import HiddenStates
from freelunch.model.transfer import read_batches
from freelunch.study.adaptations import Reconstruction
from freelunch.study.cell import derive_seed
from freelunch.study.steps import CHECK_SEQUENCES

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


def train_window_(
    window: WindowModules,
    inputs: HiddenStates,
    targets: HiddenStates,
    settings: Reconstruction,
    seed: int,
    stop_at_divergence: bool = True,
) -> WindowResult:
    """Train a window in place.

    Args:
        window: Modules that are called one after another, with float32 weights.
        inputs: Inputs of the window, (sequences, length, features).
        targets: Outputs to match, (sequences, length, features).
        settings: Settings of the training.
        seed: Seed of the order of the sequences, and of the model's own dropout.
        stop_at_divergence: Whether a loss that is not finite is an error.

    Raises:
        UserError: A loss is not finite. The window then has its pruned weights again.
    """
    precision = precision_of(settings, window.dtype)
    loss = LOSSES[settings.loss]
    before = window_loss(window, inputs, targets, loss, precision)
    trained = window.train_(settings.trained, seed)
    losses: list[Tensor] = []
    diverged: int | None = None
    steps = list(schedule(settings, len(inputs), seed))
    batches = read_batches(window.device, [rows for _, rows, _ in steps], inputs, targets)
    if settings.model_dropout:
        torch.manual_seed(derive_seed(seed, "dropout"))
    window.drop_(settings.model_dropout)
    with stepping_in_backward(trained, settings.optimiser) as set_rate:
        for (rate, _, ends_epoch), (entering, wanted) in zip(steps, batches, strict=True):
            set_rate(rate)
            value = loss(window(entering, precision), wanted)
            value.backward()  # type: ignore[no-untyped-call]
            losses.append(value.detach())
            # Check once per epoch, not once per step: on a GPU, reading a loss waits for the
            # device.
            if ends_epoch and (diverged := _first_not_finite(losses)) is not None:
                break
    window.drop_(False)
    trained.merge_()
    steps_taken, count, after = len(losses), trained.count, before
    if diverged is None:
        window.round_()
        after = window_loss(window, inputs, targets, loss, precision)
        if not math.isfinite(after):
            # The last step diverged: no later step computed a loss with its weights.
            losses.append(torch.tensor(after))
            diverged = len(losses) - 1
    if diverged is not None:
        window.restore_()
        step = min(diverged + 1, steps_taken)
        if stop_at_divergence:
            raise divergence(
                f"reconstruction diverged in the window {window.name}",
                f"step {step}",
                [float(loss) for loss in losses],
                settings,
                "windows finished before are kept",
            )
        return WindowResult(before, before, steps_taken, count, True, step)
    kept_pruned = not after <= before
    if kept_pruned:
        window.restore_()
    after = before if kept_pruned else after
    return WindowResult(before, after, steps_taken, count, kept_pruned)


@torch.no_grad()
def window_loss(
    window: WindowModules,
    inputs: HiddenStates,
    targets: HiddenStates,
    loss: Loss,
    precision: torch.dtype,
    sequences: int = CHECK_SEQUENCES,
) -> float:
    """Return the mean loss of a window on the first sequences."""
    rows = [slice(row, row + 1) for row in range(min(sequences, len(inputs)))]
    losses = [
        loss(window(entering, precision), wanted)
        for entering, wanted in read_batches(window.device, rows, inputs, targets)
    ]
    return float(torch.stack(losses).mean())


def _first_not_finite(losses: list[Tensor]) -> int | None:
    """Return the first step, from 0, whose loss is not finite; None if all are."""
    bad = torch.nonzero(~torch.isfinite(torch.stack(losses)))
    return int(bad[0]) if len(bad) else None
