"""Cost of training beyond the plain passes, by method (see `freelunch.study.methods`)."""

from collections.abc import Collection

from freelunch.costs.shapes import Matrix, Shapes
from freelunch.study.families import FAMILIES
from freelunch.study.methods import BRANCHES, FULL, LOW_RANK, Trained, matrix_parameters

# Bytes of an optimiser's moments per trained parameter.
MOMENT_BYTES = {"adamw": 8, "sgd": 4}


def trained_matrices(shapes: Shapes, trained: Trained) -> tuple[Matrix, ...]:
    """Return those of `shapes.matrices` that are trained.

    If the names of the family's linear layers are not known, return all of them.
    """
    family = FAMILIES.get(shapes.model_type)
    if family is None:
        return shapes.matrices
    named = zip(family.linears, shapes.matrices, strict=True)
    return tuple(matrix for name, matrix in named if trained.chooses(name))


def trained_weights(shapes: Shapes, trained: Trained) -> int:
    """Return the number of weights in the trained matrices of a block."""
    return sum(matrix.weights for matrix in trained_matrices(shapes, trained))


def held_bytes(trained: Trained, optimiser: str, stored: int) -> int:
    """Return the bytes held per weight of an adapted matrix, without its gradient and mask: a
    trained weight in float32 with its moments, or a frozen one as it is stored.

    Args:
        trained: The parameters that are trained, and how.
        optimiser: The optimiser.
        stored: Bytes of a stored weight.
    """
    if trained.weights == FULL:
        return 4 + MOMENT_BYTES[optimiser]
    return stored


def adapter_bytes(shapes: Shapes, trained: Trained, optimiser: str) -> int:
    """Return the bytes of A and B of all matrices of a block, with gradients and moments."""
    if trained.weights not in LOW_RANK:
        return 0
    return trained_parameters(shapes, trained) * (4 + 4 + MOMENT_BYTES[optimiser])


def branch_flops(shapes: Shapes, tokens: int, trained: Trained) -> int:
    """Return the operations of a block's branches, beside frozen matrices, in a forward pass."""
    if trained.weights not in BRANCHES:
        return 0
    return 2 * tokens * trained_parameters(shapes, trained)


def input_branch_flops(
    shapes: Shapes, tokens: int, trained: Trained, groups: Collection[int]
) -> int:
    """Return the part of `branch_flops` that multiplies the inputs of linear layers, for the layers
    in these groups: indices into `shapes.inputs`.
    """
    if trained.weights not in BRANCHES:
        return 0
    matrices = trained_matrices(shapes, trained)
    return 2 * tokens * trained.rank * sum(it.inputs for it in matrices if it.group in groups)


def last_flops(shapes: Shapes, tokens: int, trained: Trained) -> int:
    """Return the operations of the last product of a block in a forward pass; no gradient needs
    them again. A matrix that is computed from A and B is the exception: 0.
    """
    matrices, last = trained_matrices(shapes, trained), shapes.matrices[-1]
    if trained.weights in LOW_RANK and matrices and matrices[-1] == last:
        return 2 * tokens * trained.rank * last.outputs if trained.weights in BRANCHES else 0
    return 2 * tokens * shapes.weights[-1]


def head_branch_flops(shapes: Shapes, tokens: int, trained: Trained) -> int:
    """Return the operations of a branch beside the frozen head in a forward pass."""
    if trained.weights not in BRANCHES or not trained.head:
        return 0
    return 2 * tokens * trained.rank * (shapes.vocabulary + shapes.hidden)


def adapter_flops(
    shapes: Shapes,
    trained: Trained,
    blocks: int,
    *,
    passes: int,
    again: int = 0,
    checks: int = 0,
    merges: int = 1,
    first: int = 0,
) -> int:
    """Return the operations in blocks and head that do not depend on the number of tokens: BA
    whenever a matrix is used, gradients pulled back to A and B, and the merge.

    Args:
        shapes: Sizes of the model.
        trained: The parameters that are trained, and how.
        blocks: Number of blocks that are trained.
        passes: Number of backward passes in all steps together. In each, a matrix is used twice,
            and its gradient takes two products.
        again: How often blocks run forward again for their backward passes.
        checks: Number of passes without gradients before the merge.
        merges: How often blocks are merged.
        first: Number of trained weights before which nothing is trained, in all blocks together;
            backward passes do not use them.
    """
    if trained.weights not in LOW_RANK:
        return 0
    weights = blocks * trained_weights(shapes, trained)
    head = shapes.vocabulary * shapes.hidden if trained.head else 0
    merged = merges * weights + head
    if trained.weights in BRANCHES:
        return 2 * trained.rank * merged
    used = (4 * passes + checks) * (weights + head) + again * weights - passes * first
    return 2 * trained.rank * (merged + used)


def first_weights(shapes: Shapes, trained: Trained, groups: Collection[int]) -> int:
    """Return the number of trained weights of a block in these groups: indices into
    `shapes.inputs`.
    """
    return sum(it.weights for it in trained_matrices(shapes, trained) if it.group in groups)


def trained_parameters(shapes: Shapes, trained: Trained) -> int:
    """Return how many numbers train the matrices of a block, before any mask."""
    return sum(
        matrix_parameters(trained, matrix.outputs, matrix.inputs, matrix.weights)
        for matrix in trained_matrices(shapes, trained)
    )
