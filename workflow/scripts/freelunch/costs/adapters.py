"""What training costs beyond the passes, by what is trained (see `freelunch.study.methods`)."""

from collections.abc import Collection

from freelunch.costs.shapes import Matrix, Shapes
from freelunch.study.families import FAMILIES
from freelunch.study.methods import BRANCHES, FULL, LOW_RANK, Trained, matrix_parameters

# Bytes of an optimiser's moments for each trained number.
MOMENT_BYTES = {"adamw": 8, "sgd": 4}


def trained_matrices(shapes: Shapes, trained: Trained) -> tuple[Matrix, ...]:
    """Return those of `shapes.matrices` that are trained.

    All of them in a family whose linear layers' names are not known.
    """
    family = FAMILIES.get(shapes.model_type)
    if family is None:
        return shapes.matrices
    named = zip(family.linears, shapes.matrices, strict=True)
    return tuple(matrix for name, matrix in named if trained.chooses(name))


def trained_weights(shapes: Shapes, trained: Trained) -> int:
    """Return how many weights the matrices of a block hold that are trained."""
    return sum(matrix.weights for matrix in trained_matrices(shapes, trained))


def held_bytes(trained: Trained, optimiser: str) -> int:
    """Return what is held of each weight of a matrix that is adapted, float32 and its mask; not its
    gradient.
    """
    held = 4 + 1
    if trained.weights == FULL:
        held += MOMENT_BYTES[optimiser]
    elif trained.weights in LOW_RANK and trained.weights not in BRANCHES:
        # What it starts from.
        held += 4
    return held


def adapter_bytes(shapes: Shapes, trained: Trained, optimiser: str) -> int:
    """Return what A and B of all matrices of a block hold, their gradients and moments included."""
    if trained.weights not in LOW_RANK:
        return 0
    return _adapter_parameters(shapes, trained) * (4 + 4 + MOMENT_BYTES[optimiser])


def branch_flops(shapes: Shapes, tokens: int, trained: Trained) -> int:
    """Return the operations of a block's forward pass through adapters beside frozen matrices."""
    if trained.weights not in BRANCHES:
        return 0
    return 2 * tokens * _adapter_parameters(shapes, trained)


def input_branch_flops(
    shapes: Shapes, tokens: int, trained: Trained, groups: Collection[int]
) -> int:
    """Return the part of it that multiplies the inputs of linear layers: of those behind these of
    `shapes.inputs`.
    """
    if trained.weights not in BRANCHES:
        return 0
    matrices = trained_matrices(shapes, trained)
    return 2 * tokens * trained.rank * sum(it.inputs for it in matrices if it.group in groups)


def last_branch_flops(shapes: Shapes, tokens: int, trained: Trained) -> int:
    """Return the part of it that a block ends with; 0 if its last linear layer has no branch."""
    matrices = trained_matrices(shapes, trained)
    if trained.weights not in BRANCHES or not matrices or matrices[-1] != shapes.matrices[-1]:
        return 0
    return 2 * tokens * trained.rank * matrices[-1].outputs


def head_branch_flops(shapes: Shapes, tokens: int, trained: Trained) -> int:
    """Return the operations of a forward pass through an adapter beside the frozen head."""
    if trained.weights not in BRANCHES or not trained.head:
        return 0
    return 2 * tokens * trained.rank * (shapes.vocabulary + shapes.hidden)


def adapter_flops(shapes: Shapes, trained: Trained, blocks: int, steps: int, passes: int) -> int:
    """Return the operations, of blocks and the head, of what is multiplied with no token: BA, made
    anew by each step, and gradients that are pulled back to A and B; of branches the merge.

    Args:
        shapes: Of the model.
        trained: What is trained.
        blocks: In how many blocks.
        steps: Of the optimiser.
        passes: Backward, of all steps together.
    """
    if trained.weights not in LOW_RANK:
        return 0
    weights = blocks * trained_weights(shapes, trained)
    weights += shapes.vocabulary * shapes.hidden if trained.head else 0
    times = 2 if trained.weights in BRANCHES else 4 * passes + 2 * steps
    return times * trained.rank * weights


def _adapter_parameters(shapes: Shapes, trained: Trained) -> int:
    return sum(
        matrix_parameters(trained, matrix.outputs, matrix.inputs, matrix.weights)
        for matrix in trained_matrices(shapes, trained)
    )
