"""SparseGPT: choose weights by the optimal brain surgeon, and let the others make up for them.

With X the inputs of all tokens as columns and H = X X^T, damped, let U be upper triangular with
H^-1 = U^T U. Column by column, a weight w_j that goes costs (w_j / U_jj)^2, and each column k after
it changes by -(w_j / U_jj) U_jk (Frantar and Alistarh, arXiv 2301.00774, algorithm 1). A factor of
H changes neither, so the number of tokens, by which the paper divides, is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from freelunch.core.errors import UserError
from freelunch.model.mask_store import check_finite
from freelunch.pruning.masks import check_divides, lowest, lowest_of_columns
from freelunch.pruning.statistics import InputStatistics, need_gram
from freelunch.study.criteria import SparseGPT
from freelunch.study.patterns import Pattern

# Columns whose updates of each other are applied at once; see `_eliminate`.
_PANEL = 32
# Damping is raised no further than to the mean diagonal itself: beyond, it drowns the matrix, and
# what is chosen is by and large magnitude's mask.
_LARGEST_DAMPING = 1.0


@dataclass(frozen=True)
class Factor:
    """What the elimination needs to know of one input of C features.

    Attributes:
        upper: U, (C, C), float32: H^-1 = U^T U.
        dead: Features that were always 0, (C,), bool; their weights go for nothing.
        damping: Share of the mean diagonal that was added to H's diagonal. Dead features count as 0
            in the mean; SparseGPT's own code counts each as 1, whatever the others are.
    """

    upper: Tensor
    dead: Tensor
    damping: float


def prune(
    weight: Tensor,
    statistics: InputStatistics,
    pattern: Pattern,
    settings: SparseGPT,
    where: object = None,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return the pruned weight, which weights stay, and what is worth noting.

    In an unstructured pattern the weights that go are chosen at the start of each block of columns,
    among the block's (the study's and the paper's way): in the whole block, or row by row. The
    matrix loses exactly what the pattern asks for, and each block its share to within one weight (a
    row); SparseGPT's own code takes one more in each block. In an NofM pattern they are chosen when
    their group's turn comes.

    Args:
        weight: (out, in).
        statistics: Of the input, with its Gram matrix.
        pattern: Unstructured or NofM.
        settings: `damping`, share of H's mean diagonal that is added to it; `column_block`, a
            multiple of the pattern's M; `scope`.
        where: What the weight is called, for messages.

    Returns:
        Weight, (out, in), float32, exactly 0 where pruned; mask, (out, in), bool, True where the
        weight stays; `damping` if it had to be raised.

    Raises:
        UserError: There is no Gram matrix, or one that is not finite, the pattern does not divide
            the columns or their blocks, or H cannot be factorised even with all of its mean
            diagonal added to it.
    """
    check_divides(pattern, weight.shape[1], where)
    if pattern.group and settings.column_block % pattern.group:
        raise UserError(
            "a block of columns would cut the pattern's groups",
            where=where,
            found=f"column_block {settings.column_block}",
            expected=f"a multiple of {pattern.group}, for {pattern.name}",
        )
    factor = factorise(statistics, settings.damping, where)
    pruned, keep = _eliminate(weight.float(), factor, pattern, settings)
    raised = factor.damping > settings.damping
    return pruned, keep, {"damping": factor.damping} if raised else {}


def factorise(statistics: InputStatistics, damping: float, where: object = None) -> Factor:
    """Return the factor of an input's H; layers that share the input share it.

    Raises:
        UserError: As `prune`.
    """
    if damping not in statistics.memo:
        statistics.memo[damping] = _factorise(need_gram(statistics, where), damping, where)
    factor: Factor = statistics.memo[damping]
    return factor


def _factorise(gram: Tensor, damping: float, where: object) -> Factor:
    check_finite(gram, "the Gram matrix of this layer's input is not finite", where)
    diagonal = gram.diagonal()
    dead = diagonal == 0
    share = damping
    while True:
        damped = gram.clone()
        damped.diagonal().add_(share * diagonal.mean())
        damped.diagonal()[dead] = 1.0
        # With rows and columns reversed, H = R R^T with R upper triangular, and U = R^-1: one
        # factorisation where H^-1 and a second one would lose digits and take twice as long.
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
        found=f"not positive definite with {share:g} of its mean diagonal added to it",
        expected="a matrix that damping makes positive definite",
        todo="calibrate on more tokens or in another dtype, or use another criterion (none steps "
        "in silently)",
    )


def _inverse(lower: Tensor) -> Tensor:
    """Return the inverse of a lower triangular matrix, by halves: a third of solving for it."""
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
    weight: Tensor, factor: Factor, pattern: Pattern, settings: SparseGPT
) -> tuple[Tensor, Tensor]:
    """Return the pruned weight and its mask.

    Columns are handled left-looking: a column is brought up to date when its turn comes, from what
    went in the columns before it, by one product, where the paper's code updates all columns after
    it one outer product at a time. Columns lie as contiguous rows of the transposed weight. Updates
    go from panel to panel, and from block to block, as matrix products.
    """
    # A copy in any case: where the transposed weight lies contiguous already, `contiguous` is none.
    columns = weight.T.clone(memory_format=torch.contiguous_format)
    columns[factor.dead] = 0.0
    diagonal = factor.upper.diagonal()
    # Row j says what column j gets of each weight that goes in the columns before it.
    passed_on = (factor.upper / diagonal[:, None]).T.contiguous()
    keep = torch.ones_like(columns, dtype=torch.bool)
    # M columns of an NofM pattern are chosen together; else each column is on its own.
    step = pattern.group or 1
    for block in _slices(0, len(columns), settings.column_block):
        here, gone = columns[block], torch.zeros_like(columns[block])
        to_here = passed_on[block, block]
        if pattern.group is None:
            costs = (here / diagonal[block, None]).square_()
            keep[block] = ~_lowest_of_block(costs, block, pattern, settings.scope)
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
    return columns.T.contiguous(), keep.T.contiguous()


def _eliminate_panel_(
    columns: Tensor,
    gone: Tensor,
    keep: Tensor,
    passed_on: Tensor,
    diagonal: Tensor,
    pattern: Pattern,
) -> None:
    """Prune a few columns, in place.

    Args:
        columns: (columns, out), up to date with everything before them.
        gone: The same, filled here with the weights that go, 0 elsewhere.
        keep: The same, bool; filled here for an NofM pattern.
        passed_on: (columns, columns), what each column gets of those before it.
        diagonal: Of U, (columns,).
        pattern: Unstructured or NofM.
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
    """Take out of each column, in place, what `goes` marks by 1, and update those after it."""
    for index, (column, gone_here, goes_here) in enumerate(
        zip(columns.unbind(), gone.unbind(), goes.unbind(), strict=True)
    ):
        if index:
            column.addmv_(gone[:index].T, passed_on[index, :index], alpha=-1)
        torch.mul(column, goes_here, out=gone_here)
        # A weight minus itself is exactly 0.
        column.sub_(gone_here)


def _lowest_of_block(costs: Tensor, block: slice, pattern: Pattern, scope: str) -> Tensor:
    """Return which weights of a block go, (columns of the block, out), bool."""
    # The share of all columns up to here less what went before: the blocks' shares sum up exactly.
    if scope == "row":
        count = pattern.zeros_in_group(block.stop) - pattern.zeros_in_group(block.start)
        return lowest_of_columns(costs, count)
    width, rows = costs.shape
    count = pattern.zeros_in_group(block.stop * rows) - pattern.zeros_in_group(block.start * rows)
    # Ties by the index in the matrix, row by row, as in every other mask.
    return lowest(costs.T.reshape(1, -1), count).reshape(rows, width).T


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))
