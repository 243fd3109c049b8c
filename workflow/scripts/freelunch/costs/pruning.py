"""Cost of choosing masks, from shapes alone."""

from freelunch.costs.passes import capture_work, passing
from freelunch.costs.shapes import Shapes
from freelunch.costs.work import ELIMINATION, PROCESS_BYTES, SWAPS, Cost, Work
from freelunch.study.criteria import Criterion, OfUnits, OfWeights
from freelunch.study.steps import BATCH_TOKENS


def prune_model(shapes: Shapes, samples: int, length: int, criterion: Criterion) -> Cost:
    """Return the cost of choosing masks.

    Args:
        shapes: Sizes of the model.
        samples: Number of calibration sequences.
        length: Tokens in a sequence.
        criterion: Settings of the criterion.
    """
    sparse, changes = criterion.statistics == "sparse", criterion.changes_parameters
    grams = shapes.gram_bytes if criterion.needs_gram else 0
    # The factors stay in memory after the factorisation; swaps come afterwards.
    factors = grams if changes else 0
    swapping = factors + (_swaps_bytes(shapes) if _swaps(criterion) else 0)
    leaves = shapes.masks_bytes + (shapes.blocks_bytes if changes else 0)
    hidden = shapes.hidden_bytes(samples * length) if sparse else 0
    read = shapes.model_bytes + 2 * shapes.blocks * hidden
    if sparse:
        # For its statistics, a block sees its inputs; for the next block, it is read again.
        read += shapes.blocks_bytes + shapes.masks_bytes
    else:
        read += shapes.blocks * grams
    if isinstance(criterion, OfUnits) and criterion.scope == "model":
        # Scores of all blocks come before the first mask.
        read += shapes.blocks_bytes
    return Cost(
        prune_work(shapes, samples, length, criterion),
        PROCESS_BYTES
        # A block and the next one, and what changes in it.
        + (4 if changes else 2) * shapes.block_bytes
        # Weights and scores in float32, and the workspace for selecting among them.
        + 16 * shapes.largest_matrix
        + grams
        + max(4 * factors, swapping)
        + (shapes.passing_bytes(max(BATCH_TOKENS, length), length) if sparse else 0),
        staged_bytes=max(shapes.staged_bytes, grams),
        read_bytes=read,
        written_bytes=leaves + shapes.blocks * hidden,
        disk_bytes=leaves,
        scratch_bytes=hidden,
    )


def prune_work(shapes: Shapes, samples: int, length: int, criterion: Criterion) -> Work:
    """Return the operations of choosing masks, without those of scores, which are a few per weight.

    An elimination factorises and inverts each Gram matrix, C^3 / 3 operations each, and updates R
    rows of C columns, R C^2. Swaps multiply a matrix of R rows by the Gram matrix twice, and search
    for the best swap of each row with about 120 operations per column (terms, bounds and eight
    tries of `freelunch.pruning.swaps`; rows that stop early take fewer).
    """
    work, swaps = Work(), _swaps(criterion)
    widths = list(zip(shapes.inputs, shapes.weights, strict=True))
    if criterion.needs_gram and criterion.changes_parameters:
        eliminated = (2 * width**3 // 3 + width * weights for width, weights in widths)
        work[ELIMINATION] = shapes.blocks * sum(eliminated)
    if swaps:
        swapped = ((4 * width + 120 * swaps) * weights for width, weights in widths)
        work[SWAPS] = shapes.blocks * sum(swapped)
    if criterion.statistics == "sparse":
        # Each block is passed once for its statistics, and again, pruned, for the next block.
        work += capture_work(shapes, samples, length, criterion.needs_gram)
        work += passing(shapes, samples * length, length, shapes.blocks - 1)
    return work


def _swaps(criterion: Criterion) -> int:
    return criterion.swaps if isinstance(criterion, OfWeights) else 0


def _swaps_bytes(shapes: Shapes) -> int:
    """Return the bytes for refining the largest matrix, in float64: its Gram matrix and seven
    arrays of its own size.
    """
    rows = (shapes.attention, shapes.hidden, shapes.intermediate, shapes.hidden)
    widths = zip(shapes.inputs, rows, strict=True)
    return max(8 * width**2 + 7 * 8 * width * outputs for width, outputs in widths)
