"""Cost of adapting windows, from shapes alone: memory, and what is read and written."""

from collections import Counter
from collections.abc import Sequence

from freelunch.costs.adapters import adapter_bytes, held_bytes
from freelunch.costs.passes import passing, staged_bytes
from freelunch.costs.reconstruction_work import reads_dense_states, reconstruction_work
from freelunch.costs.shapes import Shapes
from freelunch.costs.work import OVERLAPPING, PROCESS_BYTES, Cost
from freelunch.study.adaptations import LeastSquares, Windowed
from freelunch.study.steps import BATCH_TOKENS, CHECK_SEQUENCES, RECONSTRUCT_WINDOW
from freelunch.study.windows import (
    HALVES,
    KEEP_ALL,
    MATRIX,
    blocks_in,
    group_windows,
    kept_boundaries,
    split_windows,
)

# Memory that the allocator keeps in addition (measured).
BESIDE_BYTES = 80_000_000


def reconstruct(
    shapes: Shapes,
    samples: int,
    length: int,
    settings: Windowed,
    sparsity: float = 0.5,
    keep: str = KEEP_ALL,
    groups: int = 1,
) -> Cost:
    """Return the cost of a job that adapts windows; memory is that of one window.

    Args:
        shapes: Sizes of the model.
        samples: Number of calibration sequences.
        length: Tokens in a sequence.
        settings: Settings of the adaptation, with its window decided.
        sparsity: Share of the weights that is pruned, for least squares.
        keep: Hidden states that are on disk; the others have to be recomputed.
        groups: How many jobs share the windows, which are independent if there are several; the
            cost is that of the one that has most to do.
    """
    windows = split_windows(shapes.blocks, settings.window)
    parts = [group_windows(windows, 1 + at, groups) for at in range(groups)]
    largest = max(map(len, parts))
    # Each job recomputes hidden states from the nearest boundary that is kept.
    remade = max(_remade_blocks(keep, shapes.blocks, settings, part) for part in parts)
    read, written, scratch = _traffic(shapes, samples, length, settings)
    hidden = shapes.hidden_bytes(samples * length)

    def of_largest(amount: int) -> int:
        return amount * largest // len(windows)

    work = reconstruction_work(shapes, samples, length, settings, sparsity)
    return Cost(
        Counter({kind: of_largest(flops) for kind, flops in work.items()})
        + passing(shapes, samples * length, length, remade),
        memory_bytes(shapes, samples, length, settings),
        staged_bytes=staged_bytes(shapes),
        read_bytes=of_largest(read) + remade * (shapes.block_bytes + hidden),
        written_bytes=of_largest(written) + remade * hidden,
        disk_bytes=of_largest(shapes.blocks_bytes),
        scratch_bytes=scratch + (2 * hidden if remade else 0),
        overlaps=RECONSTRUCT_WINDOW in OVERLAPPING,
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


def _remade_blocks(keep: str, num_blocks: int, settings: Windowed, windows: Sequence[range]) -> int:
    """Return how many blocks of the dense model a job that adapts these windows passes for hidden
    states that are not kept.

    As in `model.hidden_states`, they are made from the nearest earlier boundary, and the last two
    stay in memory.
    """
    if not reads_dense_states(settings):
        return 0
    window, kept = settings.window, kept_boundaries(keep, num_blocks)
    sparse = settings.sparse_inputs
    needed = [0]
    for indices in windows:
        if not sparse or window in (MATRIX, HALVES):
            needed.append(indices.start)
        if window != MATRIX:
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
    held = held_bytes(trained, optimiser, stored=4)
    adapters = adapter_bytes(shapes, trained, optimiser)
    # The block already holds the masks and the stored weights of what is trained.
    more = held - shapes.bytes_each
    if window == MATRIX:
        width = max(matrix.inputs + 4 * matrix.outputs for matrix in shapes.matrices)
        # The gradient, and twice its size while it is made (measured).
        return block + max(
            making, (more + 12) * shapes.largest_matrix + adapters + 4 * batch * width
        )
    if window == HALVES:
        mlp = sum(shapes.weights[2:])
        half = max(mlp, shapes.block_weights - mlp)
        return block + max(
            making,
            more * half
            + adapters
            + 4 * shapes.largest_matrix
            + shapes.saved_bytes(batch, length)
            + shapes.scores_bytes(batch, length)
            # The next inputs and targets.
            + 2 * shapes.hidden_bytes(batch),
        )
    blocks = blocks_in(window, shapes.blocks)
    saved = blocks * shapes.saved_bytes(batch, length) + shapes.passing_bytes(batch, length)
    # With masks.
    weights = blocks * ((held + 1) * shapes.block_weights + adapters)
    return weights + 4 * shapes.largest_matrix + saved


def _traffic(shapes: Shapes, samples: int, length: int, settings: Windowed) -> tuple[int, int, int]:
    """Return the bytes that are read and written for all windows, and those of scratch files, if
    the dense hidden states at the ends of all windows are on disk.
    """
    window, local, blocks = settings.window, settings.local_targets, shapes.blocks
    hidden = shapes.hidden_bytes(samples * length)
    visits = 1.0 if isinstance(settings, LeastSquares) else float(settings.passes)
    # The losses before and after.
    visits += 2 * min(CHECK_SEQUENCES, samples) / samples
    # The outer part, and pruned blocks; the adapted ones.
    read = shapes.model_bytes + shapes.masks_bytes
    written, scratch = shapes.blocks_bytes, 0
    if window == MATRIX:
        each = shapes.hidden_bytes(samples * length) // shapes.hidden
        recorded = each * (sum(shapes.inputs) + shapes.output_width)
        ends = each * sum(matrix.inputs + matrix.outputs for matrix in shapes.matrices)
        read += shapes.blocks_bytes + blocks * (hidden + int(visits * ends))
        written += blocks * recorded
        scratch += recorded
        if settings.targets_behind_sparse:
            more = _behind_sparse_traffic(shapes, samples, length, settings)
            read, written, scratch = read + more[0], written + more[1], scratch + more[2]
    elif window == HALVES:
        # The middle of a dense block, or local targets of both halves; the middle of a sparse one.
        made = (2 if local else 1) + (1 if settings.sparse_inputs else 0)
        read += shapes.blocks_bytes + blocks * (made * hidden + int(visits * 4 * hidden))
        written += blocks * made * hidden
        scratch += made * hidden
    else:
        read += int(len(split_windows(blocks, window)) * visits * 2 * hidden)
        if local:
            read += shapes.blocks_bytes + blocks * hidden
            written += blocks * hidden
            scratch += hidden
    if settings.sparse_inputs:
        # Adapted blocks before the last window are read again and passed. Groups of matrices each
        # see the inputs that the matrices before them produce.
        passed = split_windows(blocks, window)[-1].start
        groups = len(shapes.inputs) if window == MATRIX else 0
        read += passed * (shapes.block_bytes + hidden) + blocks * groups * hidden
        written += passed * hidden
        scratch += hidden
    return read, written, scratch


def _behind_sparse_traffic(
    shapes: Shapes, samples: int, length: int, settings: Windowed
) -> tuple[int, int, int]:
    """Return what targets of matrices behind sparse ones read and write in addition to dense ones,
    and their additional scratch files.
    """
    hidden = shapes.hidden_bytes(samples * length)
    each = hidden // shapes.hidden
    # Each group sees the block's inputs, and each matrix its own, to make its targets.
    read = shapes.blocks * (3 * hidden + each * sum(matrix.inputs for matrix in shapes.matrices))
    written = scratch = 0
    if settings.sparse_inputs:
        # What arrives with dense hidden states is recorded beside the sparse inputs.
        written += shapes.blocks * each * sum(shapes.inputs)
        scratch += each * sum(shapes.inputs)
    if settings.lost_residual:
        _, output, _, last = shapes.inputs
        passed = 2 * shapes.blocks - 1
        # What leaves the attention, once for the MLP and once for the next block; what leaves that.
        read += passed * (hidden + each * output) + (shapes.blocks - 1) * (hidden + each * last)
        read += (shapes.blocks - 1) * shapes.block_bytes
        written += passed * (hidden + each * output) + (shapes.blocks - 1) * (hidden + each * last)
        scratch += 2 * hidden
    return read, written, scratch
