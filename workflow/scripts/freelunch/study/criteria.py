"""Settings of the pruning criteria, and what each criterion needs from the dense pass.

Each class is one criterion. Its `score` is also the name of its module in
`freelunch.pruning.criteria`.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from freelunch.study.settings import Entry, Settings, absent, classes_of, read_entry

Statistics = Literal["dense", "sparse"]
Scope = Literal["row", "matrix"]
UnitScope = Literal["block", "model"]
Unit = Literal["group", "head"]
_SCORE = "Score of a weight or unit: the name of a module in freelunch.pruning.criteria."
_SCOPE = "Weights whose scores are compared. An NofM pattern always compares within its groups."
_UNIT_SCOPE = (
    "Heads and channels that are compared: those of a block, or of the whole model (standardised; "
    "needs dense statistics)."
)
_BIAS = (
    "Add the mean of what was pruned to the biases of the output projections. Every linear layer "
    "then has a bias, initially 0, which only some families allow."
)


class CriterionSettings(Settings):
    """Settings that all criteria share.

    Attributes:
        structured: Whether it prunes whole units: heads and channels.
        has_hessians: Whether Gram matrices of the inputs are its Hessians.
    """

    structured: ClassVar[bool] = False
    has_hessians: ClassVar[bool] = False

    score: str = Field(description=_SCORE)
    statistics: Statistics = "dense"
    """dense: statistics of the dense model's activations, shared by all criteria; sparse: each
    block sees the outputs of the pruned blocks before it, in two passes for each mask. None of them
    is reconstructed yet, a code-paper discrepancy in windows of several blocks."""

    @property
    def needs_gram(self) -> bool:
        """Whether Gram matrices of the inputs are needed."""
        return self.has_hessians

    @property
    def changes_parameters(self) -> bool:
        """Whether pruning changes the values of parameters that it keeps."""
        return False


class Owl(Settings):
    """`by: owl`: fewer zeros in blocks with more outliers, arXiv 2310.05175."""

    by: Literal["owl"]
    """How the zeros are divided among the blocks."""
    spread: float = Field(default=0.08, gt=0, lt=0.5)
    """Half the difference between the largest and the smallest share of zeros of a block."""
    outliers: float = Field(default=5.0, gt=1)
    """A weight is an outlier if its Wanda score is more than this many times its block's mean."""


class OfWeights(CriterionSettings):
    """Settings of the criteria that prune single weights."""

    scope: Scope = Field(default="matrix", description=_SCOPE)
    allocation: Owl | None = absent(
        "How the zeros of an unstructured pattern are divided among blocks; without it, all blocks "
        "have the same share. Needs dense statistics."
    )
    swaps: int = Field(default=0, ge=0, le=10_000)
    """Largest number of swaps per row that refine the mask; each exchanges the unpruned and the
    pruned weight that most lower the error of the layer's output (SparseSwaps, arXiv 2512.10922).
    Swaps need Gram matrices."""

    @property
    def needs_gram(self) -> bool:
        """Whether Gram matrices are needed: swaps are chosen by them, too."""
        return self.has_hessians or self.swaps > 0


class OfUnits(CriterionSettings):
    """Settings of the criteria that prune heads and channels, with patterns sNN."""

    structured: ClassVar[bool] = True

    scope: UnitScope = Field(default="block", description=_UNIT_SCOPE)
    attention_unit: Unit = "group"
    """What is pruned in attention: a key head with all query heads that share it (group), or a
    single query head. Without grouped-query attention, both are the same."""
    bias_compensation: bool = Field(default=False, description=_BIAS)

    @property
    def changes_parameters(self) -> bool:
        """Whether pruning changes biases."""
        return self.bias_compensation


class Random(OfWeights):
    """Random scores from a standard normal distribution."""

    score: Literal["random"] = Field(description=_SCORE)


class Magnitude(OfWeights):
    """abs(W)."""

    score: Literal["magnitude"] = Field(description=_SCORE)


class Wanda(OfWeights):
    """abs(W_ij) * ||X_j||, arXiv 2306.11695."""

    score: Literal["wanda"] = Field(description=_SCORE)
    scope: Scope = Field(default="row", description=_SCOPE)


class Ria(OfWeights):
    """(abs(W_ij) / sum of column j + abs(W_ij) / sum of row i) * ||X_j||^exponent, ICLR 2024."""

    score: Literal["ria"] = Field(description=_SCORE)
    scope: Scope = Field(default="row", description=_SCOPE)
    exponent: float = Field(default=0.5, ge=0)
    """Exponent of the input's norm."""


class SparseGPT(OfWeights):
    """Optimal brain surgeon with weight update, arXiv 2301.00774."""

    has_hessians: ClassVar[bool] = True

    score: Literal["sparsegpt"] = Field(description=_SCORE)
    damping: float = Field(default=0.01, gt=0, le=1)
    """Share of the Hessian's mean diagonal that is added to its diagonal. If the Hessian cannot be
    factorised, the damping grows tenfold, up to 1; the record then says so."""
    column_block: int = Field(default=128, ge=1)
    """Columns in a block, within which scores are compared, across the matrix or in each row. A
    multiple of M for an NofM pattern."""

    @property
    def changes_parameters(self) -> bool:
        """Whether pruning changes the weights that stay."""
        return True


class Alps(OfWeights):
    """Mask and weights by the alternating direction method of multipliers, arXiv 2406.07831."""

    has_hessians: ClassVar[bool] = True

    score: Literal["alps"] = Field(description=_SCORE)
    damping: float = Field(default=0.01, gt=0, le=1)
    """Share of the Hessian's mean diagonal that is added to its diagonal."""
    updates_weights: bool = True
    """Whether the weights that stay take the values that it finds, or keep their dense ones."""

    @property
    def changes_parameters(self) -> bool:
        """Whether pruning changes the weights that stay."""
        return self.updates_weights


class WandaSp(OfUnits):
    """Wanda's scores for whole heads and channels."""

    score: Literal["wanda_sp"] = Field(description=_SCORE)


class Flap(OfUnits):
    """Fluctuation of the inputs to the output projections, AAAI 2024."""

    score: Literal["flap"] = Field(description=_SCORE)
    scope: UnitScope = Field(default="model", description=_UNIT_SCOPE)
    bias_compensation: bool = Field(default=True, description=_BIAS)
    metric: Literal["WIFV", "IFV", "WIFN"] = "WIFV"
    """Weighted input feature variance, input feature variance, or weighted input feature norm."""


Criterion = OfWeights | OfUnits
CriterionEntry = Annotated[
    Random | Magnitude | Wanda | Ria | SparseGPT | Alps | WandaSp | Flap,
    Field(discriminator="score"),
]
CRITERIA = classes_of(CriterionEntry)


def read_criterion(settings: Entry) -> Criterion:
    """Return a criterion's settings from JSON, with defaults."""
    criterion: Criterion = read_entry(CriterionEntry, settings)
    return criterion
