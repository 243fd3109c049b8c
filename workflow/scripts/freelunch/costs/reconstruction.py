"""Cost of adapting windows, from shapes alone, and the largest window that a budget allows.

With T tokens, P weights in a window's linear layers, hidden size d and sequence length S, one epoch
of training takes three forward passes, 6 T P + 6 T S d. The gradient of a window's inputs is never
needed. An epoch on one matrix therefore takes 4 T P, after one recorded pass of the dense block. If
norms are not trained, the linear layers at the start of a window save 2 T per weight.
"""

import math
from collections.abc import Collection, Iterator

from freelunch.core.errors import UserError
from freelunch.costs.adapters import (
    adapter_bytes,
    adapter_flops,
    branch_flops,
    first_weights,
    held_bytes,
    input_branch_flops,
)
from freelunch.costs.passes import PROCESS_BYTES, Cost
from freelunch.costs.shapes import Shapes
from freelunch.study import boundaries
from freelunch.study.adaptations import LeastSquares, Reconstruction, Windowed, with_window
from freelunch.study.batching import BATCH_TOKENS, CHECK_SEQUENCES
from freelunch.study.boundaries import kept_boundaries
from freelunch.study.families import has_halves
from freelunch.study.retraining import Retraining
from freelunch.study.windows import (
    ALL,
    AUTO,
    HALVES,
    MATRIX,
    Window,
    blocks_in,
    split_windows,
)

# Memory that the allocator keeps in addition (measured).
BESIDE_BYTES = 80_000_000


def decide_window(
    shapes: Shapes, samples: int, length: int, settings: Windowed | Retraining
) -> tuple[Window, str | None]:
    """Return the window of an adaptation, and the reason if the settings say `auto`.

    Raises:
        UserError: Even the smallest window does not fit into the budget.
    """
    window = settings.window
    if window != AUTO:
        return window, None
    assert isinstance(settings, Reconstruction) and settings.memory_gb is not None  # Checked.
    budget = settings.memory_gb * 1e9
    refused: tuple[Window, int] | None = None
    for window in _largest_first(shapes, settings):
        needs = memory_bytes(shapes, samples, length, with_window(settings, window))
        if needs <= budget:
            why = f"window {window} needs {_gigabytes(needs)} of {budget / 1e9:g} GB"
            if refused:
                why += f"; window {refused[0]} would need {_gigabytes(refused[1])} GB"
            return window, why
        refused = window, needs
    assert refused is not None
    todo = "raise memory_gb, or shorten study.calibration.length or `batch`"
    if settings.train_norms:
        matrix = memory_bytes(shapes, samples, length, with_window(settings, MATRIX))
        todo += f"; with `train_norms: false` a window `matrix` needs {_gigabytes(matrix)} GB"
    raise UserError(
        "no window fits into the memory budget",
        where="memory_gb",
        found=f"{settings.memory_gb:g} GB",
        expected=f"at least {_gigabytes(refused[1])} GB, which a window `{refused[0]}` needs",
        todo=todo,
    )


def _gigabytes(needs: int) -> str:
    """Return bytes in GB, rounded up so that the advised amount is enough."""
    return f"{math.ceil(needs / 1e6) / 1000:.3f}"


def _largest_first(shapes: Shapes, settings: Reconstruction) -> Iterator[Window]:
    yield ALL
    yield from range(shapes.blocks - 1, 0, -1)
    if has_halves(shapes.model_type, shapes.whole):
        yield HALVES
    if not settings.train_norms:
        yield MATRIX


def reconstruct(
    shapes: Shapes,
    samples: int,
    length: int,
    settings: Windowed,
    sparsity: float = 0.5,
    keep: str = boundaries.ALL,
) -> Cost:
    """Return the cost of adapting all windows in one job; memory is that of one window.

    Args:
        shapes: Sizes of the model.
        samples: Number of calibration sequences.
        length: Tokens in a sequence.
        settings: Settings of the adaptation, with its window decided.
        sparsity: Share of the weights that is pruned, for least squares.
        keep: Hidden states that are on disk; the others have to be recomputed.
    """
    remade = _remade_blocks(keep, shapes.blocks, settings)
    return Cost(
        reconstruction_flops(shapes, samples, length, settings, sparsity)
        + shapes.forward_flops(samples * length, length, remade),
        memory_bytes(shapes, samples, length, settings),
        shapes.blocks * shapes.block_bytes,
    )


def memory_bytes(shapes: Shapes, samples: int, length: int, settings: Windowed) -> int:
    """Return the peak memory, in bytes, of a job that adapts windows of a decided size."""
    return (
        PROCESS_BYTES
        + BESIDE_BYTES
        # The library of matrix products packs both factors of a product.
        + 8 * shapes.largest_matrix
        + _window_bytes(shapes, samples, length, settings)
    )


def _remade_blocks(keep: str, num_blocks: int, settings: Windowed) -> int:
    """Return how many blocks of the dense model are passed for hidden states that are not kept.

    As in `model.hidden_states`, they are made from the nearest earlier boundary, and the last two
    stay in memory.
    """
    window, kept = settings.window, kept_boundaries(keep, num_blocks)
    sparse, local = settings.is_sequential, settings.local_targets
    needed = [0]
    for indices in split_windows(num_blocks, window):
        if not local and (not sparse or window in (MATRIX, HALVES)):
            needed.append(indices.start)
        if not local and window != MATRIX:
            needed.append(indices.stop)
    passed, made = 0, [0]
    for boundary in needed:
        if boundary not in kept and boundary not in made:
            start = max((at for at in {*kept, *made} if at < boundary), default=0)
            passed += boundary - start
            made = [*made, boundary][-2:]
    return passed


def _window_bytes(shapes: Shapes, samples: int, length: int, settings: Windowed) -> int:
    """Return the bytes that one window holds at its peak: during training, or while its training
    data is made.
    """
    window = settings.window
    # The pruned block with its masks. Windows within a block first need the dense block.
    block = shapes.block_bytes + shapes.block_weights
    making = shapes.block_bytes + shapes.passing_bytes(max(BATCH_TOKENS, length), length)
    if isinstance(settings, LeastSquares):
        # Gram and cross-Gram matrix, right sides, start and solution; one system and its factor.
        solving = max(8 * (2 * matrix.inputs**2 + 4 * matrix.weights) for matrix in shapes.matrices)
        return block + max(making, 4 * shapes.largest_matrix + solving)
    batch: int = min(settings.batch, samples) * length
    trained, optimiser = settings.trained, settings.optimiser
    # A window is widened to float32 as a whole.
    each = held_bytes(trained, optimiser, stored=4)
    adapters = adapter_bytes(shapes, trained, optimiser)
    # The block already holds the masks and the stored weights of what is trained.
    more = each - 1 - shapes.bytes_each
    if window == MATRIX:
        width = max(
            # Those of a step, and the inputs and targets of the next, which are read meanwhile.
            4 * (matrix.inputs + 4 * matrix.outputs)
            + shapes.bytes_each * (matrix.inputs + matrix.outputs)
            for matrix in shapes.matrices
        )
        # The gradient, and twice its size while it is made (measured).
        return block + max(making, (more + 12) * shapes.largest_matrix + adapters + batch * width)
    if window == HALVES:
        mlp = sum(shapes.weights[2:])
        half = max(mlp, shapes.block_weights - mlp)
        return block + max(
            making,
            more * half
            + adapters
            + 4 * shapes.largest_matrix
            + shapes.saved_bytes(batch, length)
            # The next inputs and targets.
            + 2 * shapes.hidden_bytes(batch),
        )
    blocks = blocks_in(window, shapes.blocks)
    saved = blocks * shapes.saved_bytes(batch, length) + shapes.passing_bytes(batch, length)
    weights = blocks * (each * shapes.block_weights + adapters)
    return weights + 4 * shapes.largest_matrix + saved


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
    attention = 2 * tokens * sum(shapes.weights[:2]) + shapes.attention_flops(tokens, length)
    attention *= blocks
    # One sequence is passed to see which matrices share an input.
    passes = forward // samples if window == MATRIX else 0
    if settings.is_sequential:
        # Passes to the next window and, for windows within a block, within the block.
        last = split_windows(blocks, window)[-1]
        passes += shapes.forward_flops(tokens, length, last.start)
        passes += {MATRIX: 4 * forward, HALVES: attention}.get(str(window), 0)
    if local:
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
    """Return the operations of one block's least squares: the Gram and cross-Gram matrix of each
    linear layer, and for each of its rows a factorisation of the kept part of the Gram matrix.
    """
    flops = 0
    for matrix in shapes.matrices:
        kept = int((1 - sparsity) * matrix.inputs)
        flops += 2 * tokens * matrix.inputs * (matrix.inputs + matrix.outputs)
        flops += matrix.outputs * (kept**3 // 3 + 2 * kept**2)
    return flops
