"""Allocations: how many zeros each block has, where blocks need not have equally many.

OWL (outlier weighed layerwise sparsity, arXiv 2310.05175) prunes those blocks less whose weights
have more outliers: Wanda scores of more than a few times the block's mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from freelunch.core.artifact import Artifact
from freelunch.core.errors import UserError
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import StreamedModel
from freelunch.pruning.dense_pass import read_statistics
from freelunch.study.criteria import OfWeights
from freelunch.study.patterns import Pattern

# The pattern of each matrix of each block.
Allocated = Sequence[Mapping[str, Pattern]]


def allocate(
    model: StreamedModel, dense: Artifact, criterion: OfWeights, pattern: Pattern
) -> Allocated | None:
    """Return the pattern of each matrix of each block, whose shares differ from block to block;
    None if all have the same. Over all blocks, the matrices of one name lose exactly as many
    weights as with the same share everywhere. UserError: a matrix of a block would lose none or
    all.
    """
    if criterion.allocation is None:
        return None
    shares = sparsities(
        outliers(model, dense, criterion.allocation.outliers),
        pattern.sparsity,
        criterion.allocation.spread,
    )
    sizes = {
        name: linear.in_features if criterion.scope == "row" else linear.weight.numel()
        for name, linear in block_linears(model.shapes_of_block()).items()
    }
    counts = {name: divide(shares, size, pattern) for name, size in sizes.items()}
    for name, size in sizes.items():
        if not all(0 < count < size for count in counts[name]):
            raise UserError(
                "a block's matrix would lose none of its weights, or all",
                where=f"{name}, allocation of {pattern.name}",
                found=f"blocks lose {min(counts[name])} to {max(counts[name])} of {size} weights",
                todo="choose a smaller `spread`, or `scope: matrix`",
            )
    return [
        {name: replace(pattern, sparsity=counts[name][i] / sizes[name]) for name in sizes}
        for i in range(model.num_blocks)
    ]


def outliers(model: StreamedModel, dense: Artifact, times: float) -> list[float]:
    """Return, for each block, the share of its weights whose Wanda score is more than `times` the
    mean of the block.
    """
    shares = []
    for index, block in model.load_blocks(range(model.num_blocks)):
        statistics = read_statistics(dense, index, model.device)
        scores = [
            linear.weight.float().abs() * statistics[name].squared_norm.sqrt()
            for name, linear in block_linears(block).items()
        ]
        weights = sum(each.numel() for each in scores)
        limit = times * sum(float(each.double().sum()) for each in scores) / weights
        shares.append(sum(int((each > limit).sum()) for each in scores) / weights)
    return shares


def sparsities(outliers: Sequence[float], sparsity: float, spread: float) -> list[float]:
    """Return the share of zeros of each block, whose mean is `sparsity`: it falls with the block's
    share of outliers, and from the largest to the smallest by twice the spread.
    """
    least, most = min(outliers), max(outliers)
    between = [2 * spread * (each - least) / (most - least or 1.0) for each in outliers]
    mean = sum(between) / len(between)
    return [sparsity - each + mean for each in between]


def divide(sparsities: Sequence[float], size: int, pattern: Pattern) -> list[int]:
    """Return how many of `size` weights each block loses. Fractions are rounded down; the blocks
    with the largest ones lose one more each, until the sum is that of the pattern. Ties: the first
    block.
    """
    uniform = pattern.zeros_in_group(size)
    wanted = [uniform + (each - pattern.sparsity) * size for each in sparsities]
    counts = [int(each) for each in wanted]
    by_fraction = sorted(range(len(wanted)), key=lambda block: counts[block] - wanted[block])
    for block in by_fraction[: uniform * len(wanted) - sum(counts)]:
        counts[block] += 1
    return counts
