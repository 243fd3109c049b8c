"""Train a window by gradients, so that its outputs match the targets."""

import math
from typing import Any

import torch
from torch import Tensor

from freelunch.adaptation.reconstruction.losses import LOSSES, Loss
from freelunch.adaptation.reconstruction.window import WindowModules
from freelunch.adaptation.training.optimisers import divergence, precision_of, stepping_in_backward
from freelunch.adaptation.training.schedule import schedule
from freelunch.model.hidden_file import HiddenStates
from freelunch.model.transfer import read_batches
from freelunch.study.adaptations import Reconstruction
from freelunch.study.cell import derive_seed
from freelunch.study.steps import CHECK_SEQUENCES


def train_window_(
    window: WindowModules,
    inputs: HiddenStates,
    targets: HiddenStates,
    settings: Reconstruction,
    seed: int,
    stop_at_divergence: bool = True,
) -> dict[str, Any]:
    """Train a window in place.

    Args:
        window: Modules that are called one after another, with float32 weights.
        inputs: Inputs of the window, (sequences, length, features).
        targets: Outputs to match, (sequences, length, features).
        settings: Settings of the training.
        seed: Seed of the order of the sequences, and of the model's own dropout.
        stop_at_divergence: Whether a loss that is not finite is an error.

    Returns:
        `loss_before` and `loss_after`, on the first sequences; `steps`; `trained_parameters`;
        `kept_pruned`: whether training made the window worse, so that it keeps its pruned weights;
        `diverged_at_step`, if the training diverged.

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
    facts: dict[str, Any] = {
        "loss_before": before,
        "steps": len(losses),
        "trained_parameters": trained.count,
    }
    after = before
    if diverged is None:
        window.round_()
        after = window_loss(window, inputs, targets, loss, precision)
        if not math.isfinite(after):
            # The last step diverged: no later step computed a loss with its weights.
            losses.append(torch.tensor(after))
            diverged = len(losses) - 1
    if diverged is not None:
        window.restore_()
        step = min(diverged + 1, facts["steps"])
        if stop_at_divergence:
            raise divergence(
                f"reconstruction diverged in the window {window.name}",
                f"step {step}",
                [float(loss) for loss in losses],
                settings,
                "windows finished before are kept",
            )
        return facts | {"loss_after": before, "kept_pruned": True, "diverged_at_step": step}
    kept_pruned = not after <= before
    if kept_pruned:
        window.restore_()
    return facts | {"loss_after": before if kept_pruned else after, "kept_pruned": kept_pruned}


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
