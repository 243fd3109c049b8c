"""Cost of adapting windows, from shapes alone, and what trains the linear layers of a block.

With T tokens, P weights in a window's linear layers, heads of width d together, and sequence length
S, one epoch of training takes three forward passes, 6 T P + 6 T S d. The gradient of a window's
inputs is never needed. An epoch on one matrix therefore takes 4 T P, after one recorded pass of the
dense block. If norms are not trained, the linear layers at the start of a window save 2 T per
weight.
"""

from collections.abc import Collection, Sequence

from freelunch.costs.cost import (
    ATTENTION,
    GRAM,
    PASSES,
    PROCESS_BYTES,
    SOLVING,
    Cost,
    Work,
    times,
)
from freelunch.costs.pass_costs import passing
from freelunch.costs.shapes import Shapes
from freelunch.study.adaptations import LeastSquares, Reconstruction, Windowed
from freelunch.study.methods import BRANCHES, FULL, LOW_RANK, Trained, matrix_parameters
from freelunch.study.steps import BATCH_TOKENS, CHECK_SEQUENCES
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
# Share of a window in training that the host's allocator holds besides, in holes: moments and the
# activations of later steps are allocated where others were freed. SmolLM2-135M held 0.12 to 0.20
# more for windows of 5, 10 and 30 blocks; with arrays of a megabyte and more outside of the heap,
# which takes longer, it held none.
HOLES = 1 / 6
# Bytes of an optimiser's moments per trained parameter.
MOMENT_BYTES = {"adamw": 8, "sgd": 4}


# --- What is trained in a block


class TrainedBlock:
    """A block whose linear layers are trained by a method (see `freelunch.study.methods`), and the
    head, if it is trained, too. Groups of linear layers are indices into `shapes.inputs`.

    Attributes:
        weights: Number of weights in the matrices.
        parameters: How many numbers train them, before any mask.
        is_low_rank: Whether factors A and B train a matrix.
        has_branches: Whether A and B stand beside a frozen matrix.
    """

    def __init__(self, shapes: Shapes, trained: Trained) -> None:
        self.shapes, self.trained = shapes, trained
        self.weights = sum(matrix.weights for matrix in shapes.matrices)
        self.parameters = sum(
            matrix_parameters(trained, matrix.outputs, matrix.inputs, matrix.weights)
            for matrix in shapes.matrices
        )
        self.is_low_rank = trained.weights in LOW_RANK
        self.has_branches = trained.weights in BRANCHES

    def weight_bytes(self, optimiser: str, stored: int) -> int:
        """Return the bytes held per weight of an adapted matrix, without its gradient and mask: a
        trained weight in float32 with its moments, or a frozen one of `stored` bytes.
        """
        return 4 + MOMENT_BYTES[optimiser] if self.trained.weights == FULL else stored

    def adapter_bytes(self, optimiser: str) -> int:
        return self.parameters * (4 + 4 + MOMENT_BYTES[optimiser]) if self.is_low_rank else 0

    def branch_flops(self, tokens: int) -> int:
        return 2 * tokens * self.parameters if self.has_branches else 0

    def epoch_flops(self, tokens: int, blocks: int, begun: int, groups: Collection[int]) -> int:
        """Return the operations on weights of blocks and branches in an epoch: a forward pass, the
        gradients of activations, except in front of the first trained layers (these groups, in
        `begun` blocks), and the gradients of matrices that are not frozen.
        """
        flops = 2 * 2 * tokens * blocks * self.shapes.block_weights
        flops += 3 * blocks * self.branch_flops(tokens)
        flops -= 2 * tokens * begun * sum(self.shapes.weights[group] for group in groups)
        if self.has_branches:
            inputs = sum(matrix.inputs for matrix in self.shapes.matrices if matrix.group in groups)
            flops -= 2 * tokens * begun * self.trained.rank * inputs
        if self.trained.needs_weight_gradient:
            flops += 2 * tokens * blocks * self.weights
        return flops

    def product_flops(
        self,
        blocks: int,
        *,
        passes: int,
        again: int = 0,
        checks: int = 0,
        merges: int = 1,
        begun: int = 0,
        groups: Collection[int] = (),
    ) -> int:
        """Return the operations in blocks and head that do not depend on the number of tokens: BA
        whenever a matrix is used, gradients pulled back to A and B, and the merge.

        Args:
            blocks: Number of blocks that are trained.
            passes: Number of backward passes in all steps together. In each, a matrix is used
                twice, and its gradient takes two products.
            again: How often blocks run forward again for their backward passes.
            checks: Number of passes without gradients before the merge.
            merges: How often blocks are merged.
            begun, groups: The first trained layers, as `epoch_flops` has them; backward passes do
                not use their matrices.
        """
        if not self.is_low_rank:
            return 0
        weights = blocks * self.weights
        head = self.shapes.head_weights if self.trained.head else 0
        products = merges * weights + head
        if not self.has_branches:
            first = sum(matrix.weights for matrix in self.shapes.matrices if matrix.group in groups)
            products += (4 * passes + checks) * (weights + head)
            products += again * weights - passes * begun * first
        return 2 * self.trained.rank * products


# --- Windows


def reconstruct(
    shapes: Shapes,
    samples: int,
    length: int,
    settings: Windowed,
    sparsity: float = 0.5,
    keep: str = KEEP_ALL,
    groups: int = 1,
    checked: int | None = None,
) -> Cost:
    """Return the cost of a job that adapts windows; memory is that of one window.

    Args:
        samples: Number of calibration sequences.
        length: Tokens in a sequence.
        settings: Settings of the adaptation, with its window decided.
        sparsity: Share of the weights that is pruned, for least squares.
        keep: Hidden states that are on disk; the others have to be recomputed.
        groups: How many jobs share the windows, which are independent if there are several; the
            cost is that of the one that has most to do.
        checked: Number of sequences on which losses are measured, if not that of any adaptation.
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

    work = reconstruction_work(shapes, samples, length, settings, sparsity, checked=checked)
    return Cost(
        Work({kind: of_largest(flops) for kind, flops in work.items()})
        + passing(shapes, samples * length, length, remade),
        memory_bytes(shapes, samples, length, settings),
        holes_bytes=_holes_bytes(shapes, samples, length, settings),
        staged_bytes=shapes.staged_bytes,
        read_bytes=of_largest(read) + remade * (shapes.block_bytes + hidden),
        written_bytes=of_largest(written) + remade * hidden,
        disk_bytes=of_largest(shapes.blocks_bytes),
        scratch_bytes=scratch + (2 * hidden if remade else 0),
        overlaps=True,
    )


def _remade_blocks(keep: str, num_blocks: int, settings: Windowed, windows: Sequence[range]) -> int:
    """Return how many blocks of the dense model a job that adapts these windows passes for hidden
    states that are not kept.

    As in `model.hidden_states`, they are made from the nearest earlier boundary, and the last two
    stay in memory.
    """
    if not settings.reads_dense_states:
        return 0
    window, kept = settings.window, kept_boundaries(keep, num_blocks)
    needed = [0]
    for indices in windows:
        if not settings.sparse_inputs or window in (MATRIX, HALVES):
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


# --- Operations


def reconstruction_work(
    shapes: Shapes,
    samples: int,
    length: int,
    settings: Windowed,
    sparsity: float = 0.5,
    blocks: int | None = None,
    checked: int | None = None,
) -> Work:
    """Return the operations of adapting `blocks` blocks (all by default), including the losses
    before and after, and making inputs and targets from dense hidden states that are on disk.
    """
    blocks = shapes.blocks if blocks is None else blocks
    tokens = samples * length
    work = _data_work(shapes, samples, length, settings, blocks)
    # One sequence through the blocks.
    once = passing(shapes, length, length, blocks)
    if isinstance(settings, LeastSquares):
        work[PASSES] += 2 * samples * once[PASSES]
        for matrix in shapes.matrices:
            # Its Gram and cross-Gram matrix.
            work[GRAM] += blocks * 2 * tokens * matrix.inputs * (matrix.inputs + matrix.outputs)
            # For each row, the kept part is factorised, and two triangular systems are solved.
            kept = int((1 - sparsity) * matrix.inputs)
            work[SOLVING] += blocks * matrix.outputs * (kept**3 // 3 + 2 * kept**2)
        return work
    epochs, trained = settings.passes, TrainedBlock(shapes, settings.trained)
    begun, groups = _first_trained(shapes, blocks, settings)
    # The losses before and after are measured without adapters.
    steps = -(-samples // settings.batch)
    checked = 2 * (min(CHECK_SEQUENCES, samples) if checked is None else checked)
    work[PASSES] += epochs * trained.epoch_flops(tokens, blocks, begun, groups)
    work[PASSES] += checked * once[PASSES] + trained.product_flops(
        blocks, passes=epochs * steps, begun=begun, groups=groups
    )
    if settings.window != MATRIX:
        work[ATTENTION] += (3 * epochs * samples + checked) * once[ATTENTION]
    return work


def _first_trained(
    shapes: Shapes, blocks: int, settings: Reconstruction
) -> tuple[int, Collection[int]]:
    """Return the linear layers before which nothing is trained, so that no gradient passes through
    them: the number of blocks that have them, and their groups, as indices into `shapes.inputs`.
    """
    if settings.window == MATRIX:
        return blocks, range(len(shapes.inputs))
    if settings.trained.norms and shapes.family.begins_with_norm:
        return 0, ()
    if settings.window == HALVES:
        return blocks, (0, 2)
    return -(-blocks // blocks_in(settings.window, shapes.blocks)), (0,)


def _data_work(shapes: Shapes, samples: int, length: int, settings: Windowed, blocks: int) -> Work:
    window, tokens = settings.window, samples * length
    forward = passing(shapes, tokens, length, blocks)
    first_half = Work(
        {
            PASSES: 2 * tokens * sum(shapes.weights[:2]) * blocks,
            ATTENTION: forward[ATTENTION],
        }
    )
    work = Work()
    if window == MATRIX:
        # One sequence is passed to see which matrices share an input.
        work += passing(shapes, length, length, blocks)
    if settings.sparse_inputs:
        # Passes to the next window and, for windows within a block, within the block.
        work += passing(shapes, tokens, length, split_windows(blocks, window)[-1].start)
        if window == MATRIX:
            work += times(4, forward)
        if window == HALVES:
            work += first_half
    if settings.targets_behind_sparse:
        work += _behind_sparse_work(shapes, tokens, length, settings, blocks)
    elif window == MATRIX and settings.local_targets:
        work[PASSES] += forward[PASSES]
    elif window == MATRIX or settings.local_targets:
        work += forward
    elif window == HALVES:
        work += first_half
    return work


def _behind_sparse_work(
    shapes: Shapes, tokens: int, length: int, settings: Windowed, blocks: int
) -> Work:
    """Return the operations of making targets of matrices behind sparse ones.

    For each of the four groups of matrices, what enters it passes the block. If the residual stream
    is lost, it passes half a block; the attention is passed once more for what enters the MLP, and
    both halves for what enters the next block.
    """
    once = shapes.attention_flops(tokens, length, 1)
    first, output, _, last = (2 * tokens * weights for weights in shapes.weights)
    # Each matrix's own dense weights make its targets.
    block = 2 * tokens * shapes.block_weights
    if not settings.lost_residual:
        return times(blocks, Work({PASSES: 5 * block, ATTENTION: 4 * once}))
    before_last = split_windows(blocks, settings.window)[-1].start
    flops = blocks * (3 * block + first + 2 * output) + before_last * (block + output + last)
    return Work({PASSES: flops, ATTENTION: (3 * blocks + before_last) * once})


# --- Memory and disk


def memory_bytes(
    shapes: Shapes, samples: int, length: int, settings: Windowed, *, on_device: bool = False
) -> int:
    """Return the peak memory of a job that adapts windows, on a device without the host's holes."""
    # The library of matrix products packs both factors of a product.
    held = PROCESS_BYTES + BESIDE_BYTES + 8 * shapes.largest_matrix
    held += _window_bytes(shapes, samples, length, settings)
    return held + (0 if on_device else _holes_bytes(shapes, samples, length, settings))


def _holes_bytes(shapes: Shapes, samples: int, length: int, settings: Windowed) -> int:
    trains = isinstance(settings, Reconstruction)
    return int(HOLES * _window_bytes(shapes, samples, length, settings)) if trains else 0


def _window_bytes(shapes: Shapes, samples: int, length: int, settings: Windowed) -> int:
    window, largest = settings.window, shapes.largest_matrix
    # The pruned block with its masks. Windows within a block first need the dense block.
    block = shapes.block_bytes + shapes.block_weights
    making = shapes.block_bytes + shapes.passing_bytes(max(BATCH_TOKENS, length), length)
    if isinstance(settings, LeastSquares):
        # Gram and cross-Gram matrix, right sides, start and solution; one system and its factor.
        solving = max(8 * (2 * matrix.inputs**2 + 4 * matrix.weights) for matrix in shapes.matrices)
        return block + max(making, 4 * largest + solving)
    batch = min(settings.batch, samples) * length
    trained = TrainedBlock(shapes, settings.trained)
    # A window is widened to float32 as a whole.
    each = trained.weight_bytes(settings.optimiser, stored=4)
    adapters = trained.adapter_bytes(settings.optimiser)
    # The block already holds the masks and the stored weights of what is trained.
    more = each - shapes.bytes_each
    if window == MATRIX:
        width = max(matrix.inputs + 4 * matrix.outputs for matrix in shapes.matrices)
        # The gradient, and twice its size while it is made (measured).
        return block + max(making, (more + 12) * largest + adapters + 4 * batch * width)
    saved = shapes.saved_bytes(batch, length)
    if window == HALVES:
        mlp = sum(shapes.weights[2:])
        training = more * max(mlp, shapes.block_weights - mlp) + adapters + 4 * largest
        # With the next inputs and targets.
        batches = saved + shapes.scores_bytes(batch, length) + 2 * shapes.hidden_bytes(batch)
        return block + max(making, training + batches)
    blocks = blocks_in(window, shapes.blocks)
    # With masks.
    weights = blocks * ((each + 1) * shapes.block_weights + adapters)
    return weights + 4 * largest + blocks * saved + shapes.passing_bytes(batch, length)


def _traffic(shapes: Shapes, samples: int, length: int, settings: Windowed) -> tuple[int, int, int]:
    """Return the bytes that are read and written for all windows, and those of scratch files, if
    the dense hidden states at the ends of all windows are on disk.
    """
    window, blocks = settings.window, shapes.blocks
    hidden = shapes.hidden_bytes(samples * length)
    # Bytes of one channel of all tokens.
    channel = hidden // shapes.hidden
    visits = 1.0 if isinstance(settings, LeastSquares) else float(settings.passes)
    # The losses before and after.
    visits += 2 * min(CHECK_SEQUENCES, samples) / samples
    # The outer part, and pruned blocks. Of one block, what is written is also on disk meanwhile.
    read, written, made = shapes.model_bytes + shapes.masks_bytes, shapes.blocks_bytes, 0
    if window == MATRIX:
        inputs = sum(matrix.inputs for matrix in shapes.matrices)
        made = channel * (sum(shapes.inputs) + shapes.output_width)
        ends = channel * (inputs + shapes.output_width)
        read += shapes.blocks_bytes + blocks * (hidden + int(visits * ends))
        if settings.targets_behind_sparse:
            # Each group sees the block's inputs, and each matrix its own, to make its targets.
            read += blocks * (3 * hidden + channel * inputs)
            if settings.sparse_inputs:
                # What arrives with dense hidden states is recorded beside the sparse inputs.
                made += channel * sum(shapes.inputs)
    elif window == HALVES:
        # The middle of a dense block, or local targets of both halves; the middle of a sparse one.
        made = (1 + settings.local_targets + settings.sparse_inputs) * hidden
        read += shapes.blocks_bytes + blocks * (made + int(visits * 4 * hidden))
    else:
        read += int(len(split_windows(blocks, window)) * visits * 2 * hidden)
        if settings.local_targets:
            made = hidden
            read += shapes.blocks_bytes + blocks * hidden
    written, scratch = written + blocks * made, made
    if window == MATRIX and settings.lost_residual:
        _, output, _, last = shapes.inputs
        # What leaves the attention, once for the MLP and once for the next block; what leaves that.
        moved = (2 * blocks - 1) * (hidden + channel * output)
        moved += (blocks - 1) * (hidden + channel * last)
        read += moved + (blocks - 1) * shapes.block_bytes
        written += moved
        scratch += 2 * hidden
    if settings.sparse_inputs:
        # Adapted blocks before the last window are read again and passed. Groups of matrices each
        # see the inputs that the matrices before them produce.
        passed = split_windows(blocks, window)[-1].start
        groups = len(shapes.inputs) if window == MATRIX else 0
        read += passed * (shapes.block_bytes + hidden) + blocks * groups * hidden
        written += passed * hidden
        scratch += hidden
    return read, written, scratch
