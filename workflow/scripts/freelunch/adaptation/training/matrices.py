"""The trained parameters of modules, and how weight matrices are computed from them.

A matrix that is trained through two small ones is never held beside its frozen weights: it is
computed in the forward pass, and again in the backward pass, from the weights in the checkpoint's
precision and from A and B. Its gradient is pulled back to A and B at once and freed. The mask of
frozen weights needs no memory either, since their zeros are the mask.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from freelunch.core.errors import UserError
from freelunch.study.cell import derive_seed
from freelunch.study.methods import (
    BRANCHES,
    FULL,
    HEAD,
    LORA,
    MASKLORA,
    SCALELORA,
    SPP,
    Trained,
)

# A linear layer's name, the layer, and its mask: (out, in), bool, True where a weight is kept.
Masked = tuple[str, nn.Linear, Tensor]
# A module and the name of one of its own parameters.
Slot = tuple[nn.Module, str]


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


class Matrix:
    """A linear layer's matrix and the parameters that it is trained through.

    Attributes:
        parameters: Parameters that the optimiser moves.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self._numbers = sum(parameter.numel() for parameter in parameters)

    @property
    def count(self) -> int:
        """Return how many numbers are trained, also after the merge."""
        return self._numbers

    def mask_gradient_(self) -> None:
        """Set the gradient of pruned weights to 0, if weights are trained themselves."""

    def drop_(self, on: bool) -> None:
        """Turn the dropout of a branch on or off."""

    def merge_(self) -> None:
        """Leave the trained weight in the linear layer, and remove everything else."""


class FullMatrix(Matrix):
    """A matrix whose kept weights are trained directly, in float32 or wider.

    Pruned weights are 0 and their gradients are set to 0, so that optimisers leave them at exactly
    0.
    """

    def __init__(
        self, linear: nn.Linear, keep: Tensor, parameters: Sequence[Tensor] | None
    ) -> None:
        linear.weight = _trainable(linear.weight if parameters is None else parameters[0])
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


class Frozen(Matrix):
    """A matrix whose stored weight is not trained. If it is not in the precision of a pass, it is
    converted whenever it is used, so that no converted copy stays until the backward pass.

    Args:
        linear: The linear layer; its weight stays in the precision in which it is stored.
    """

    def __init__(self, linear: nn.Linear, parameters: Sequence[Tensor] = ()) -> None:
        super().__init__(parameters)
        # The layer keeps this object: a reference back would keep a streamed block in memory until
        # the garbage collector finds the cycle.
        self._linear: nn.Linear = weakref.proxy(linear)  # type: ignore[assignment]
        linear.weight.requires_grad_(False)
        linear.forward = self.forward  # type: ignore[method-assign, assignment]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's outputs, (..., out), for inputs of (..., in)."""
        weight, bias = self._linear.weight, self._linear.bias
        if weight.dtype == _dtype_of_pass(inputs):
            return nn.functional.linear(inputs, weight, bias)
        return self._product(inputs)

    def weight(self, dtype: torch.dtype, *parameters: Tensor) -> Tensor:
        """Return the weight of a pass, (out, in), for these values of what it is computed from."""
        return self._linear.weight.to(dtype)

    def pull_back(self, gradient: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of parameters from that of the weight, which may be overwritten."""
        return ()

    def _product(self, inputs: Tensor, *parameters: Tensor) -> Tensor:
        dtype, bias = _dtype_of_pass(inputs), self._linear.bias
        cast = None if bias is None else bias.to(dtype)
        outputs: Tensor = _Product.apply(inputs.to(dtype), cast, self, *parameters)  # type: ignore[no-untyped-call]
        return outputs


class LowRankMatrix(Frozen):
    """A matrix computed from two small ones: base + s factor . (BA), see `study.methods`.

    Args:
        linear: The linear layer.
        keep: Mask of the layer, (out, in), bool, True where the weight is kept: where the weight is
            not 0, or everywhere.
        trained: How the matrix is trained: one of LOW_RANK, with its rank and alpha.
        parameters: A and B.
    """

    def __init__(
        self, linear: nn.Linear, keep: Tensor, trained: Trained, parameters: Sequence[Tensor]
    ) -> None:
        self._kind, self._rank = trained.weights, trained.rank
        self._scale = 1.0 if trained.weights == SCALELORA else trained.alpha / trained.rank
        self._masked = trained.weights == MASKLORA and not _keeps_all(keep)
        # SPP: the column of B that holds the only number of each row.
        self._columns: Tensor | None = None
        if trained.weights == SPP:
            rows = torch.arange(linear.out_features, device=linear.weight.device)
            self._columns = (rows * trained.rank // linear.out_features)[:, None]
        super().__init__(linear, parameters)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's outputs, (..., out), for inputs of (..., in)."""
        if not self.parameters:
            return super().forward(inputs)
        return self._product(inputs, *self.parameters)

    def weight(self, dtype: torch.dtype, *parameters: Tensor) -> Tensor:
        """Return base + s factor . (BA), computed in the precision of A and B."""
        if not parameters:
            return super().weight(dtype)
        a, b = parameters
        change = self._times_factor_(self._spread(b) @ a).mul_(self._scale)
        if self._kind != SCALELORA:
            change.add_(self._linear.weight)
        return change.to(dtype)

    def pull_back(self, gradient: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        """Return s Bᵀ (factor . G), the gradient of A, and s (factor . G) Aᵀ, that of B."""
        a, b = parameters
        gradient = self._times_factor_(gradient.to(a.dtype))
        of_a = (self._spread(b).T @ gradient).mul_(self._scale)
        of_b = (gradient @ a.T).mul_(self._scale)
        return of_a, of_b if self._columns is None else of_b.gather(1, self._columns)

    @torch.no_grad()
    def merge_(self) -> None:
        """Leave the computed weight in the linear layer, in the precision in which it is stored."""
        weight = self._linear.weight
        weight.copy_(self.weight(weight.dtype, *self.parameters))
        self.parameters = []

    def _times_factor_(self, values: Tensor) -> Tensor:
        if self._kind != MASKLORA:
            return values.mul_(self._linear.weight)
        # The zeros of the stored weight are the mask. On a processor, torch finds them this way in
        # an eighth of the time of a comparison with 0.
        return values.mul_(self._linear.weight.bool()) if self._masked else values

    def _spread(self, b: Tensor) -> Tensor:
        """Return B, (out, rank); SPP stores only one number per row."""
        if self._columns is None:
            return b
        return b.new_zeros(len(b), self._rank).scatter_(1, self._columns, b)


class Branch(Frozen):
    """A frozen matrix with a branch s BA beside it, until the two are merged (LoRA, LoRA-prune).

    Args:
        linear: The linear layer.
        keep: Mask of the layer, (out, in), bool, True where the weight is kept.
        trained: How the branch is trained: LORA or LORA_PRUNE, with its rank, alpha and dropout.
        parameters: A and B.
    """

    def __init__(
        self, linear: nn.Linear, keep: Tensor, trained: Trained, parameters: Sequence[Tensor]
    ) -> None:
        self._masked = trained.weights != LORA and not _keeps_all(keep)
        self._scale, self._dropout = trained.alpha / trained.rank, trained.dropout
        self._drops = False
        super().__init__(linear, parameters)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's outputs, (..., out), for inputs of (..., in)."""
        outputs = super().forward(inputs)
        if not self.parameters:
            return outputs
        a, b = self.parameters
        if self._drops:
            inputs = nn.functional.dropout(inputs, self._dropout)
        branch = nn.functional.linear(nn.functional.linear(inputs, a), b)
        return outputs + self._scale * branch

    def drop_(self, on: bool) -> None:
        """Turn dropout on or off; it is off at first."""
        self._drops = on and self._dropout > 0

    @torch.no_grad()
    def merge_(self) -> None:
        """Add s BA to the weight, and remove the branch."""
        a, b = self.parameters
        weight = self._linear.weight
        change = (b @ a).mul_(self._scale)
        if self._masked:
            change.mul_(weight.bool())
        weight.copy_(change.add_(weight))
        self.parameters = []


class TrainedParameters:
    """All trained parameters of some modules.

    Args:
        masked: Linear layers whose matrices may be trained, with their names and masks.
        others: Parameters that are trained directly: norms, biases.
        trained: How matrices are trained.
        seed: Seed of random initial values.
        parameters: The trained parameters, if they exist already; they take their places in the
            modules. If not, they start from the modules' own.

    Attributes:
        parameters: Parameters that the optimiser moves, in float32 or wider.

    Raises:
        UserError: A rank is too large for a matrix, or `linears` names no layer.
    """

    def __init__(
        self,
        masked: Iterable[Masked],
        others: Sequence[Slot],
        trained: Trained,
        seed: int,
        parameters: Sequence[Tensor] | None = None,
    ) -> None:
        layers = list(masked)
        given = None if parameters is None else iter(parameters)
        self._matrices: list[Matrix] = []
        chosen = set() if trained.weights is None else _chosen(layers, trained)
        for name, linear, keep in layers:
            if name not in chosen:
                Frozen(linear)
                continue
            number = 1 if trained.weights == FULL else 2
            those = None if given is None else list(islice(given, number))
            drawn = derive_seed(seed, "adapter", name)
            self._matrices.append(_matrix(linear, keep, trained, drawn, name, those))
        self._others: list[Tensor] = []
        for module, name in others:
            held = getattr(module, name) if given is None else next(given)
            setattr(module, name, _trainable(held))
            self._others.append(getattr(module, name))
        self.parameters: list[Tensor] = [
            *(parameter for matrix in self._matrices for parameter in matrix.parameters),
            *self._others,
        ]

    @property
    def count(self) -> int:
        """How many numbers are trained; in a matrix that is trained directly, those that its mask
        keeps.
        """
        others = sum(parameter.numel() for parameter in self._others)
        return others + sum(matrix.count for matrix in self._matrices)

    def watch(self, ready: Callable[[Tensor], None]) -> list[RemovableHandle]:
        """Call `ready` within the backward pass, as soon as the gradient of a parameter is
        available.

        Returns:
            Handles whose removal ends the watching.
        """

        def of_matrix(matrix: Matrix) -> Callable[[Tensor], None]:
            def note(parameter: Tensor) -> None:
                matrix.mask_gradient_()
                ready(parameter)

            return note

        noted: list[tuple[Tensor, Callable[[Tensor], None]]] = [
            (parameter, of_matrix(matrix))
            for matrix in self._matrices
            for parameter in matrix.parameters
        ]
        noted += [(parameter, ready) for parameter in self._others]
        return [
            parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
            for parameter, hook in noted
        ]

    def mask_gradients_(self) -> None:
        """Set the gradients of pruned weights to 0, once all gradients are accumulated."""
        for matrix in self._matrices:
            matrix.mask_gradient_()

    def drop_(self, on: bool) -> None:
        """Turn the dropout of branches on or off; it is off at first."""
        for matrix in self._matrices:
            matrix.drop_(on)

    def merge_(self) -> None:
        """Leave the trained weights in the linear layers, and remove everything else."""
        for matrix in self._matrices:
            matrix.merge_()


def _dtype_of_pass(inputs: Tensor) -> torch.dtype:
    """Return the dtype in which a matrix product of these inputs is computed."""
    device = inputs.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype


def nothing_trained(names: Iterable[str]) -> UserError:
    """Return the error for a model in which an adaptation trains nothing."""
    return UserError(
        "this adaptation trains nothing in this model",
        where=", ".join(islice(names, 3)) + ", ...",
        found="neither a bias nor a norm among the parameters to train",
        todo="train norms or weights: this family's linear layers have no biases",
    )


def other_parameters(modules: Iterable[nn.Module], trained: Trained) -> list[Slot]:
    """Return the biases of linear layers and the parameters of other modules that are to be
    trained.

    Embeddings are never among them.
    """
    chosen: list[Slot] = []
    for root in modules:
        for module in root.modules():
            if isinstance(module, nn.Embedding):
                continue
            for name, _ in module.named_parameters(recurse=False):
                if isinstance(module, nn.Linear):
                    train = name != "weight" and trained.biases
                else:
                    train = trained.norms
                chosen += [(module, name)] if train else []
    return chosen


def _trainable(value: Tensor) -> nn.Parameter:
    """Return a parameter that is trained, in float32 or wider; a given one stays the same object,
    since a head may be shared with an embedding.
    """
    held = value if isinstance(value, nn.Parameter) else nn.Parameter(value)
    held.data = held.data.to(torch.promote_types(held.dtype, torch.float32))
    held.requires_grad_(True)
    return held


def _chosen(layers: list[Masked], trained: Trained) -> set[str]:
    """Return the names of the layers whose matrices are trained."""
    for end, expected in trained.unknown([name for name, _, _ in layers]):
        raise UserError(
            "`linears` names no linear layer of this model",
            where="linears",
            found=end,
            expected=expected,
        )
    return {name for name, _, _ in layers if name == HEAD or trained.chooses(name)}


def _matrix(
    linear: nn.Linear,
    keep: Tensor,
    trained: Trained,
    seed: int,
    name: str,
    parameters: Sequence[Tensor] | None,
) -> Matrix:
    if trained.weights == FULL:
        return FullMatrix(linear, keep, parameters)
    smaller = min(linear.weight.shape)
    if trained.rank > smaller:
        raise UserError(
            "the rank is too large for a matrix",
            where=name,
            found=f"rank: {trained.rank}",
            expected=f"at most {smaller}, the smaller side of {tuple(linear.weight.shape)}",
        )
    if parameters is None:
        parameters = [nn.Parameter(part) for part in _small_matrices(linear, trained, seed)]
    kind = Branch if trained.weights in BRANCHES else LowRankMatrix
    return kind(linear, keep, trained, parameters)


def _keeps_all(keep: Tensor) -> bool:
    """Return whether a mask removes nothing."""
    # Streamed retraining asks for each matrix in each pass. `Tensor.all` takes 30 times as long.
    return bool(keep.view(torch.uint8).amin())


def _small_matrices(linear: nn.Linear, trained: Trained, seed: int) -> tuple[Tensor, Tensor]:
    """Return the initial A, (rank, in), and B, (out, rank), in float32 or wider; for SPP, B is
    (out, 1).

    A is drawn as in LoRA, uniform in ± 1 / sqrt(in), and B starts from 0. With ScaleLoRA, both
    start from 1 / sqrt(rank), so that BA = 1.
    """
    rows, columns = linear.weight.shape
    device = linear.weight.device
    dtype = torch.promote_types(linear.weight.dtype, torch.float32)
    if trained.weights == SCALELORA:
        start = 1 / math.sqrt(trained.rank)
        a = torch.full((trained.rank, columns), start, dtype=dtype)
        b = torch.full((rows, trained.rank), start, dtype=dtype)
    else:
        generator = torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(columns)
        a = (2 * torch.rand(trained.rank, columns, generator=generator) - 1) * bound
        b = torch.zeros(rows, 1 if trained.weights == SPP else trained.rank)
    return a.to(device, dtype), b.to(device, dtype)
