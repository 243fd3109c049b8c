"""Statistics of the inputs of linear layers, accumulated batch by batch during a forward pass."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from freelunch.core.errors import UserError, run_again
from freelunch.model.blocks import LinearWatcher
from freelunch.study.steps import CAPTURE_DENSE

# Columns of a Gram matrix that one matrix product computes.
_STRIP = 128


@dataclass(frozen=True, eq=False)
class InputStatistics:
    """Statistics over the calibration tokens of one linear input with C features: mean, population
    variance and sum of squares of each feature, (C,), float32.

    Attributes:
        gram: Sum over tokens of x x^T, (C, C), float32; None if no criterion asked for it.
        memo: What a criterion computes from these statistics once, for all layers with this input.
    """

    tokens: int
    mean: Tensor
    variance: Tensor
    squared_norm: Tensor
    gram: Tensor | None = None
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)


class _Accumulator:
    """Sum the statistics of one input over batches. Sums with one value per feature are float64,
    because there may be millions of tokens.
    """

    def __init__(self, features: int, device: torch.device, gram: bool) -> None:
        self.tokens = 0
        # Deviations are taken from the mean of the first batch. It is close enough to the overall
        # mean that nothing cancels for a feature that is large but hardly varies.
        self.origin: Tensor | None = None
        self.shifts = torch.zeros(features, dtype=torch.float64, device=device)
        self.deviations = torch.zeros(features, dtype=torch.float64, device=device)
        self.squares = torch.zeros(features, dtype=torch.float64, device=device)
        self.gram = torch.zeros(features, features, device=device) if gram else None

    def add_(self, inputs: Tensor) -> None:
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        if len(rows) == 0:
            return
        self.tokens += len(rows)
        # Summing squares takes a fifth of the time of torch's norms.
        self.squares += rows.square().sum(0)
        if self.origin is None:
            self.origin = rows.mean(0)
        around = rows - self.origin
        self.shifts += around.sum(0)
        self.deviations += around.square_().sum(0)
        if self.gram is not None:
            add_gram_(self.gram, rows)

    def result(self, name: str) -> InputStatistics:
        """Return the statistics so far; the Gram matrix is mirrored in place, not copied."""
        if self.origin is None:
            raise UserError(
                "calibration never reached this layer",
                where=name,
                found="0 tokens",
                expected="at least one token",
                todo="a layer that no token reaches cannot be pruned by its activations",
            )
        if not torch.isfinite(self.squares).all():
            raise UserError(
                "an activation is not finite",
                where=name,
                expected="finite activations on the calibration text",
                todo="use bfloat16 or float32 for this model",
            )
        shift = self.shifts / self.tokens
        mean = self.origin.double() + shift
        variance = (self.deviations / self.tokens - shift**2).clamp(min=0.0)
        if self.gram is not None:
            mirror_gram_(self.gram)
        return InputStatistics(
            self.tokens, mean.float(), variance.float(), self.squares.float(), self.gram
        )


def need_gram(statistics: InputStatistics, where: object) -> Tensor:
    """Return the Gram matrix. UserError: none was collected."""
    if statistics.gram is None:
        raise UserError(
            "this criterion needs the Gram matrix of the layer's input",
            where=where,
            found="statistics without Gram matrices",
            expected="a pass that collected them",
            todo=run_again(CAPTURE_DENSE),
        )
    return statistics.gram


def add_gram_(gram: Tensor, rows: Tensor) -> None:
    """Add the sum over rows of x x^T, (tokens, C), float32, to the upper triangle of `gram`,
    (C, C), in place; by strips from the diagonal on, since the rest would cost as much again.
    """
    for start in range(0, len(gram), _STRIP):
        strip = slice(start, start + _STRIP)
        gram[strip, start:].addmm_(rows[:, strip].T, rows[:, start:])


def mirror_gram_(gram: Tensor) -> None:
    """Mirror the upper triangle of a Gram matrix, (C, C), to the lower one, in place, by strips."""
    for start in range(0, len(gram), _STRIP):
        strip, after = slice(start, start + _STRIP), slice(start + _STRIP, None)
        gram[after, strip] = gram[strip, after].T
        square = gram[strip, strip]
        square.copy_(square.triu() + square.triu(1).T)


class Collector(LinearWatcher):
    """Accumulate statistics of every distinct linear input of a block, Gram matrices too if asked;
    layers that share an input share one set of statistics. A prefix of the layers' names is for
    error messages.
    """

    def __init__(
        self, block: nn.Module, prefix: str = "", gram: bool = False, ends_pass: bool = False
    ) -> None:
        super().__init__(block, ends_pass)
        self._prefix, self._gram = prefix, gram
        self._sums: dict[str, _Accumulator] = {}

    def see_input(self, group: str, inputs: Tensor) -> None:
        """Add a batch of a group's input to its statistics."""
        if group not in self._sums:
            self._sums[group] = _Accumulator(inputs.shape[-1], inputs.device, self._gram)
        self._sums[group].add_(inputs)

    def results(self) -> Mapping[str, InputStatistics]:
        """Return the statistics of each distinct input, by the name of its group. UserError: a
        layer saw no token, or a value is not finite.
        """
        for name, linear in self.linears.items():
            if name not in self.groups:
                self.groups[name] = name
                device = linear.weight.device
                self._sums[name] = _Accumulator(linear.in_features, device, self._gram)
        return {name: sums.result(self._prefix + name) for name, sums in self._sums.items()}

    def by_layer(self) -> dict[str, InputStatistics]:
        """Return the statistics of each layer's input; layers of one group share one object."""
        results = self.results()
        return {name: results[group] for name, group in self.groups.items()}
