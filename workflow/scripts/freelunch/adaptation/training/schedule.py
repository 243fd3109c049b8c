"""Learning rates and the order of the sequences, for each step."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from freelunch.study.adaptations import Training

# Share of the peak learning rate at a point of the decay, from 0 (its start) to 1 (its end).
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda gone: 1 - gone,
    "cosine": lambda gone: (1 + math.cos(math.pi * gone)) / 2,
    "constant": lambda gone: 1.0,
}


def learning_rates(steps: int, peak: float, warmup: float, schedule: str = "linear") -> list[float]:
    """Return the learning rate of each step: linear warm-up, then the schedule's decay.

    The first step has the rate peak / warm-up steps, not 0 as in the study's own code (study.md,
    quirk 7). With a decay, the rate would reach 0 one step after the last.
    """
    warm = int(warmup * steps)
    decay = SCHEDULES[schedule]
    rising = [peak * (step + 1) / warm for step in range(warm)]
    falling = [peak * decay((step - warm) / (steps - warm)) for step in range(warm, steps)]
    return rising + falling


def steps_of(settings: Training, sequences: int) -> int:
    """Return how many optimiser steps a training takes."""
    return settings.passes * -(-sequences // settings.batch)


def schedule(settings: Training, sequences: int, seed: int) -> Iterator[tuple[float, Tensor, bool]]:
    """Yield for each step its learning rate, its sequences, and whether it ends an epoch; the seed
    is that of their order.
    """
    steps = steps_of(settings, sequences)
    rates = iter(learning_rates(steps, settings.rate, settings.warmup, settings.schedule))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.passes):
        shuffled = torch.randperm(sequences, generator=generator)
        order = shuffled if settings.shuffle else torch.arange(sequences)
        batches = order.split(settings.batch)  # type: ignore[no-untyped-call]
        for number, rows in enumerate(batches, 1):
            yield next(rates), rows, number == len(batches)
