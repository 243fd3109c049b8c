"""Statistics of the inputs of linear layers, accumulated while activations pass."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from freelunch.blocks import block_linears
from freelunch.errors import UserError


@dataclass(frozen=True)
class InputStatistics:
    """What calibration says about one linear input of C features.

    Attributes:
        tokens: How many tokens were seen.
        mean: Mean of each feature, (C,), float32.
        squared_norm: Sum of squares of each feature over all tokens, (C,), float32.
    """

    tokens: int
    mean: Tensor
    squared_norm: Tensor


class _Accumulator:
    """Sum one input over batches, in float64: tokens number in the millions."""

    def __init__(self, features: int, device: torch.device) -> None:
        self.tokens = 0
        self.sum = torch.zeros(features, dtype=torch.float64, device=device)
        self.squares = torch.zeros(features, dtype=torch.float64, device=device)

    def add_(self, inputs: Tensor) -> None:
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        self.tokens += len(rows)
        self.sum += rows.sum(0)
        self.squares += torch.linalg.vector_norm(rows, dim=0).double().square()

    def result(self, name: str) -> InputStatistics:
        if self.tokens == 0:
            raise UserError(
                "calibration never reached this layer",
                where=name,
                found="0 tokens",
                expected="at least one token",
                todo="a layer that no token passes cannot be pruned by its activations",
            )
        if not torch.isfinite(self.squares).all():
            raise UserError(
                "an activation is not finite",
                where=name,
                expected="finite activations on the calibration text",
                todo="use bfloat16 or float32 for this model",
            )
        return InputStatistics(self.tokens, (self.sum / self.tokens).float(), self.squares.float())


class Collector:
    """Accumulate statistics of every distinct linear input of a block.

    Layers that are fed the very same tensor (q, k and v; gate and up) share one set of statistics,
    named after the first of them.

    Args:
        block: The block.
        prefix: What precedes the names of its layers in the model, for messages.

    Attributes:
        groups: For each linear layer, the name of the layer whose statistics it shares.
    """

    def __init__(self, block: nn.Module, prefix: str = "") -> None:
        self._linears, self._prefix = block_linears(block), prefix
        self._sums: dict[str, _Accumulator] = {}
        self._last: tuple[str, Tensor] | None = None
        self.groups: dict[str, str] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the block's passes."""
        handles = [
            linear.register_forward_pre_hook(self._hook(name))
            for name, linear in self._linears.items()
        ]
        try:
            yield
        finally:
            self._last = None
            for handle in handles:
                handle.remove()

    def results(self) -> Mapping[str, InputStatistics]:
        """Return the statistics of each distinct input.

        Raises:
            UserError: A layer saw no token, or a value that is not finite.
        """
        for name, linear in self._linears.items():
            if name not in self.groups:
                self.groups[name] = name
                self._sums[name] = _Accumulator(linear.in_features, linear.weight.device)
        return {name: sums.result(self._prefix + name) for name, sums in self._sums.items()}

    def _hook(self, name: str):  # type: ignore[no-untyped-def]
        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            tensor = inputs[0]
            same = self._last is not None and self._last[1] is tensor
            group = self._last[0] if same and self._last is not None else name
            if self.groups.setdefault(name, group) != group:
                raise RuntimeError(f"{name} shared its input with another layer before, not now")
            if group == name:
                sums = self._sums.setdefault(name, _Accumulator(tensor.shape[-1], tensor.device))
                sums.add_(tensor)
                self._last = (name, tensor)

        return note
