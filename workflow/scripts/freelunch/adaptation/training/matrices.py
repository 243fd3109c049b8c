"""The trained parameters of modules, and how weight matrices are computed from them.

A matrix that is trained through two small ones is still a leaf of the model: the model runs with W
+ s M . BA in place of the matrix, at about the speed of full training. When the gradient of the
matrix is available, it is pulled back to A and B and freed; when A and B have moved, the matrix is
recomputed. The trained model and the merged one are therefore the same tensors, and zeros stay
zeros.
"""

import math
from collections.abc import Callable, Iterable, Sequence

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


class Matrix:
    """A matrix and the parameters that it is trained through.

    Args:
        parameters: Parameters that the optimiser moves.
        leaf: Tensor that receives the gradient in place of the parameters, if there is one.

    Attributes:
        parameters: Parameters that the optimiser moves.
        leaf: Tensor that receives the gradient; None if the parameters receive it themselves.
    """

    def __init__(self, parameters: Sequence[Tensor], leaf: Tensor | None = None) -> None:
        self.parameters, self.leaf = list(parameters), leaf

    @property
    def count(self) -> int:
        """Return how many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters)

    def pull_back_(self, gradient: Tensor) -> None:
        """Turn the leaf's gradient, which may be overwritten, into gradients of the parameters."""

    def parameters_moved_(self) -> None:
        """Update the matrix after a step of the optimiser."""

    def merge_(self) -> None:
        """Leave the trained weight in the linear layer, and remove everything else."""


class FullMatrix(Matrix):
    """A matrix whose kept weights are trained directly.

    Pruned weights are 0 and their gradients are set to 0, so that optimisers leave them at exactly
    0.
    """

    def __init__(self, linear: nn.Linear, keep: Tensor) -> None:
        weight = linear.weight.requires_grad_(True)
        super().__init__([weight], weight)
        self._keep = keep

    @property
    def count(self) -> int:
        """Return how many weights the mask keeps."""
        return int(self._keep.sum())

    def pull_back_(self, gradient: Tensor) -> None:
        """Set the gradient of pruned weights to 0."""
        gradient.mul_(self._keep)


class LowRankMatrix(Matrix):
    """A matrix computed from two small ones: base + s factor . (BA), see `study.methods`.

    Args:
        linear: The linear layer, whose weight is overwritten with the matrix computed from A and B.
        keep: Mask of the layer, (out, in), bool, True where the weight is kept.
        trained: How the matrix is trained: one of LOW_RANK, with its rank and alpha.
        seed: Seed of A, which is drawn as in LoRA, uniform in ± 1 / sqrt(in); B starts from 0. With
            ScaleLoRA, both start from 1 / sqrt(rank), so that BA = 1.
    """

    def __init__(self, linear: nn.Linear, keep: Tensor, trained: Trained, seed: int) -> None:
        a, b = _small_matrices(linear, trained, seed)
        # SPP: the column of B that holds the only number of each row.
        self._columns: Tensor | None = None
        if trained.weights == SPP:
            rows = torch.arange(len(b), device=b.device)
            self._columns = (rows * trained.rank // len(b))[:, None]
            b = b[:, :1].clone()
        self._weight = linear.weight.requires_grad_(True)
        super().__init__([nn.Parameter(a), nn.Parameter(b)], self._weight)
        start = linear.weight.detach().clone()
        self._factor = keep if trained.weights == MASKLORA else start
        self._base: Tensor | None = start
        self._scale = trained.alpha / trained.rank
        if trained.weights == SCALELORA:
            self._base, self._scale = None, 1.0

    def pull_back_(self, gradient: Tensor) -> None:
        """Add s Bᵀ (factor . G) to the gradient of A and s (factor . G) Aᵀ to that of B; free G."""
        self._weight.grad = None
        gradient.mul_(self._factor)
        a, b = self.parameters
        of_a = (self._spread(b.detach()).T @ gradient).mul_(self._scale)
        of_b = (gradient @ a.detach().T).mul_(self._scale)
        if self._columns is not None:
            of_b = of_b.gather(1, self._columns)
        for parameter, part in ((a, of_a), (b, of_b)):
            parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)

    @torch.no_grad()
    def parameters_moved_(self) -> None:
        """Recompute the matrix from A and B."""
        a, b = self.parameters
        change = torch.matmul(self._spread(b), a).mul_(self._factor)
        if self._base is None:
            self._weight.data.copy_(change)
        else:
            torch.add(self._base, change, alpha=self._scale, out=self._weight.data)

    def _spread(self, b: Tensor) -> Tensor:
        """Return B, (out, rank); SPP stores only one number per row."""
        if self._columns is None:
            return b
        return b.new_zeros(len(b), len(self.parameters[0])).scatter_(1, self._columns, b)


class Branch(Matrix):
    """A frozen matrix with a branch s BA beside it, until the two are merged (LoRA, LoRA-prune).

    Args:
        linear: The linear layer.
        keep: Mask of the layer, (out, in), bool, True where the weight is kept.
        trained: How the branch is trained: LORA or LORA_PRUNE, with its rank, alpha and dropout.
        seed: Seed of A, which is drawn as in LoRA; B starts from 0.
    """

    def __init__(self, linear: nn.Linear, keep: Tensor, trained: Trained, seed: int) -> None:
        super().__init__([nn.Parameter(part) for part in _small_matrices(linear, trained, seed)])
        self._linear, self._keep, self._kind = linear, keep, trained.weights
        self._scale, self._dropout = trained.alpha / trained.rank, trained.dropout
        linear.weight.requires_grad_(False)
        self._handle: RemovableHandle = linear.register_forward_hook(self._add)

    def _add(self, linear: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        a, b = self.parameters
        inputs = args[0]
        if self._dropout and torch.is_grad_enabled():
            inputs = nn.functional.dropout(inputs, self._dropout)
        return outputs + self._scale * nn.functional.linear(nn.functional.linear(inputs, a), b)

    @torch.no_grad()
    def merge_(self) -> None:
        """Add s BA to the weight, and remove the branch."""
        self._handle.remove()
        a, b = self.parameters
        change = (b @ a).mul_(self._scale)
        if self._kind != LORA:
            change.mul_(self._keep)
        self._linear.weight.copy_(self._linear.weight + change)


class TrainedParameters:
    """All trained parameters of some modules.

    Args:
        masked: Linear layers whose matrices may be trained, with their names and masks.
        others: Parameters that are trained directly: norms, biases.
        trained: How matrices are trained.
        seed: Seed of random initial values.

    Attributes:
        parameters: Parameters that the optimiser moves.
        count: How many numbers are trained; in a matrix that is trained directly, those that its
            mask keeps.

    Raises:
        UserError: Nothing is trained, a rank is too large for a matrix, or `linears` names no
            layer.
    """

    def __init__(
        self, masked: Iterable[Masked], others: Sequence[Tensor], trained: Trained, seed: int
    ) -> None:
        layers = list(masked)
        self._matrices: list[Matrix] = []
        if trained.weights is not None:
            self._matrices = [
                _matrix(linear, keep, trained, derive_seed(seed, "adapter", name), name)
                for name, linear, keep in _chosen(layers, trained)
            ]
        self._others = list(others)
        for parameter in self._others:
            parameter.requires_grad_(True)
        self.parameters: list[Tensor] = [
            *(parameter for matrix in self._matrices for parameter in matrix.parameters),
            *self._others,
        ]
        if not self.parameters:
            raise UserError(
                "this adaptation trains nothing in this model",
                where=", ".join(name for name, _, _ in layers[:3]) + ", ...",
                found="neither a bias nor a norm among the parameters to train",
                todo="train norms or weights: this family's linear layers have no biases",
            )
        self.count = sum(matrix.count for matrix in self._matrices) + sum(
            parameter.numel() for parameter in self._others
        )

    def watch(self, ready: Callable[[Sequence[Tensor]], bool]) -> list[RemovableHandle]:
        """Call `ready` within the backward pass, as soon as the gradient of a parameter is
        available.

        Args:
            ready: Called with parameters whose gradients are available; returns whether it moved
                them.

        Returns:
            Handles whose removal ends the watching.
        """

        def of_matrix(matrix: Matrix) -> Callable[[Tensor], None]:
            def note(leaf: Tensor) -> None:
                assert leaf.grad is not None
                matrix.pull_back_(leaf.grad)
                if ready(matrix.parameters):
                    matrix.parameters_moved_()

            return note

        def note(parameter: Tensor) -> None:
            ready([parameter])

        plain = list(self._others)
        noted: list[tuple[Tensor, Callable[[Tensor], None]]] = []
        for matrix in self._matrices:
            if matrix.leaf is None:
                plain += matrix.parameters
            else:
                noted.append((matrix.leaf, of_matrix(matrix)))
        noted += [(parameter, note) for parameter in plain]
        return [
            leaf.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
            for leaf, hook in noted
        ]

    def moved_(self) -> None:
        """Recompute the matrices after the parameters that they are trained through have moved."""
        for matrix in self._matrices:
            matrix.parameters_moved_()

    def merge_(self) -> None:
        """Leave the trained weights in the linear layers, and remove everything else."""
        for matrix in self._matrices:
            matrix.merge_()


def other_parameters(modules: Iterable[nn.Module], trained: Trained) -> list[Tensor]:
    """Return the biases of linear layers and the parameters of other modules that are to be
    trained.

    Embeddings are never among them.
    """
    chosen: list[Tensor] = []
    for root in modules:
        for module in root.modules():
            if isinstance(module, nn.Embedding):
                continue
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(module, nn.Linear):
                    train = name != "weight" and trained.biases
                else:
                    train = trained.norms
                chosen += [parameter] if train else []
    return chosen


def _chosen(layers: list[Masked], trained: Trained) -> list[Masked]:
    if trained.linears is None:
        return layers
    for end, expected in trained.unknown([name for name, _, _ in layers]):
        raise UserError(
            "`linears` names no linear layer of this model",
            where="linears",
            found=end,
            expected=expected,
        )
    return [layer for layer in layers if layer[0] == HEAD or trained.chooses(layer[0])]


def _matrix(linear: nn.Linear, keep: Tensor, trained: Trained, seed: int, name: str) -> Matrix:
    if trained.weights == FULL:
        return FullMatrix(linear, keep)
    smaller = min(linear.weight.shape)
    if trained.rank > smaller:
        raise UserError(
            "the rank is too large for a matrix",
            where=name,
            found=f"rank: {trained.rank}",
            expected=f"at most {smaller}, the smaller side of {tuple(linear.weight.shape)}",
        )
    kind = Branch if trained.weights in BRANCHES else LowRankMatrix
    return kind(linear, keep, trained, seed)


def _small_matrices(linear: nn.Linear, trained: Trained, seed: int) -> tuple[Tensor, Tensor]:
    """Return the initial A, (rank, in), and B, (out, rank), in float32 or wider."""
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
        b = torch.zeros(rows, trained.rank)
    return a.to(device, dtype), b.to(device, dtype)
