"""Retraining methods: the parameters of a pruned model that each trains, and their number.

The methods and formulas are those of PERP (arXiv 2312.15230). W is a pruned matrix, M its mask,
s = alpha / rank, B (out, rank) and A (rank, in):

    full          W where M keeps it. PERP's code also trains the embeddings; we do not.
    biases        The biases of linear layers. PERP's code also trains those of a LayerNorm, which
                  we count as norms.
    norms, biases_norms
    lora          W + s BA; the merged matrix is dense.
    lora_prune    W + s BA in training, W + s M . BA when merged.
    masklora      W + s M . BA
    scalelora     W . BA, starting from BA = 1 with all entries of A and B equal, as in PERP's code.
                  The rows of A and the columns of B get equal gradients and stay equal, so BA has
                  rank 1 whatever `rank` says.
    spp           W + s W . BA. The rows form `rank` equal groups, and a row of group k has one
                  number in B, in column k (arXiv 2405.16057 and its code).
"""

from dataclasses import dataclass
from typing import Any

from freelunch.study.settings import one_of

FULL = "full"
LORA, LORA_PRUNE = "lora", "lora_prune"
MASKLORA, SCALELORA, SPP = "masklora", "scalelora", "spp"
BIASES, NORMS, BIASES_NORMS = "biases", "norms", "biases_norms"
# Methods that train a matrix through two low-rank factors; `freelunch.adaptation.methods` has them.
LOW_RANK = (
    LORA,
    LORA_PRUNE,
    MASKLORA,
    SCALELORA,
    SPP,
)
# Methods that leave the matrix unchanged and train a branch beside it.
BRANCHES = (LORA, LORA_PRUNE)
# Methods whose update is scaled by alpha / rank.
SCALED = tuple(method for method in LOW_RANK if method != SCALELORA)
METHODS = (FULL, BIASES, NORMS, BIASES_NORMS, *LOW_RANK)
Method = one_of(METHODS)
RANK, ALPHA = 16, 32.0
# Name of the language-model head among the linear layers.
HEAD = "head"
DISTILLATION = "distillation"


@dataclass(frozen=True)
class Trained:
    """The parameters that are trained, and how.

    Attributes:
        weights: How matrices are trained: FULL, one of LOW_RANK, or None if they are not.
        biases: Whether the biases of linear layers are trained.
        norms: Whether all other parameters, which are norms, are trained.
        head: Whether the language-model head is trained, in the same way as matrices.
        rank: Rank of A and B.
        alpha: The scale s times the rank.
    """

    weights: str | None
    biases: bool
    norms: bool
    head: bool = False
    rank: int = RANK
    alpha: float = ALPHA

    @classmethod
    def by(
        cls, method: str, *, biases: bool = True, norms: bool = True, **others: Any
    ) -> "Trained":
        """Return what one of METHODS trains. A method that trains matrices trains biases and norms
        besides them if these are true, and may have `others`, fields of this class.
        """
        if method in (BIASES, NORMS, BIASES_NORMS):
            return cls(None, method != NORMS, method != BIASES)
        return cls(method, biases, norms, **others)

    @property
    def becomes_dense(self) -> bool:
        """Whether the merged model is dense rather than pruned."""
        return self.weights == LORA

    @property
    def needs_weight_gradient(self) -> bool:
        """Whether gradients of the matrices are computed."""
        return self.weights is not None and self.weights not in BRANCHES


def matrix_parameters(trained: Trained, rows: int, columns: int, kept: int) -> int:
    """Return the number of parameters that train one matrix of shape (rows, columns), of which
    the mask keeps `kept` weights.
    """
    if trained.weights is None:
        return 0
    if trained.weights == FULL:
        return kept
    if trained.weights == SPP:
        return rows + trained.rank * columns
    return trained.rank * (rows + columns)
