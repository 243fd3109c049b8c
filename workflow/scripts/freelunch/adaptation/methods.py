"""How weight matrices are computed from the parameters that they are trained through.

A matrix that is trained through two small ones is never held beside its frozen weights: it is
computed in the forward pass, and again in the backward pass, from the weights in the checkpoint's
precision and from A and B. Its gradient is pulled back to A and B at once and freed. The mask of
frozen weights needs no memory either, since their zeros are the mask.

Methods that train a matrix through two small ones are at the end: each says what it changes of
`LowRankMatrix`, and has a class of settings in `freelunch.study.retraining`.
"""

import math
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from freelunch.study.methods import Trained


class _Product(torch.autograd.Function):
    """inputs . weightᵀ + bias, with a weight that is computed again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, bias: Tensor | None, matrix: "Frozen", *parameters: Tensor
    ) -> Tensor:
        ctx.matrix = matrix
        ctx.save_for_backward(inputs, *parameters)
        with torch.autocast(inputs.device.type, enabled=False):
            return nn.functional.linear(inputs, matrix.weight(inputs.dtype, *parameters), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        inputs, *parameters = ctx.saved_tensors
        of_inputs = of_bias = None
        of_parameters: tuple[Tensor | None, ...] = (None,) * len(parameters)
        with torch.autocast(inputs.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                of_inputs = gradient @ ctx.matrix.weight(inputs.dtype, *parameters)
            flat = gradient.flatten(0, -2)
            if ctx.needs_input_grad[1]:
                of_bias = flat.sum(0)
            if parameters:
                of_weight = flat.T @ inputs.flatten(0, -2)
                of_parameters = ctx.matrix.pull_back(of_weight, *parameters)
        return of_inputs, of_bias, None, *of_parameters


class TrainedMatrix:
    """A linear layer's matrix and the parameters that the optimiser moves."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self._numbers = sum(parameter.numel() for parameter in parameters)

    @property
    def count(self) -> int:
        """Return how many numbers are trained, also after the merge."""
        return self._numbers

    def mask_gradient_(self) -> None:
        """Set the gradient of pruned weights to 0, if weights are trained themselves."""

    def merge_(self) -> None:
        """Leave the trained weight in the linear layer, and remove everything else."""


class FullMatrix(TrainedMatrix):
    """A matrix whose kept weights are trained directly, in float32 or wider; pruned weights are 0
    and have gradients of 0, so that optimisers leave them alone.
    """

    def __init__(
        self, linear: nn.Linear, keep: Tensor, parameters: Sequence[Tensor] | None
    ) -> None:
        linear.weight = trainable(linear.weight if parameters is None else parameters[0])
        super().__init__([linear.weight])
        self._keep = keep

    @property
    def count(self) -> int:
        """Return how many weights the mask keeps."""
        return int(self._keep.sum())

    def mask_gradient_(self) -> None:
        """Set the gradient of pruned weights to 0."""
        (weight,) = self.parameters
        if weight.grad is not None:
            weight.grad.mul_(self._keep)


class Frozen(TrainedMatrix):
    """A matrix whose stored weight is not trained, and stays in the precision in which it is
    stored. If that is not the precision of a pass, the weight is converted whenever it is used, so
    that no converted copy stays until the backward pass.
    """

    def __init__(self, linear: nn.Linear, parameters: Sequence[Tensor] = ()) -> None:
        super().__init__(parameters)
        # The layer keeps this object: a reference back would keep a streamed block in memory until
        # the garbage collector finds the cycle.
        self._linear: nn.Linear = weakref.proxy(linear)  # type: ignore[assignment]
        linear.weight.requires_grad_(False)
        linear.forward = self.forward  # type: ignore[method-assign, assignment]

    @property
    def stored(self) -> Tensor:
        """The stored weight W, (out, in); pruned weights are 0."""
        return self._linear.weight

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's outputs, (..., out), for inputs of (..., in)."""
        if self.stored.dtype == _dtype_of_pass(inputs):
            return nn.functional.linear(inputs, self.stored, self._linear.bias)
        return self._product(inputs)

    def weight(self, dtype: torch.dtype, *parameters: Tensor) -> Tensor:
        """Return the weight of a pass, (out, in), for these values of what it is computed from."""
        return self.stored.to(dtype)

    def _product(self, inputs: Tensor, *parameters: Tensor) -> Tensor:
        dtype, bias = _dtype_of_pass(inputs), self._linear.bias
        cast = None if bias is None else bias.to(dtype)
        outputs: Tensor = _Product.apply(inputs.to(dtype), cast, self, *parameters)  # type: ignore[no-untyped-call]
        return outputs


class LowRankMatrix(Frozen):
    """A matrix W + s factor . (BA), computed from the stored W and two small matrices, A, (rank,
    in), and B, (out, rank) or as `start` makes it. A method says by which factor, (out, in), BA
    is multiplied; this class says by none. The mask, (out, in), bool, keeps every weight, or
    those that are not 0.

    Attributes:
        adds_stored: Whether W is added to the product.
        is_scaled: Whether s is alpha / rank instead of 1.
    """

    adds_stored = is_scaled = True

    def __init__(
        self, linear: nn.Linear, keep: Tensor, trained: Trained, parameters: Sequence[Tensor]
    ) -> None:
        self._scale = trained.alpha / trained.rank if self.is_scaled else 1.0
        super().__init__(linear, parameters)

    @staticmethod
    def start(rows: int, columns: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return the initial A, (rank, columns), and B, (rows, rank): A is drawn as in LoRA,
        uniform in +- 1 / sqrt(columns), and B is 0.
        """
        generator = torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(columns)
        a = (2 * torch.rand(rank, columns, generator=generator) - 1) * bound
        return a, torch.zeros(rows, rank)

    def times_factor_(self, values: Tensor) -> Tensor:
        """Return values, (out, in), multiplied by the method's factor, in place."""
        return values

    def spread(self, b: Tensor) -> Tensor:
        """Return B, (out, rank), from the parameter that holds its numbers."""
        return b

    def gathered(self, gradient: Tensor) -> Tensor:
        """Return the gradient of that parameter from the gradient of B, (out, rank)."""
        return gradient

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's outputs, (..., out), for inputs of (..., in)."""
        if not self.parameters:
            return super().forward(inputs)
        return self._product(inputs, *self.parameters)

    def weight(self, dtype: torch.dtype, *parameters: Tensor) -> Tensor:
        """Return the computed weight, whose parts have the precision of A and B, in `dtype`; the
        stored one without parameters.
        """
        if not parameters:
            return super().weight(dtype)
        a, b = parameters
        change = self.times_factor_(self.spread(b) @ a).mul_(self._scale)
        if self.adds_stored:
            change.add_(self.stored)
        return change.to(dtype)

    def pull_back(self, gradient: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return s Bᵀ (factor . G), the gradient of A, and s (factor . G) Aᵀ, that of B, from the
        gradient G of the weight, which may be overwritten.
        """
        gradient = self.times_factor_(gradient.to(a.dtype))
        of_a = (self.spread(b).T @ gradient).mul_(self._scale)
        of_b = (gradient @ a.T).mul_(self._scale)
        return of_a, self.gathered(of_b)

    @torch.no_grad()
    def merge_(self) -> None:
        """Leave the computed weight in the linear layer, in the precision in which it is stored."""
        self.stored.copy_(self.weight(self.stored.dtype, *self.parameters))
        self.parameters = []


class Branch(LowRankMatrix):
    """A frozen matrix with a branch s BA beside it, until the two are merged."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's outputs, (..., out), for inputs of (..., in)."""
        outputs = Frozen.forward(self, inputs)
        if not self.parameters:
            return outputs
        a, b = self.parameters
        branch = nn.functional.linear(nn.functional.linear(inputs, a), b)
        return outputs + self._scale * branch


def _dtype_of_pass(inputs: Tensor) -> torch.dtype:
    """Return the dtype in which a matrix product of these inputs is computed."""
    device = inputs.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype


def keeps_all(keep: Tensor) -> bool:
    """Return whether a mask removes nothing."""
    # Streamed retraining asks for each matrix in each pass. `Tensor.all` takes 30 times as long.
    return bool(keep.view(torch.uint8).amin())


def trainable(value: Tensor) -> nn.Parameter:
    """Return a parameter that is trained, in float32 or wider; a given one stays the same object,
    since a head may be shared with an embedding.
    """
    held = value if isinstance(value, nn.Parameter) else nn.Parameter(value)
    held.data = held.data.to(torch.promote_types(held.dtype, torch.float32))
    held.requires_grad_(True)
    return held


# --- Methods


class LoraMatrix(Branch):
    """W + s BA, in training and merged, so that the merged matrix is dense (arXiv 2106.09685)."""


class _Masked(LowRankMatrix):
    """Multiply the change of a matrix by its mask M, which the zeros of the stored weight are."""

    def __init__(
        self, linear: nn.Linear, keep: Tensor, trained: Trained, parameters: Sequence[Tensor]
    ) -> None:
        self._masked = not keeps_all(keep)
        super().__init__(linear, keep, trained, parameters)

    def times_factor_(self, values: Tensor) -> Tensor:
        # On a processor, `bool` takes an eighth of the time of `!= 0`.
        return values.mul_(self.stored.bool()) if self._masked else values


class LoraPruneMatrix(_Masked, Branch):
    """W + s BA in training, W + s M . BA when merged (PERP, arXiv 2312.15230)."""


class MaskLoraMatrix(_Masked):
    """W + s M . BA (PERP, arXiv 2312.15230)."""


class ScaleLoraMatrix(LowRankMatrix):
    """W . BA (PERP, arXiv 2312.15230)."""

    adds_stored = is_scaled = False

    @staticmethod
    def start(rows: int, columns: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return A and B with all entries 1 / sqrt(rank), so that BA = 1."""
        a = torch.full((rank, columns), 1 / math.sqrt(rank), dtype=torch.float64)
        return a, a.new_full((rows, rank), 1 / math.sqrt(rank))

    def times_factor_(self, values: Tensor) -> Tensor:
        """Return W . values."""
        return values.mul_(self.stored)


class SppMatrix(LowRankMatrix):
    """W + s W . BA (SPP, arXiv 2405.16057), where each row of B holds one number, in the column of
    the row's group.
    """

    def __init__(
        self, linear: nn.Linear, keep: Tensor, trained: Trained, parameters: Sequence[Tensor]
    ) -> None:
        rows = torch.arange(linear.out_features, device=linear.weight.device)
        self._columns = (rows * trained.rank // linear.out_features)[:, None]
        self._rank = trained.rank
        super().__init__(linear, keep, trained, parameters)

    @staticmethod
    def start(rows: int, columns: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return A, (rank, columns), as in LoRA, and the numbers of B, (rows, 1), which are 0."""
        a, b = LowRankMatrix.start(rows, columns, rank, seed)
        return a, b[:, :1].clone()

    def times_factor_(self, values: Tensor) -> Tensor:
        """Return W . values."""
        return values.mul_(self.stored)

    def spread(self, b: Tensor) -> Tensor:
        """Return B, (out, rank), from its numbers, (out, 1)."""
        return b.new_zeros(len(b), self._rank).scatter_(1, self._columns, b)

    def gathered(self, gradient: Tensor) -> Tensor:
        """Return the gradient of B's numbers, (out, 1)."""
        return gradient.gather(1, self._columns)


# The class of each method in `freelunch.study.methods.LOW_RANK`.
MATRICES: dict[str, type[LowRankMatrix]] = {
    "lora": LoraMatrix,
    "lora_prune": LoraPruneMatrix,
    "masklora": MaskLoraMatrix,
    "scalelora": ScaleLoraMatrix,
    "spp": SppMatrix,
}
