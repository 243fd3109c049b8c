"""Pruning criteria: the settings of each, and what it asks of the dense pass.

Each class is one criterion; `score` names it, and its module in `freelunch.pruning.criteria`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from freelunch.study.settings import Settings, chosen_by, reader

Statistics = Literal["dense", "sparse"]
Scope = Literal["row", "matrix"]
UnitScope = Literal["block", "model"]
Unit = Literal["group", "head"]
_SCORE = "What a weight or a unit is worth: a module of freelunch.pruning.criteria."
_SCOPE = (
    "Within what scores are compared: each output row or the whole matrix. An NofM pattern "
    "compares within its groups in any case."
)
_UNIT_SCOPE = (
    "Within what units are compared: the heads and channels of each block, or those of the whole "
    "model (standardised; needs dense statistics)."
)
_BIAS = (
    "Put the mean of what was pruned into the bias of the output projections. Every linear layer "
    "then has a bias, 0 at first, which only Llama and OPT allow, and a reconstruction with "
    "`train_biases` trains all of them."
)


class CriterionSettings(Settings):
    """What all criteria have.

    Attributes:
        reads_gram: Whether the criterion reads Gram matrices of the inputs.
        updates_weights: Whether it changes weights that stay.
        structured: Whether it prunes whole units.
    """

    reads_gram: ClassVar[bool] = False
    updates_weights: ClassVar[bool] = False
    structured: ClassVar[bool] = False

    score: str = Field(description=_SCORE)
    statistics: Statistics = Field(
        default="dense",
        description="dense: of the dense model's activations, shared by all criteria. sparse: each "
        "block sees the outputs of the pruned blocks before it, as in most reference code; costs "
        "two more passes.",
    )

    @property
    def needs_gram(self) -> bool:
        """Whether Gram matrices of the inputs are needed."""
        return self.reads_gram

    @property
    def changes_parameters(self) -> bool:
        """Whether parameters that stay get other values."""
        return self.updates_weights


class OfWeights(CriterionSettings):
    """What criteria of single weights have."""

    scope: Scope = Field(default="matrix", description=_SCOPE)
    swaps: int = Field(
        default=0,
        ge=0,
        description="Refine the mask: up to so many times in each row exchange one kept and one "
        "pruned weight, where that lowers the error of the layer's output most (SparseSwaps, arXiv "
        "2512.10922). Needs Gram matrices.",
    )

    @property
    def needs_gram(self) -> bool:
        """Whether Gram matrices are needed, by the criterion or by swaps."""
        return self.reads_gram or self.swaps > 0


class OfUnits(CriterionSettings):
    """What criteria of heads and channels have; they take patterns sNN."""

    structured: ClassVar[bool] = True

    scope: UnitScope = Field(default="block", description=_UNIT_SCOPE)
    attention_unit: Unit = Field(
        default="group",
        description="What is pruned of an attention: a key head with all query heads that share "
        "it, or a single query head. Without grouped-query attention they are the same.",
    )
    bias_compensation: bool = Field(default=False, description=_BIAS)

    @property
    def changes_parameters(self) -> bool:
        """Whether biases are changed."""
        return self.bias_compensation


class Random(OfWeights):
    """Standard normal noise."""

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
    exponent: float = Field(default=0.5, ge=0, description="Of the input's norm.")


class SparseGPT(OfWeights):
    """Optimal brain surgeon with weight update, arXiv 2301.00774."""

    reads_gram: ClassVar[bool] = True
    updates_weights: ClassVar[bool] = True

    score: Literal["sparsegpt"] = Field(description=_SCORE)
    damping: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="Share of the Hessian's mean diagonal that is added to its diagonal. It grows "
        "tenfold, to 1 at most, until the Hessian can be factorised, and the record says so.",
    )
    column_block: int = Field(
        default=128,
        ge=1,
        description="Columns among which weights are chosen: scores are compared within each such "
        "block, of the matrix or of each row. A multiple of an NofM pattern's M.",
    )


class WandaSp(OfUnits):
    """Wanda's scores of whole heads and channels."""

    score: Literal["wanda_sp"] = Field(description=_SCORE)


class Flap(OfUnits):
    """Fluctuation of the inputs of output projections, AAAI 2024."""

    score: Literal["flap"] = Field(description=_SCORE)
    scope: UnitScope = Field(default="model", description=_UNIT_SCOPE)
    bias_compensation: bool = Field(default=True, description=_BIAS)
    metric: Literal["WIFV", "IFV", "WIFN"] = Field(
        default="WIFV",
        description="Weighted input feature variance, input feature variance, or weighted input "
        "feature norm.",
    )


Criterion = OfWeights | OfUnits
CRITERIA: dict[str, type[Settings]] = {
    "random": Random,
    "magnitude": Magnitude,
    "wanda": Wanda,
    "ria": Ria,
    "sparsegpt": SparseGPT,
    "wanda_sp": WandaSp,
    "flap": Flap,
}
CriterionEntry = chosen_by("score", "criteria", CRITERIA)


def read_criterion(settings: Mapping[str, Any]) -> Criterion:
    """Return settings that are written as JSON, with defaults."""
    found: Criterion = reader(CriterionEntry)(settings)
    return found
