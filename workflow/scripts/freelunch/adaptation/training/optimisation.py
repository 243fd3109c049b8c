"""The steps of an optimiser: learning rates, the order of the sequences, precision, divergence."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from freelunch.adaptation.training.parameters import TrainedParameters
from freelunch.core.errors import UserError
from freelunch.study.adaptations import Training

# Share of the peak learning rate at a point of the decay, from 0 (its start) to 1 (its end).
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda gone: 1 - gone,
    "cosine": lambda gone: (1 + math.cos(math.pi * gone)) / 2,
    "constant": lambda gone: 1.0,
}


def learning_rates(steps: int, peak: float, warmup: float, schedule: str = "linear") -> list[float]:
    """Return the learning rate of each step: linear warm-up, then the schedule's decay. The first
    step has the rate peak / warm-up steps, not 0 as in the study's own code (study.md, quirk 7).
    With a decay, the rate would reach 0 one step after the last.
    """
    warm = int(warmup * steps)
    decay = SCHEDULES[schedule]
    rising = [peak * (step + 1) / warm for step in range(warm)]
    falling = [peak * decay((step - warm) / (steps - warm)) for step in range(warm, steps)]
    return rising + falling


def steps_of(settings: Training, sequences: int) -> int:
    """Return how many optimiser steps a training takes."""
    return settings.passes * -(-sequences // settings.batch)


def schedule(settings: Training, trained: range, seed: int) -> Iterator[tuple[float, Tensor, bool]]:
    """Yield for each step its learning rate, its sequences, which are some of the trained ones, and
    whether it ends an epoch; the seed is that of their order.
    """
    sequences = len(trained)
    steps = steps_of(settings, sequences)
    rates = iter(learning_rates(steps, settings.rate, settings.warmup, settings.schedule))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.passes):
        shuffled = torch.randperm(sequences, generator=generator)
        order = shuffled if settings.shuffle else torch.arange(sequences)
        batches = (order + trained.start).split(settings.batch)  # type: ignore[no-untyped-call]
        for number, rows in enumerate(batches, 1):
            yield next(rates), rows, number == len(batches)


MOMENTUM = 0.9
# What each optimiser keeps of a parameter, in the parameter's shape.
MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


@contextmanager
def stepping_in_backward(
    trained: TrainedParameters, optimiser: str
) -> Iterator[Callable[[float], None]]:
    """Step each parameter within the backward pass, as soon as its gradient is available, so that
    the gradients of a window are never in memory together; yield a function that sets the rate.
    """
    optimisers = {
        parameter: make_optimiser(optimiser, [parameter]) for parameter in trained.parameters
    }

    def step(parameter: Tensor) -> None:
        optimisers[parameter].step()
        parameter.grad = None

    def set_rate(rate: float) -> None:
        for each in optimisers.values():
            each.param_groups[0]["lr"] = rate

    handles = trained.watch(step)
    try:
        yield set_rate
    finally:
        for handle in handles:
            handle.remove()


def make_optimiser(name: str, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """Return AdamW with PyTorch's betas and no weight decay, or SGD with momentum 0.9."""
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0, fused=True)
    return torch.optim.SGD(parameters, lr=0.0, momentum=MOMENTUM, fused=True)


def precision_of(settings: Training, dtype: torch.dtype) -> torch.dtype:
    """Return the precision of training passes, which is the checkpoint's unless they say more."""
    said = settings.precision
    return dtype if said in (None, "model") else getattr(torch, said)


def divergence(
    summary: str, where: str, losses: Sequence[float], settings: Training, kept: str = ""
) -> UserError:
    """Return the error for a training that diverged at a step (`where`), from the loss of each
    step; `kept` says which results are not lost.
    """
    first = next(at for at, loss in enumerate(losses) if not math.isfinite(loss))
    return UserError(
        summary,
        where=where,
        found=f"loss {losses[first]}; last finite loss {losses[first - 1] if first else 'none'}",
        expected="a finite loss",
        todo=f"lower the learning rate (now {settings.rate}), or list several rates: one "
        "that diverges is not chosen" + (f"; {kept}" if kept else ""),
    )
