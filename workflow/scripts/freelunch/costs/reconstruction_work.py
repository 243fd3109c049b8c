"""Operations of adapting windows, from shapes alone.

With T tokens, P weights in a window's linear layers, heads of width d together, and sequence length
S, one epoch of training takes three forward passes, 6 T P + 6 T S d. The gradient of a window's
inputs is never needed. An epoch on one matrix therefore takes 4 T P, after one recorded pass of the
dense block. If norms are not trained, the linear layers at the start of a window save 2 T per
weight.
"""

from collections.abc import Collection

from freelunch.costs.adapters import (
    adapter_flops,
    branch_flops,
    first_weights,
    input_branch_flops,
)
from freelunch.costs.shapes import Shapes
from freelunch.costs.work import ATTENTION, GRAM, PASSES, SOLVING, Work
from freelunch.study.adaptations import LeastSquares, Reconstruction, Windowed
from freelunch.study.steps import CHECK_SEQUENCES
from freelunch.study.windows import HALVES, MATRIX, blocks_in, split_windows


def reconstruction_work(
    shapes: Shapes, samples: int, length: int, settings: Windowed, sparsity: float = 0.5
) -> Work:
    """Return the operations of `reconstruction_flops` for all blocks, by their kind."""
    work = Work({ATTENTION: _attention_flops(shapes, samples, length, settings)})
    if isinstance(settings, LeastSquares):
        work[GRAM] = shapes.blocks * _grams_flops(shapes, samples * length)
        work[SOLVING] = shapes.blocks * _factors_flops(shapes, sparsity)
    work[PASSES] = reconstruction_flops(shapes, samples, length, settings, sparsity) - work.total()
    return work


def reads_dense_states(settings: Windowed) -> bool:
    """Return whether the dense model's hidden states make a window's inputs or targets, besides
    those that enter the first block.
    """
    return not (settings.local_targets or settings.lost_residual)


def _attention_flops(shapes: Shapes, samples: int, length: int, settings: Windowed) -> int:
    """Return the part of `reconstruction_flops` that is attention."""
    window, blocks, tokens = settings.window, shapes.blocks, samples * length
    once = shapes.attention_flops(tokens, length)
    flops = once // samples if window == MATRIX else 0
    if settings.sparse_inputs:
        last = split_windows(blocks, window)[-1]
        flops += shapes.attention_flops(tokens, length, last.start)
        flops += {MATRIX: 4 * once, HALVES: once}.get(str(window), 0)
    if settings.targets_behind_sparse:
        flops += _behind_sparse_flops(shapes, tokens, length, settings, blocks)[1]
    elif window in (MATRIX, HALVES) or settings.local_targets:
        flops += 0 if window == MATRIX and settings.local_targets else once
    if isinstance(settings, LeastSquares) or window == MATRIX:
        return flops
    checked = 2 * min(CHECK_SEQUENCES, samples) / samples
    return flops + int((3 * settings.passes + checked) * once)


def reconstruction_flops(
    shapes: Shapes,
    samples: int,
    length: int,
    settings: Windowed,
    sparsity: float = 0.5,
    blocks: int | None = None,
) -> int:
    """Return the operations of adapting `blocks` blocks (all by default), including the losses
    before and after, and making inputs and targets from dense hidden states that are on disk.
    """
    blocks = shapes.blocks if blocks is None else blocks
    tokens = samples * length
    forward = shapes.forward_flops(tokens, length, blocks)
    weights = 2 * tokens * shapes.block_weights * blocks
    window, local = settings.window, settings.local_targets
    attention = 2 * tokens * sum(shapes.weights[:2]) * blocks
    attention += shapes.attention_flops(tokens, length, blocks)
    # One sequence is passed to see which matrices share an input.
    passes = forward // samples if window == MATRIX else 0
    if settings.sparse_inputs:
        # Passes to the next window and, for windows within a block, within the block.
        last = split_windows(blocks, window)[-1]
        passes += shapes.forward_flops(tokens, length, last.start)
        passes += {MATRIX: 4 * forward, HALVES: attention}.get(str(window), 0)
    if settings.targets_behind_sparse:
        passes += _behind_sparse_flops(shapes, tokens, length, settings, blocks)[0]
    elif local:
        passes += weights if window == MATRIX else forward
    elif window in (MATRIX, HALVES):
        # Targets within a block.
        passes += forward if window == MATRIX else attention
    if isinstance(settings, LeastSquares):
        return passes + 2 * weights + blocks * _solve_flops(shapes, tokens, sparsity)
    checked = 2 * min(CHECK_SEQUENCES, samples) / samples
    epochs = settings.passes
    trained = settings.trained
    branch = blocks * branch_flops(shapes, tokens, trained)
    steps = epochs * -(-samples // settings.batch)
    begun, groups = _nothing_before(shapes, blocks, settings)
    # The losses before and after are measured without adapters.
    first = begun * first_weights(shapes, trained, groups)
    extra = adapter_flops(shapes, trained, blocks, passes=steps, first=first)
    unneeded = begun * input_branch_flops(shapes, tokens, trained, groups)
    extra += epochs * (3 * branch - unneeded)
    if not trained.needs_weight_gradient:
        extra -= epochs * weights
    if window == MATRIX:
        return passes + extra + int(weights * (2 * epochs + checked))
    ends = begun * sum(shapes.weights[group] for group in groups)
    training = epochs * (3 * forward - 2 * tokens * ends)
    return passes + extra + training + int(forward * checked)


def _behind_sparse_flops(
    shapes: Shapes, tokens: int, length: int, settings: Windowed, blocks: int
) -> tuple[int, int]:
    """Return the operations of making targets of matrices behind sparse ones, and the part of them
    that is attention.

    For each of the four groups of matrices, what enters it passes the block. If the residual stream
    is lost, it passes half a block; the attention is passed once more for what enters the MLP, and
    both halves for what enters the next block.
    """
    once = shapes.attention_flops(tokens, length, 1)
    forward = shapes.forward_flops(tokens, length, 1)
    # Each matrix's own dense weights make its targets.
    made = 2 * tokens * shapes.block_weights
    if not settings.lost_residual:
        return blocks * (4 * forward + made), blocks * 4 * once
    first, output, _, last = (2 * tokens * weights for weights in shapes.weights)
    middle = once + first + output + output
    before_last = split_windows(blocks, settings.window)[-1].start
    flops = blocks * (2 * forward + middle + made) + before_last * (forward + output + last)
    return flops, (3 * blocks + before_last) * once


def _nothing_before(
    shapes: Shapes, blocks: int, settings: Reconstruction
) -> tuple[int, Collection[int]]:
    """Return the linear layers before which nothing is trained, so that no gradient passes through
    them: the number of blocks that have them, and their groups, as indices into `shapes.inputs`.
    """
    window = settings.window
    if window == MATRIX:
        return blocks, range(len(shapes.inputs))
    if settings.trained.norms and shapes.begins_with_norm:
        return 0, ()
    if window == HALVES:
        return blocks, (0, 2)
    return -(-blocks // blocks_in(window, shapes.blocks)), (0,)


def _solve_flops(shapes: Shapes, tokens: int, sparsity: float) -> int:
    """Return the operations of one block's least squares."""
    return _grams_flops(shapes, tokens) + _factors_flops(shapes, sparsity)


def _grams_flops(shapes: Shapes, tokens: int) -> int:
    """Return the operations of the Gram and cross-Gram matrix of each linear layer of a block."""
    return sum(2 * tokens * it.inputs * (it.inputs + it.outputs) for it in shapes.matrices)


def _factors_flops(shapes: Shapes, sparsity: float) -> int:
    """Return the operations of solving for each row of the linear layers of a block: a
    factorisation of the kept part of the Gram matrix, and two triangular systems.
    """
    flops = 0
    for matrix in shapes.matrices:
        kept = int((1 - sparsity) * matrix.inputs)
        flops += matrix.outputs * (kept**3 // 3 + 2 * kept**2)
    return flops
