"""ALPS: choose mask and weights together, by the alternating direction method of multipliers.

Among all weights with the pattern's zeros, those are sought whose outputs are nearest to the dense
matrix's (Meng et al., arXiv 2406.07831). With H = X X^T, damped, and rows and columns scaled so
that its diagonal is 1, dense weights W scaled alike, a penalty r, and P, which sets the smallest
weights to 0 as the pattern asks, one iteration is

    B <- (W H - V + r D) (H + r I)^-1,    D <- P(B + V / r),    V <- V + r (B - D).

The penalty grows every few iterations, faster while the mask still changes. At the end, conjugate
gradients bring the kept weights near their optimum under the mask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freelunch.model.mask_store import check_finite
from freelunch.pruning.masks import check_divides, keep_mask
from freelunch.pruning.statistics import InputStatistics, need_gram
from freelunch.study.criteria import Alps
from freelunch.study.patterns import Pattern

# The numbers below are those of the authors' code. Unlike there, the end is looked for only when
# the penalty changes, a restart compares with the first mask again, and the penalty has no limit.
# The penalty at the start, the most iterations,
# and how many lie between two updates of the penalty.
_PENALTY = 0.1
_ITERATIONS = 300
_BETWEEN = 3
# The penalty grows by the first factor whose share of the kept weights has changed sides since the
# last update.
_GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
# After so many iterations, a smaller change than this share of the kept weights ends them.
_SETTLED_AFTER, _SETTLED = 30, 0.0003
# While a penalty changes the mask by less than this share from the start on, it is too large.
_STARTS = 0.005
_GRADIENT_STEPS = 10


@dataclass(frozen=True)
class Problem:
    """What all matrices with one input of C features share: the scales of the features, (C,), the
    damped and scaled H, (C, C), its eigenvalues, (C,), and its eigenvectors, (C, C), as columns;
    all float32.
    """

    scales: Tensor
    hessian: Tensor
    values: Tensor
    vectors: Tensor

    def inverse(self, penalty: float) -> Tensor:
        """Return (H + penalty I)^-1."""
        return (self.vectors / (self.values + penalty)) @ self.vectors.T


@torch.no_grad()
def prune(
    weights: Sequence[Tensor],
    statistics: InputStatistics,
    pattern: Pattern,
    settings: Alps,
    where: object = None,
) -> list[tuple[Tensor | None, Tensor, dict[str, float]]]:
    """Return, for each of some matrices with the same input, the new weight, (out, in), float32,
    exactly 0 where pruned, or None if the settings ask for the mask alone; the mask, (out, in),
    bool, True where the weight is kept; and notes, with `iterations` if they reached their limit,
    so that the mask might still have changed. UserError: the Gram matrix is missing or not finite,
    or the pattern does not divide the columns.
    """
    check_divides(pattern, weights[0].shape[1], where)
    key = "alps", settings.damping
    if key not in statistics.memo:
        statistics.memo[key] = _problem(need_gram(statistics, where), settings.damping, where)
    problem: Problem = statistics.memo[key]

    def choose(scaled: Tensor) -> Tensor:
        return keep_mask(scaled.abs(), pattern, settings.scope, where)

    results: list[tuple[Tensor | None, Tensor, dict[str, float]]] = []
    for weight in weights:
        dense = weight.float() * problem.scales
        scaled, keep, iterations = _alternate(dense, problem, choose)
        pruned = None
        if settings.updates_weights:
            pruned = _descend(scaled, dense @ problem.hessian, keep, problem) / problem.scales
        notes = {"iterations": float(iterations)} if iterations == _ITERATIONS else {}
        results.append((pruned, keep, notes))
    return results


def _problem(gram: Tensor, damping: float, where: object) -> Problem:
    check_finite(gram, where, problem="the Gram matrix of this layer's input is not finite")
    wide = gram.double()
    diagonal = wide.diagonal()
    # If the input was 0 for every token, any mask is as good as another.
    diagonal += damping * diagonal.mean() if diagonal.any() else 1.0
    scales = diagonal.sqrt()
    wide /= scales
    wide /= scales[:, None]
    values, vectors = torch.linalg.eigh(wide)
    # Rounding alone makes an eigenvalue negative.
    return Problem(scales.float(), wide.float(), values.clamp(min=0).float(), vectors.float())


def _alternate(
    dense: Tensor, problem: Problem, choose: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, int]:
    """Return weights, 0 where pruned, their mask, and the number of iterations, for scaled dense
    weights, (out, in).
    """
    wanted = dense @ problem.hessian
    keep = first = choose(dense)
    kept, penalty, started = int(first.sum()), _PENALTY, False
    sparse, dual, inverse = dense * first, torch.zeros_like(dense), problem.inverse(penalty)
    for iteration in range(1, _ITERATIONS + 1):
        near = (wanted - dual + penalty * sparse) @ inverse
        shifted = near + dual / penalty
        now = choose(shifted)
        sparse = shifted * now
        dual = penalty * (shifted - sparse)
        if iteration % _BETWEEN:
            continue
        changed = int((now != keep).sum())
        keep = now
        started |= changed > _STARTS * kept
        if started:
            if changed == 0:
                break
            penalty *= next(factor for share, factor in _GROWTH if changed > share * kept)
        else:
            # The penalty holds the mask where it began: begin again with a smaller one.
            penalty /= 5
            if changed:
                keep, sparse, dual = first, dense * first, torch.zeros_like(dense)
        if iteration > _SETTLED_AFTER and changed < _SETTLED * kept:
            break
        inverse = problem.inverse(penalty)
    keep = choose(near)
    return near * keep, keep, iteration


def _descend(scaled: Tensor, wanted: Tensor, keep: Tensor, problem: Problem) -> Tensor:
    """Return weights after some steps of conjugate gradients, for each row, on the kept ones."""
    residual = (wanted - scaled @ problem.hessian) * keep
    direction, squared = residual, residual.square().sum(1, keepdim=True)
    for _ in range(_GRADIENT_STEPS):
        ahead = direction @ problem.hessian
        # Where a row is at its optimum, its direction is 0.
        curvature = (direction * ahead).sum(1, keepdim=True)
        step = torch.where(curvature > 0, squared / curvature, 0.0)
        scaled = scaled + step * direction
        residual = residual - step * ahead * keep
        before, squared = squared, residual.square().sum(1, keepdim=True)
        direction = residual + torch.where(before > 0, squared / before, 0.0) * direction
    return scaled
