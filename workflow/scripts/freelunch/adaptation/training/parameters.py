"""The trained parameters of modules: which there are, and where they start."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from freelunch.adaptation.methods import MATRICES, Frozen, FullMatrix, TrainedMatrix, trainable
from freelunch.core.errors import UserError
from freelunch.study.cell import derive_seed
from freelunch.study.methods import FULL, Trained

# A linear layer's name, the layer, and its mask: (out, in), bool, True where a weight is kept.
Masked = tuple[str, nn.Linear, Tensor]
# A module and the name of one of its own parameters.
Slot = tuple[nn.Module, str]


class TrainedParameters:
    """All trained parameters of some modules, in float32 or wider: of the matrices of `masked`
    linear layers, and `others`, such as norms and biases, that are trained directly. If they
    exist already, `parameters` take their places in the modules. If not, they start from the
    modules' own, and from random values by the seed. UserError: a rank is too large for a
    matrix.
    """

    def __init__(
        self,
        masked: Iterable[Masked],
        others: Sequence[Slot],
        trained: Trained,
        seed: int,
        parameters: Sequence[Tensor] | None = None,
    ) -> None:
        given = None if parameters is None else iter(parameters)
        self._matrices: list[TrainedMatrix] = []
        for name, linear, keep in masked:
            if trained.weights is None:
                Frozen(linear)
                continue
            number = 1 if trained.weights == FULL else 2
            those = None if given is None else list(islice(given, number))
            drawn = derive_seed(seed, "adapter", name)
            self._matrices.append(_matrix(linear, keep, trained, drawn, name, those))
        self._others: list[Tensor] = []
        for module, name in others:
            held = getattr(module, name) if given is None else next(given)
            setattr(module, name, trainable(held))
            self._others.append(getattr(module, name))
        self.parameters: list[Tensor] = [
            *(parameter for matrix in self._matrices for parameter in matrix.parameters),
            *self._others,
        ]

    @property
    def count(self) -> int:
        """How many numbers are trained; in a matrix trained directly, those that its mask keeps."""
        others = sum(parameter.numel() for parameter in self._others)
        return others + sum(matrix.count for matrix in self._matrices)

    def watch(self, ready: Callable[[Tensor], None]) -> list[RemovableHandle]:
        """Call `ready` within the backward pass, as soon as the gradient of a parameter is
        available; return handles whose removal ends this.
        """

        def of_matrix(matrix: TrainedMatrix, parameter: Tensor) -> None:
            matrix.mask_gradient_()
            ready(parameter)

        hooks: list[tuple[Tensor, Callable[[Tensor], None]]] = [
            (each, partial(of_matrix, matrix))
            for matrix in self._matrices
            for each in matrix.parameters
        ]
        hooks += [(parameter, ready) for parameter in self._others]
        return [
            parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
            for parameter, hook in hooks
        ]

    def mask_gradients_(self) -> None:
        """Set the gradients of pruned weights to 0, once all gradients are accumulated."""
        for matrix in self._matrices:
            matrix.mask_gradient_()

    def merge_(self) -> None:
        """Leave the trained weights in the linear layers, and remove everything else."""
        for matrix in self._matrices:
            matrix.merge_()


def nothing_trained(names: Iterable[str]) -> UserError:
    """Return the error for a model, or a window of it, in which an adaptation trains nothing."""
    return UserError(
        "this adaptation trains nothing in this model, or in a window of it",
        where=", ".join(islice(names, 3)) + ", ...",
        found="neither a bias nor a norm among the parameters to train",
        todo="train norms or weights: these linear layers have no biases",
    )


def other_parameters(modules: Iterable[nn.Module], trained: Trained) -> list[Slot]:
    """Return the biases of linear layers and the parameters of other modules, but for embeddings,
    that are to be trained.
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


def _matrix(
    linear: nn.Linear,
    keep: Tensor,
    trained: Trained,
    seed: int,
    name: str,
    parameters: Sequence[Tensor] | None,
) -> TrainedMatrix:
    if trained.weights is None or trained.weights == FULL:
        return FullMatrix(linear, keep, parameters)
    rows, columns = linear.weight.shape
    if trained.rank > min(rows, columns):
        raise UserError(
            "the rank is too large for a matrix",
            where=name,
            found=f"rank: {trained.rank}",
            expected=f"at most {min(rows, columns)}, the smaller side of {(rows, columns)}",
        )
    kind = MATRICES[trained.weights]
    if parameters is None:
        dtype = torch.promote_types(linear.weight.dtype, torch.float32)
        initial = kind.start(rows, columns, trained.rank, seed)
        parameters = [nn.Parameter(part.to(linear.weight.device, dtype)) for part in initial]
    return kind(linear, keep, trained, parameters)
