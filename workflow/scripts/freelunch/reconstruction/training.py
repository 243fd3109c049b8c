"""Train a window by gradients, so that its outputs match targets."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from freelunch.cost import CHECK_SEQUENCES
from freelunch.errors import UserError
from freelunch.hidden import HiddenStates
from freelunch.reconstruction.losses import LOSSES, Loss
from freelunch.reconstruction.window import Window

MOMENTUM = 0.9
# Share of the peak learning rate at a point of the decay, from 0 (its start) to 1.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda gone: 1 - gone,
    "cosine": lambda gone: (1 + math.cos(math.pi * gone)) / 2,
    "constant": lambda gone: 1.0,
}


def learning_rates(steps: int, peak: float, warmup: float, schedule: str = "linear") -> list[float]:
    """Return the learning rate of each step: linear warm-up, then the schedule's decay.

    The first step has peak / warm-up steps, not 0 as in the study's own code (study.md, quirk 7);
    with a decay the step after the last would have 0.
    """
    warm = int(warmup * steps)
    decay = SCHEDULES[schedule]
    rising = [peak * (step + 1) / warm for step in range(warm)]
    falling = [peak * decay((step - warm) / (steps - warm)) for step in range(warm, steps)]
    return rising + falling


def train_window_(
    window: Window,
    inputs: HiddenStates,
    targets: HiddenStates,
    settings: Mapping[str, Any],
    seed: int,
    stop_at_divergence: bool = True,
) -> dict[str, Any]:
    """Train a window in place.

    Args:
        window: Modules that are called one after another, their weights float32.
        inputs: (sequences, length, features).
        targets: (sequences, length, features).
        settings: An entry of `adaptations`, method `reconstruction`.
        seed: Of the order of the sequences.
        stop_at_divergence: Whether a loss that is not finite is an error.

    Returns:
        `loss_before` and `loss_after` on the first sequences, `steps`, and `kept_pruned`: whether
        training made the window worse, so that it was left as it was pruned; `diverged_at_step`
        where it did.

    Raises:
        UserError: A loss is not finite. The window is then as it was pruned.
    """
    precision = precision_of(settings, window.dtype)
    loss = LOSSES[settings["loss"]]
    before = window_loss(window, inputs, targets, loss, precision)
    parameters = window.train_(settings["train_norms"], settings["train_biases"])
    batch, sequences = settings["batch"], len(inputs)
    steps = settings["epochs"] * -(-sequences // batch)
    rates = iter(
        learning_rates(steps, settings["learning_rate"], settings["warmup"], settings["schedule"])
    )
    generator = torch.Generator().manual_seed(seed)
    losses: list[Tensor] = []
    diverged: int | None = None
    with _stepping(window, parameters, settings["optimiser"]) as set_rate:
        for _ in range(settings["epochs"]):
            shuffled = torch.randperm(sequences, generator=generator)
            order = shuffled if settings["shuffle"] else torch.arange(sequences)
            for rows in order.split(batch):  # type: ignore[no-untyped-call]
                set_rate(next(rates))
                outputs = window(inputs[rows].to(window.device), precision)
                value = loss(outputs, targets[rows].to(window.device))
                value.backward()  # type: ignore[no-untyped-call]
                losses.append(value.detach())
            # Once an epoch, not once a step: on a GPU each look at a loss waits for the device.
            diverged = _first_not_finite(losses)
            if diverged is not None:
                break
    facts: dict[str, Any] = {"loss_before": before, "steps": len(losses)}
    after = before
    if diverged is None:
        window.round_()
        after = window_loss(window, inputs, targets, loss, precision)
        if not math.isfinite(after):
            # The last step's doing: no step after it saw it.
            losses.append(torch.tensor(after))
            diverged = len(losses) - 1
    if diverged is not None:
        window.restore_()
        step = min(diverged + 1, facts["steps"])
        if stop_at_divergence:
            raise _divergence(window, step, losses[: diverged + 1], settings)
        return facts | {"loss_after": before, "kept_pruned": True, "diverged_at_step": step}
    kept_pruned = not after <= before
    if kept_pruned:
        window.restore_()
    return facts | {"loss_after": before if kept_pruned else after, "kept_pruned": kept_pruned}


@torch.no_grad()
def window_loss(
    window: Window,
    inputs: HiddenStates,
    targets: HiddenStates,
    loss: Loss,
    precision: torch.dtype,
    sequences: int = CHECK_SEQUENCES,
) -> float:
    """Return the loss of a window on the first sequences."""
    losses = [
        loss(
            window(inputs[row : row + 1].to(window.device), precision),
            targets[row : row + 1].to(window.device),
        )
        for row in range(min(sequences, len(inputs)))
    ]
    return float(torch.stack(losses).mean())


def precision_of(settings: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """Return the precision of training passes; `model` is that of the checkpoint."""
    name = settings["precision"]
    return dtype if name == "model" else getattr(torch, name)


@contextmanager
def _stepping(
    window: Window, parameters: list[nn.Parameter], optimiser: str
) -> Iterator[Callable[[float], None]]:
    """Step each parameter as soon as its gradient is there, within the backward pass.

    So the gradients of a window are never in memory together. A pruned weight is 0 and its gradient
    is made 0, so both optimisers leave it at exactly 0.

    Yields:
        What sets the learning rate.
    """
    keep = {id(linear.weight): mask for linear, mask in window.masked()}
    optimisers = {parameter: _optimiser(optimiser, parameter) for parameter in parameters}

    def step(parameter: Tensor) -> None:
        assert parameter.grad is not None
        if id(parameter) in keep:
            parameter.grad.mul_(keep[id(parameter)])
        optimisers[parameter].step()  # type: ignore[index]
        parameter.grad = None

    def set_rate(rate: float) -> None:
        for each in optimisers.values():
            each.param_groups[0]["lr"] = rate

    handles = [
        parameter.register_post_accumulate_grad_hook(step)  # type: ignore[no-untyped-call]
        for parameter in parameters
    ]
    try:
        yield set_rate
    finally:
        for handle in handles:
            handle.remove()


def _optimiser(name: str, parameter: nn.Parameter) -> torch.optim.Optimizer:
    if name == "adamw":
        return torch.optim.AdamW([parameter], lr=0.0, weight_decay=0.0, fused=True)
    return torch.optim.SGD([parameter], lr=0.0, momentum=MOMENTUM, fused=True)


def _first_not_finite(losses: list[Tensor]) -> int | None:
    """Return the first step, from 0, whose loss is not finite; None if all are."""
    bad = torch.nonzero(~torch.isfinite(torch.stack(losses)))
    return int(bad[0]) if len(bad) else None


def _divergence(
    window: Window, step: int, losses: list[Tensor], settings: Mapping[str, Any]
) -> UserError:
    """Say where training went wrong; the last of the losses is the first that is not finite."""
    *finite, last = losses
    return UserError(
        f"reconstruction diverged in the window {window.name}",
        where=f"step {step}",
        found=f"loss {float(last)}; last finite loss {float(finite[-1]) if finite else 'none'}",
        expected="a finite loss",
        todo=f"lower the learning rate (now {settings['learning_rate']}), or list several: one "
        "that diverges is then not chosen; windows finished before are kept",
    )
