"""Cost of retraining a whole model, from shapes alone.

With T tokens, P weights in the linear layers of all blocks, V weights in the head, heads of width d
together, sequence length S and L blocks, the forward pass of an epoch takes 2 T (P + V) + 2 T S d
L. In the backward pass, the gradients of activations take 2 T (P + V) + 4 T S d L. The gradients of
matrices take another 2 T per weight if a matrix is trained itself or through factors that multiply
it. Branches beside frozen matrices (rank r, R outputs, C inputs) take 6 T r (R + C) instead.

Element-wise work is left out: norms, activations, softmax, masks, the optimiser. Attention is
causal. Its backward pass counts as two forward passes, although kernels recompute some of it.
"""

from freelunch.costs.adapters import (
    MOMENT_BYTES,
    adapter_bytes,
    adapter_flops,
    branch_flops,
    first_weights,
    head_branch_flops,
    held_bytes,
    input_branch_flops,
    last_flops,
    trained_matrices,
    trained_parameters,
    trained_weights,
)
from freelunch.costs.passes import passing, staged_bytes
from freelunch.costs.reconstruction import BESIDE_BYTES
from freelunch.costs.shapes import Shapes
from freelunch.costs.work import ATTENTION, OVERLAPPING, PASSES, PROCESS_BYTES, Cost, Work
from freelunch.study.methods import BRANCHES, FULL, LOW_RANK, Trained, matrix_parameters
from freelunch.study.retraining import Retraining
from freelunch.study.steps import CHECK_SEQUENCES, RETRAIN_MODEL
from freelunch.study.windows import KEEP_ALL, KEEP_NONE


def retrain(
    shapes: Shapes,
    samples: int,
    length: int,
    settings: Retraining,
    keep: str = KEEP_ALL,
    streamed: bool = False,
) -> Cost:
    """Return the cost of retraining a model.

    Args:
        shapes: Sizes of the model.
        samples: Number of sequences.
        length: Tokens in a sequence.
        settings: Settings of the retraining.
        keep: Hidden states of the dense model that are on disk; a distillation recomputes those
            that it lacks.
        streamed: Whether one block at a time is in memory, or the whole model.
    """
    # If any hidden states are kept, those after the last block are.
    remade = shapes.blocks if settings.distils and keep == KEEP_NONE else 0
    hidden = shapes.hidden_bytes(samples * length)
    read, written = _traffic(shapes, samples, length, settings, streamed)
    alone = _moved(shapes, samples, settings) if streamed else 0
    # The final norm and the head are written with the whole outer part.
    outer = settings.trained.norms or settings.trained.head
    leaves = shapes.blocks_bytes + (shapes.outer_bytes if outer else 0)
    on_disk = streamed and settings.trained.weights == FULL
    return Cost(
        retraining_work(shapes, samples, length, settings, streamed)
        + passing(shapes, samples * length, length, remade),
        memory_bytes(shapes, samples, length, settings, streamed),
        staged_bytes=max(staged_bytes(shapes), _staged_bytes(shapes, settings, on_disk)),
        read_bytes=read + alone + remade * (shapes.block_bytes + hidden),
        written_bytes=leaves + written + alone + remade * hidden,
        disk_bytes=leaves,
        scratch_bytes=scratch_bytes(shapes, samples, length, settings, streamed)
        + (2 * hidden if remade else 0),
        saved_bytes=_state_bytes(shapes, settings),
        # Not after the last step.
        saves=_steps(samples, settings) - 1,
        overlaps=streamed and RETRAIN_MODEL in OVERLAPPING,
        alone_read_bytes=alone,
        alone_written_bytes=alone,
    )


def _steps(samples: int, settings: Retraining) -> int:
    return settings.passes * -(-samples // min(settings.batch, samples))


def _traffic(
    shapes: Shapes, samples: int, length: int, settings: Retraining, streamed: bool
) -> tuple[int, int]:
    """Return the bytes that are read and written, except for the retrained model itself and for
    what a step of a streamed training moves.
    """
    trained = settings.trained
    pruned = shapes.blocks_bytes + shapes.masks_bytes
    seen = settings.passes * samples + 2 * min(CHECK_SEQUENCES, samples)
    teacher = seen * shapes.hidden_bytes(length) if settings.distils else 0
    if not streamed:
        # Masks are read again to merge.
        return shapes.outer_bytes + pruned + shapes.masks_bytes + teacher, 0
    # Twice a step; for the losses before and after; and to write the shards. Masks are read again
    # when blocks are merged for the last two.
    visits = 2 * _steps(samples, settings) + 3
    read = shapes.outer_bytes + visits * pruned + 2 * shapes.masks_bytes + teacher
    between = _between_bytes(shapes, settings) * settings.passes * samples * length
    # Hidden states at each boundary, and their gradients, except where the embedding ends.
    written = (2 * shapes.blocks + 1) * between
    read += (3 * shapes.blocks + 1) * between
    if trained.weights == FULL:
        weights = _weights_bytes(shapes, settings)
        read += visits * weights
        written += weights
    return read, written


def _moved(shapes: Shapes, samples: int, settings: Retraining) -> int:
    """Return the bytes that the steps of a streamed training read between their passes, and as many
    that they write: gradients, weights and moments, one after another.
    """
    if settings.trained.weights != FULL:
        return 0
    # Without a trained head, which stays in memory. A gradient is in float32, too.
    numbers = shapes.blocks * trained_parameters(shapes, settings.trained)
    return _steps(samples, settings) * (_number_bytes(settings) + 4) * numbers


def _weights_bytes(shapes: Shapes, settings: Retraining) -> int:
    return 4 * shapes.blocks * trained_parameters(shapes, settings.trained)


def _between_bytes(shapes: Shapes, settings: Retraining) -> int:
    """Return the bytes of a token's hidden states between the blocks of a model in training."""
    return max(shapes.bytes_each, precision_bytes(settings, shapes.bytes_each)) * shapes.hidden


def _state_bytes(shapes: Shapes, settings: Retraining) -> int:
    """Return the bytes of what a retraining moves, with its moments, in float32."""
    trained = settings.trained
    numbers = shapes.blocks * trained_parameters(shapes, trained)
    if trained.head and trained.weights == FULL:
        numbers += shapes.vocabulary * shapes.hidden
    return _number_bytes(settings) * numbers


def _staged_bytes(shapes: Shapes, settings: Retraining, on_disk: bool) -> int:
    """Return what passes through the host's memory besides the dense model: a state that is saved,
    or a block that comes with its weights in training from the disk.
    """
    if not on_disk:
        return _state_bytes(shapes, settings)
    return shapes.block_bytes + 4 * trained_parameters(shapes, settings.trained)


def _number_bytes(settings: Retraining) -> int:
    """Return the bytes of a trained number with its moments, in float32."""
    return 4 + MOMENT_BYTES[settings.optimiser]


def retraining_work(
    shapes: Shapes, samples: int, length: int, settings: Retraining, streamed: bool = False
) -> Work:
    """Return the operations of `retraining_flops`, by their kind."""
    flops = retraining_flops(shapes, samples, length, settings, streamed)
    forwards = 4 if streamed or settings.gradient_checkpointing else 3
    checks = 2 * min(CHECK_SEQUENCES, samples) / samples
    once = shapes.attention_flops(samples * length, length)
    attention = int((settings.passes * forwards + checks) * once)
    return Work({PASSES: flops - attention, ATTENTION: attention})


def retraining_flops(
    shapes: Shapes, samples: int, length: int, settings: Retraining, streamed: bool = False
) -> int:
    """Return the operations of a retraining, including the losses before and after it."""
    trained, tokens = settings.trained, samples * length
    blocks, head = shapes.forward_flops(tokens, length), shapes.head_flops(tokens)
    attention = shapes.attention_flops(tokens, length)
    weights = 2 * tokens * trained_weights(shapes, trained) * shapes.blocks
    teacher = head if settings.distils else 0
    branch = branch_flops(shapes, tokens, trained) * shapes.blocks
    branch += head_branch_flops(shapes, tokens, trained)
    forward = blocks + head + teacher
    through = blocks + attention + head + 2 * branch
    nothing_before = not (trained.norms and shapes.begins_with_norm)
    if nothing_before:
        # Nothing is trained before the first linear layers.
        through -= 2 * tokens * shapes.weights[0] + input_branch_flops(shapes, tokens, trained, [0])
    epoch = forward + branch + through
    if trained.needs_weight_gradient:
        epoch += weights + (head if trained.head else 0)
    of_block = branch_flops(shapes, tokens, trained)
    if streamed:
        epoch += blocks + of_block * shapes.blocks
    elif settings.gradient_checkpointing:
        epoch += blocks + (of_block - last_flops(shapes, tokens, trained)) * shapes.blocks
    whole, rest = divmod(samples, settings.batch)
    together = _passed_together(settings, samples)
    passes = settings.passes * (whole * -(-settings.batch // together) - (-rest // together))
    checked = min(CHECK_SEQUENCES, samples)
    # The loss before is measured with adapters, and the loss after without.
    checks = checked / samples * (2 * forward + branch)
    adapters = adapter_flops(
        shapes,
        trained,
        shapes.blocks,
        passes=passes,
        again=passes if streamed or settings.gradient_checkpointing else 0,
        checks=checked,
        # Streamed, blocks are merged to measure the loss after, and again to write them.
        merges=2 if streamed else 1,
        first=first_weights(shapes, trained, [0]) if nothing_before else 0,
    )
    return int(settings.passes * epoch + checks + adapters)


def memory_bytes(
    shapes: Shapes, samples: int, length: int, settings: Retraining, streamed: bool = False
) -> int:
    """Return the peak memory, in bytes, of a retraining.

    `freelunch.adaptation.retraining.trainee` holds it: frozen weights as they are stored, trained
    ones in float32 with their moments and gradients, adapters with theirs.
    """
    # The dense model's outer part, which the one in training shares unless passes in float32 widen
    # it or its head is trained.
    stored, head = shapes.bytes_each, shapes.vocabulary * shapes.hidden
    outer = shapes.outer_weights * stored
    if precision_bytes(settings, stored) > stored:
        outer += shapes.outer_weights * 4
    elif settings.trained.head:
        outer += head * stored
    return (
        PROCESS_BYTES
        + BESIDE_BYTES
        + outer
        + _head_state_bytes(shapes, settings)
        + shapes.blocks * adapter_bytes(shapes, settings.trained, settings.optimiser)
        + _working_bytes(shapes, samples, length, settings, streamed)
    )


def _head_state_bytes(shapes: Shapes, settings: Retraining) -> int:
    """Return the bytes of what trains the head, with gradients and moments."""
    trained, head = settings.trained, shapes.vocabulary * shapes.hidden
    if not trained.head or trained.weights is None:
        return 0
    numbers = matrix_parameters(trained, shapes.vocabulary, shapes.hidden, head)
    # A mask, too, of a head that is trained itself.
    mask = head if trained.weights == FULL else 0
    return numbers * (4 + 4 + MOMENT_BYTES[settings.optimiser]) + mask


def _working_bytes(
    shapes: Shapes, samples: int, length: int, settings: Retraining, streamed: bool
) -> int:
    """Return the most memory, in bytes, that blocks take with what is computed with them and with
    the head, except for adapters.
    """
    trained, optimiser, stored = settings.trained, settings.optimiser, shapes.bytes_each
    together = _passed_together(settings, samples)
    tokens, full = together * length, trained.weights == FULL
    passed = 1 if streamed or settings.gradient_checkpointing else shapes.blocks
    precision = precision_bytes(settings, stored)
    head = shapes.vocabulary * shapes.hidden if trained.head else 0
    computed, loss = 0, _loss_bytes(shapes, tokens, settings)
    if trained.weights in LOW_RANK and trained.weights not in BRANCHES:
        # A matrix that is computed from frozen weights, and its gradient, while it is used; beside
        # a head, there are logits and their gradients.
        computed = 4 * 3 * shapes.largest_matrix
        loss = max(loss, 4 * 3 * head + 4 * 2 * tokens * shapes.vocabulary)
    elif full and precision < 4 and together < min(settings.batch, samples):
        # From the second micro-batch on, copies of the weights in the precision of the passes stand
        # beside the gradients. In the first, there are no gradients yet.
        computed = precision * shapes.block_weights * passed
        loss += precision * head
    elif not full and precision != stored:
        # A frozen matrix that is converted while it is used.
        computed = precision * shapes.largest_matrix
    saved = (shapes.saved_bytes(tokens, length) + _dropped_bytes(shapes, tokens, trained)) * passed
    # Gradients of scores, in the backward pass of a block.
    scores = shapes.scores_bytes(tokens, length)
    hidden = 4 * tokens * shapes.hidden
    # While a matrix is merged and rounded, no pass runs.
    merging = 8 * shapes.largest_matrix
    if not streamed:
        # The zeros of a frozen weight are its mask; a trained one has a mask and a gradient.
        each = held_bytes(trained, optimiser, stored) + (1 + 4 if full else 0)
        between = hidden * shapes.blocks if settings.gradient_checkpointing else 0
        blocks = shapes.blocks * shapes.block_weights * each
        return int(blocks + max(computed + saved + max(loss, scores), merging) + between)
    # A block in use, and the next, if any, with its masks and its trained weights.
    using = shapes.block_weights * (4 + 1 + 4 if full else stored)
    each = stored + 1 + (4 if full else 0)
    coming = shapes.block_weights * each if shapes.blocks > 1 else 0
    # No block is in memory while the loss is computed, nor while weights in training move, one at a
    # time; but then the next may be coming.
    moving = (4 * 2 + MOMENT_BYTES[optimiser]) * shapes.largest_matrix + coming if full else 0
    most = max(using + coming + max(computed + saved + scores, merging), loss, moving)
    # Hidden states and gradients of a micro-batch, those of the next, and those that are written.
    return int(most + 6 * hidden)


def _loss_bytes(shapes: Shapes, tokens: int, settings: Retraining) -> int:
    """Return the bytes of logits and of what a loss makes of them, with gradients, in float32: four
    arrays as large as the logits, or seven with a teacher's.
    """
    return 4 * (7 if settings.distils else 4) * tokens * shapes.vocabulary


def _dropped_bytes(shapes: Shapes, tokens: int, trained: Trained) -> int:
    """Return the bytes that dropout keeps of a block's inputs for the backward pass: for each
    branch, inputs in float32 and a mask.
    """
    if trained.weights not in BRANCHES or not trained.dropout:
        return 0
    return (4 + 1) * tokens * sum(it.inputs for it in trained_matrices(shapes, trained))


def precision_bytes(settings: Retraining, stored: int) -> int:
    """Return the bytes of a number in training passes."""
    return {"model": stored, "float32": 4, "bfloat16": 2}[settings.precision]


def scratch_bytes(
    shapes: Shapes, samples: int, length: int, settings: Retraining, streamed: bool
) -> int:
    """Return the bytes on disk while a retraining runs: its state twice, since the saved one stays
    while the next is written, and of a streamed one the hidden states of a step between blocks. For
    `full`, a streamed one has gradients there, too.
    """
    state = 2 * _state_bytes(shapes, settings)
    if not streamed:
        return state
    tokens = min(settings.batch, samples) * length
    between = (shapes.blocks + 2) * tokens * _between_bytes(shapes, settings)
    gradients = _weights_bytes(shapes, settings) if settings.trained.weights == FULL else 0
    return between + state + gradients


def _passed_together(settings: Retraining, samples: int) -> int:
    """Return how many sequences pass through the model together."""
    return min(settings.micro_batch or settings.batch, settings.batch, samples)
