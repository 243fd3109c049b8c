"""What an adaptation trains of a pruned model, and how many parameters that is.

The methods of PERP (arXiv 2312.15230), whose formulas these are. W is a pruned matrix, M its mask,
s = alpha / rank, B (out, rank) and A (rank, in):

    full          W itself, where M keeps it; not the embeddings, which PERP's code trains, too
    biases        those of linear layers; PERP's code trains a LayerNorm's as well, which here are
                  part of norms
    norms, biases_norms
    lora          W + s BA: merged, it is dense
    lora_prune    W + s BA while it trains, W + s M . BA when it is merged
    masklora      W + s M . BA
    scalelora     W . BA, from BA = 1 with all entries of A and B equal, as in PERP's code: rows of
                  A and columns of B get equal gradients and stay equal, so that BA has rank 1
                  whatever `rank` says
    spp           W + s W . BA, where row i of B has one number, in the column of the i-th of `rank`
                  equal groups of rows (arXiv 2405.16057, as its own code has it)
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from freelunch.core.errors import nearest

FULL = "full"
LORA, LORA_PRUNE = "lora", "lora_prune"
MASKLORA, SCALELORA, SPP = "masklora", "scalelora", "spp"
BIASES, NORMS, BIASES_NORMS = "biases", "norms", "biases_norms"
# Of these a matrix is trained through two small ones.
LOW_RANK = (LORA, LORA_PRUNE, MASKLORA, SCALELORA, SPP)
# Their matrices stay as they are, beside a branch of their own.
BRANCHES = (LORA, LORA_PRUNE)
SCALED = (LORA, LORA_PRUNE, MASKLORA, SPP)
METHODS = (FULL, BIASES, NORMS, BIASES_NORMS, *LOW_RANK)
RANK, ALPHA = 16, 32.0
# What the head is called among linear layers.
HEAD = "head"
NEXT_TOKEN, DISTILLATION = "next_token", "distillation"


@dataclass(frozen=True)
class Trained:
    """What is trained.

    Attributes:
        weights: How matrices are: FULL, one of LOW_RANK, or None if they are not.
        biases: Whether those of linear layers are.
        norms: Whether all else is, which is norms.
        head: Whether the language-model head is, as matrices are.
        rank: Of A and B.
        alpha: s times the rank.
        dropout: Share of a branch's inputs that is dropped.
        linears: Ends of the names of the linear layers whose matrices are trained; None for all.
    """

    weights: str | None
    biases: bool
    norms: bool
    head: bool = False
    rank: int = RANK
    alpha: float = ALPHA
    dropout: float = 0.0
    linears: tuple[str, ...] | None = None

    @classmethod
    def by(
        cls, method: str, *, biases: bool = True, norms: bool = True, **others: Any
    ) -> "Trained":
        """Return what a method trains.

        Args:
            method: One of METHODS.
            biases: Whether biases are trained besides matrices.
            norms: Whether norms are trained besides matrices.
            others: Fields of this class, for a method that trains matrices.
        """
        if method in (BIASES, NORMS, BIASES_NORMS):
            return cls(None, method != NORMS, method != BIASES)
        return cls(method, biases, norms, **others)

    @property
    def becomes_dense(self) -> bool:
        """Whether what it is merged into is not pruned any more."""
        return self.weights == LORA

    @property
    def needs_weight_gradient(self) -> bool:
        """Return whether the gradient of matrices is computed."""
        return self.weights is not None and self.weights not in BRANCHES

    def chooses(self, name: str) -> bool:
        """Return whether the matrix of a linear layer, by its name in its block, is trained."""
        return self.linears is None or any(ends_with(name, end) for end in self.linears)

    def unknown(self, names: Collection[str]) -> Iterator[tuple[str, str]]:
        """Yield which of `linears` name no linear layer of a model, and what was expected."""
        for end in self.linears or ():
            if not any(ends_with(name, end) for name in names):
                yield end, nearest(end, {name.rpartition(".")[2] for name in names})


def ends_with(name: str, end: str) -> bool:
    """Return whether the last parts of a dotted name are these."""
    return name == end or name.endswith(f".{end}")


def matrix_parameters(trained: Trained, rows: int, columns: int, kept: int) -> int:
    """Return how many parameters train one matrix.

    Args:
        trained: What is trained.
        rows: Its outputs.
        columns: Its inputs.
        kept: How many of its weights the mask keeps.
    """
    if trained.weights is None:
        return 0
    if trained.weights == FULL:
        return kept
    if trained.weights == SPP:
        return rows + trained.rank * columns
    return trained.rank * (rows + columns)
