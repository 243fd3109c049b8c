"""What trains the linear layers of a model, and its cost beyond the plain passes, by method (see
`freelunch.study.methods`).
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from freelunch.costs.shapes import LinearShape, Shapes
from freelunch.study.methods import BRANCHES, FULL, LOW_RANK, Trained, matrix_parameters

# Bytes of an optimiser's moments per trained parameter.
MOMENT_BYTES = {"adamw": 8, "sgd": 4}


@dataclass(frozen=True)
class TrainedBlock:
    """A block whose linear layers are trained by a method, and the head, if it is trained, too.

    Attributes:
        shapes: Sizes of the model.
        trained: The parameters that are trained, and how.
    """

    shapes: Shapes
    trained: Trained

    @cached_property
    def matrices(self) -> tuple[LinearShape, ...]:
        """Return those of `shapes.matrices` that are trained; all, if the family is not known."""
        linears, matrices = self.shapes.family.linears, self.shapes.matrices
        if not self.shapes.is_known:
            return matrices
        named = zip(linears, matrices, strict=True)
        return tuple(matrix for name, matrix in named if self.trained.chooses(name))

    @property
    def weights(self) -> int:
        """Return the number of weights in the trained matrices."""
        return sum(matrix.weights for matrix in self.matrices)

    @cached_property
    def parameters(self) -> int:
        """Return how many numbers train the matrices, before any mask."""
        return sum(
            matrix_parameters(self.trained, matrix.outputs, matrix.inputs, matrix.weights)
            for matrix in self.matrices
        )

    @property
    def is_low_rank(self) -> bool:
        """Return whether factors A and B train a matrix."""
        return self.trained.weights in LOW_RANK

    @property
    def has_branches(self) -> bool:
        """Return whether A and B stand beside a frozen matrix."""
        return self.trained.weights in BRANCHES

    def weight_bytes(self, optimiser: str, stored: int) -> int:
        """Return the bytes held per weight of an adapted matrix, without its gradient and mask: a
        trained weight in float32 with its moments, or a frozen one of `stored` bytes.
        """
        return 4 + MOMENT_BYTES[optimiser] if self.trained.weights == FULL else stored

    def adapter_bytes(self, optimiser: str) -> int:
        """Return the bytes of A and B of all matrices, with gradients and moments."""
        return self.parameters * (4 + 4 + MOMENT_BYTES[optimiser]) if self.is_low_rank else 0

    def branch_flops(self, tokens: int) -> int:
        """Return the operations of the branches in a forward pass."""
        return 2 * tokens * self.parameters if self.has_branches else 0

    def input_branch_flops(self, tokens: int, groups: Collection[int]) -> int:
        """Return the part of `branch_flops` that multiplies the inputs of linear layers, for the
        layers in these groups: indices into `shapes.inputs`.
        """
        inputs = sum(matrix.inputs for matrix in self.matrices if matrix.group in groups)
        return 2 * tokens * self.trained.rank * inputs if self.has_branches else 0

    def last_flops(self, tokens: int) -> int:
        """Return the operations of the last product in a forward pass; no gradient needs them
        again. A matrix that is computed from A and B is the exception: 0.
        """
        last = self.shapes.matrices[-1]
        if not self.is_low_rank or last not in self.matrices[-1:]:
            return 2 * tokens * self.shapes.weights[-1]
        return 2 * tokens * self.trained.rank * last.outputs if self.has_branches else 0

    def head_branch_flops(self, tokens: int) -> int:
        """Return the operations of a branch beside the frozen head in a forward pass."""
        if not self.has_branches or not self.trained.head:
            return 0
        return 2 * tokens * self.trained.rank * (self.shapes.vocabulary + self.shapes.hidden)

    def weights_in(self, groups: Collection[int]) -> int:
        """Return the number of trained weights in these groups: indices into `shapes.inputs`."""
        return sum(matrix.weights for matrix in self.matrices if matrix.group in groups)

    def product_flops(
        self,
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
            blocks: Number of blocks that are trained.
            passes: Number of backward passes in all steps together. In each, a matrix is used
                twice, and its gradient takes two products.
            again: How often blocks run forward again for their backward passes.
            checks: Number of passes without gradients before the merge.
            merges: How often blocks are merged.
            first: Number of trained weights before which nothing is trained, in all blocks
                together; backward passes do not use them.
        """
        if not self.is_low_rank:
            return 0
        weights = blocks * self.weights
        head = self.shapes.head_weights if self.trained.head else 0
        products = merges * weights + head
        if not self.has_branches:
            products += (4 * passes + checks) * (weights + head) + again * weights - passes * first
        return 2 * self.trained.rank * products
