"""SparseGPT: prune weights by the optimal brain surgeon, and update the kept weights to compensate.

Let the columns of X be the inputs of all tokens, and let H = X X^T, damped, with H^-1 = U^T U for
an upper triangular U. The columns of the weight are handled in order. Pruning a weight w_j costs
(w_j / U_jj)^2, and changes each later column k by -(w_j / U_jj) U_jk (Frantar and Alistarh, arXiv
2301.00774, algorithm 1). Scaling H changes neither the order of the costs nor the updates, so we
omit the paper's division by the number of tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from freelunch.core.errors import UserError
from freelunch.model.mask_store import check_finite
from freelunch.pruning.masks import check_divides, lowest, lowest_of_columns
from freelunch.pruning.statistics import InputStatistics, need_gram
from freelunch.study.criteria import SparseGPT
from freelunch.study.patterns import Pattern

# Columns per panel: updates between panels are matrix products; see `_eliminate`.
_PANEL = 32
# Damping is raised at most to the mean diagonal itself: more would drown the matrix, and the mask
# would be nearly that of magnitude pruning.
_LARGEST_DAMPING = 1.0


@dataclass(frozen=True)
class Factor:
    """The factorised, damped H of one layer input with C features: U, (C, C), float32, with H^-1 =
    U^T U; the dead features that were 0 for every token, (C,), bool, whose weights are set to 0
    and cost nothing to prune; and the share of the mean diagonal that was added. Dead features
    count as 0 in this mean; SparseGPT's own code counts each as 1.
    """

    upper: Tensor
    dead: Tensor
    damping: float


def prune(
    weights: Sequence[Tensor],
    statistics: InputStatistics,
    pattern: Pattern,
    settings: SparseGPT,
    where: object = None,
) -> list[tuple[Tensor, Tensor, dict[str, float]]]:
    """Return, for each of some matrices with the same input, the pruned weight, (out, in), float32,
    exactly 0 where pruned; the mask, (out, in), bool, True where the weight is kept; and notes,
    with `damping` if it had to be raised. Their columns are eliminated together, since small
    matrices cost more calls than arithmetic.

    With an unstructured pattern, the weights to prune are chosen at the start of each block of
    `column_block` columns, within the block or row by row (as in the study and the paper). The
    matrix loses exactly as many weights as the pattern asks for; SparseGPT's own code prunes one
    more in each block. With an NofM pattern, the weights of a group are chosen when the elimination
    reaches it. `damping` is the share of H's mean diagonal that is added to the diagonal.
    UserError: the Gram matrix is missing or not finite, the pattern does not divide the columns or
    their blocks, or H cannot be factorised even with all of its mean diagonal added to it.
    """
    check_divides(pattern, weights[0].shape[1], where)
    if pattern.group and settings.column_block % pattern.group:
        raise UserError(
            "a block of columns would split the pattern's groups",
            where=where,
            found=f"column_block {settings.column_block}",
            expected=f"a multiple of {pattern.group}, for {pattern.name}",
        )
    factor = factorise(statistics, settings.damping, where)
    notes = {"damping": factor.damping} if factor.damping > settings.damping else {}
    eliminated = _eliminate([weight.float() for weight in weights], factor, pattern, settings)
    return [(pruned, keep, dict(notes)) for pruned, keep in eliminated]


def factorise(statistics: InputStatistics, damping: float, where: object = None) -> Factor:
    """Return the factor of an input's H; layers that share the input share the factor. UserError as
    in `prune`.
    """
    if damping not in statistics.memo:
        statistics.memo[damping] = _factorise(need_gram(statistics, where), damping, where)
    factor: Factor = statistics.memo[damping]
    return factor


def _factorise(gram: Tensor, damping: float, where: object) -> Factor:
    check_finite(gram, where, problem="the Gram matrix of this layer's input is not finite")
    diagonal = gram.diagonal()
    dead = diagonal == 0
    share = damping
    while True:
        damped = gram.clone()
        damped.diagonal().add_(share * diagonal.mean())
        damped.diagonal()[dead] = 1.0
        # With rows and columns reversed, H = R R^T with R upper triangular, and U = R^-1. This
        # takes one factorisation; computing H^-1 and factorising it would lose digits and take
        # twice as long.
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not failed:
            upper = _inverse(lower).flip(0, 1).contiguous()
            if torch.isfinite(upper).all():
                return Factor(upper, dead, share)
        if share >= _LARGEST_DAMPING:
            break
        share = min(10 * share, _LARGEST_DAMPING)
    raise UserError(
        "the Gram matrix of this layer's input cannot be factorised",
        where=where,
        found=f"not positive definite, even with {share:g} times its mean diagonal added to it",
        expected="a Gram matrix that damping makes positive definite",
        todo="calibrate on more tokens or in another dtype, or choose another criterion (none "
        "is used automatically)",
    )


def _inverse(lower: Tensor) -> Tensor:
    """Inverting by halves takes a third of the time of a triangular solve."""
    size = len(lower)
    if size <= 64:
        identity = torch.eye(size, dtype=lower.dtype, device=lower.device)
        small: Tensor = torch.linalg.solve_triangular(lower, identity, upper=False)
        return small
    half = size // 2
    first, last = _inverse(lower[:half, :half]), _inverse(lower[half:, half:])
    inverse = torch.zeros_like(lower)
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[half:, :half] = -last @ (lower[half:, :half] @ first)
    return inverse


@torch.no_grad()
def _eliminate(
    weights: Sequence[Tensor], factor: Factor, pattern: Pattern, settings: SparseGPT
) -> list[tuple[Tensor, Tensor]]:
    """Return the pruned weight and the mask of each of some matrices.

    The elimination is left-looking: when a column's turn comes, one product applies the updates
    from all weights pruned in earlier columns. The paper's code instead updates all later columns
    after each column, by an outer product. The weights are transposed, so that their columns are
    contiguous. Updates between panels, and between blocks, are matrix products.
    """
    starts = [0, *accumulate(len(weight) for weight in weights)]
    parts = [slice(*bounds) for bounds in pairwise(starts)]
    # Always a copy: the transposed weight may be contiguous already.
    columns = weights[0].new_empty(weights[0].shape[1], starts[-1])
    for part, weight in zip(parts, weights, strict=True):
        columns[:, part] = weight.T
    columns[factor.dead] = 0.0
    diagonal = factor.upper.diagonal()
    # Row j holds the factors by which weights pruned in earlier columns change column j.
    passed_on = (factor.upper / diagonal[:, None]).T.contiguous()
    keep = torch.ones_like(columns, dtype=torch.bool)
    # In an NofM pattern, M columns are chosen together; otherwise each column is handled alone.
    step = pattern.group or 1
    for block in _slices(0, len(columns), settings.column_block):
        here, gone = columns[block], torch.zeros_like(columns[block])
        to_here = passed_on[block, block]
        if pattern.group is None:
            costs = (here / diagonal[block, None]).square_()
            for part in parts:
                goes = _lowest_of_block(costs[:, part], block, pattern, settings.scope)
                keep[block, part] = ~goes
        panel_size = max(_PANEL // step, 1) * step
        for panel in _slices(0, len(here), panel_size):
            if panel.start:
                here[panel].addmm_(to_here[panel, : panel.start], gone[: panel.start], alpha=-1)
            _eliminate_panel_(
                here[panel],
                gone[panel],
                keep[block][panel],
                to_here[panel, panel],
                diagonal[block][panel],
                pattern,
            )
        after = slice(block.stop, len(columns))
        columns[after].addmm_(passed_on[after, block], gone, alpha=-1)
    return [(columns[:, part].T.contiguous(), keep[:, part].T.contiguous()) for part in parts]


def _eliminate_panel_(
    columns: Tensor,
    gone: Tensor,
    keep: Tensor,
    passed_on: Tensor,
    diagonal: Tensor,
    pattern: Pattern,
) -> None:
    """Prune the columns of one panel, (columns, out), in place, after the updates of all earlier
    panels; fill `gone` with the values of pruned weights, 0 elsewhere, and for an NofM pattern
    also the mask `keep`. `passed_on` and the diagonal of U are those of the panel.
    """
    if pattern.group is None:
        goes = (~keep).to(columns.dtype)
        _eliminate_columns_(columns, gone, goes, passed_on)
        return
    for group in _slices(0, len(columns), pattern.group):
        if group.start:
            columns[group].addmm_(passed_on[group, : group.start], gone[: group.start], alpha=-1)
        costs = (columns[group] / diagonal[group, None]).square_()
        goes = lowest_of_columns(costs, pattern.zeros_in_group(pattern.group))
        keep[group] = ~goes
        _eliminate_columns_(
            columns[group], gone[group], goes.to(columns.dtype), passed_on[group, group]
        )


def _eliminate_columns_(columns: Tensor, gone: Tensor, goes: Tensor, passed_on: Tensor) -> None:
    for index, (column, gone_here, goes_here) in enumerate(
        zip(columns.unbind(), gone.unbind(), goes.unbind(), strict=True)
    ):
        if index:
            column.addmv_(gone[:index].T, passed_on[index, :index], alpha=-1)
        torch.mul(column, goes_here, out=gone_here)
    # A weight minus itself is exactly 0.
    columns.sub_(gone)


def _lowest_of_block(costs: Tensor, block: slice, pattern: Pattern, scope: str) -> Tensor:
    # Count by difference: the zeros of all columns up to the end of the block, minus those up to
    # its start. The counts of all blocks then sum to exactly the matrix's.
    if scope == "row":
        count = pattern.zeros_in_group(block.stop) - pattern.zeros_in_group(block.start)
        return lowest_of_columns(costs, count)
    width, rows = costs.shape
    count = pattern.zeros_in_group(block.stop * rows) - pattern.zeros_in_group(block.start * rows)
    # Break ties by the index in the matrix, row by row, as in every other mask.
    return lowest(costs.T.reshape(1, -1), count).reshape(rows, width).T


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))
