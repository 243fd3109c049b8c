"""Cost of retraining a whole model, from shapes alone.

With T tokens, P weights in the linear layers of all blocks, V weights in the head, hidden size d,
sequence length S and L blocks, the forward pass of an epoch takes 2 T (P + V) + 2 T S d L. In the
backward pass, the gradients of activations take 2 T (P + V) + 4 T S d L. The gradients of matrices
take another 2 T per weight if a matrix is trained itself or through factors that multiply it.
Branches beside frozen matrices (rank r, R outputs, C inputs) take 6 T r (R + C) instead.

Element-wise work is left out: norms, activations, softmax, masks, the optimiser. Attention is
causal. Its backward pass counts as two forward passes, although kernels recompute some of it.
"""

import math

from freelunch.core.errors import UserError
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
    trained_weights,
)
from freelunch.costs.machine import memory_bytes as memory_of_machine
from freelunch.costs.passes import PROCESS_BYTES, Cost
from freelunch.costs.reconstruction import BESIDE_BYTES
from freelunch.costs.shapes import Shapes
from freelunch.study.batching import CHECK_SEQUENCES
from freelunch.study.boundaries import ALL, NONE
from freelunch.study.methods import FULL
from freelunch.study.retraining import Retraining


def retrain(
    shapes: Shapes,
    samples: int,
    length: int,
    settings: Retraining,
    keep: str = ALL,
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
    remade = shapes.blocks if settings.distils and keep == NONE else 0
    return Cost(
        retraining_flops(shapes, samples, length, settings, streamed)
        + shapes.forward_flops(samples * length, length, remade),
        memory_bytes(shapes, samples, length, settings, streamed),
        shapes.blocks * shapes.block_bytes,
    )


def retraining_flops(
    shapes: Shapes, samples: int, length: int, settings: Retraining, streamed: bool = False
) -> int:
    """Return the operations of a retraining, including the losses before and after it."""
    trained, tokens = settings.trained, samples * length
    blocks, head = shapes.forward_flops(tokens, length), shapes.head_flops(tokens)
    attention = shapes.attention_flops(tokens, length) * shapes.blocks
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
    trained, optimiser, stored = settings.trained, settings.optimiser, shapes.bytes_each
    tokens = _passed_together(settings, samples) * length
    adapters = shapes.blocks * adapter_bytes(shapes, trained, optimiser)
    held = held_bytes(trained, optimiser, stored)
    of_gradients = 4 if trained.weights == FULL else 0
    # A matrix that is computed from frozen weights, and its gradient, while it is used.
    computed = 4 * 3 * shapes.largest_matrix if trained.weights != FULL else 0
    recomputed = streamed or settings.gradient_checkpointing
    saved = shapes.saved_bytes(tokens, length) * (1 if recomputed else shapes.blocks)
    passing = 4 * tokens * shapes.hidden
    if streamed:
        # A block in use, and the next with its masks and its trained weights. Those move one at a
        # time.
        using = shapes.block_weights * (4 + 1 + 4 if trained.weights == FULL else stored)
        moving = (4 * 2 + MOMENT_BYTES[optimiser]) * shapes.largest_matrix
        coming = stored + 1 + (4 if trained.weights == FULL else 0)
        blocks = max(using, moving) + shapes.block_weights * coming
        # Hidden states and gradients of a micro-batch, those of the next, and those that are
        # written.
        between = 6 * passing
    else:
        blocks = shapes.blocks * shapes.block_weights * (held + of_gradients)
        between = passing * shapes.blocks if settings.gradient_checkpointing else 0
    head = 0
    if trained.head:
        head = shapes.vocabulary * shapes.hidden * (4 + MOMENT_BYTES[optimiser])
    # The dense model's outer part, and one to train, which passes in float32 widen.
    widened = 4 if precision_bytes(settings, stored) == 4 else stored
    outer = shapes.outer_weights * (stored + widened)
    logits = shapes.head_bytes(tokens) * (2 if settings.distils else 1)
    return (
        PROCESS_BYTES
        + BESIDE_BYTES
        + 8 * shapes.largest_matrix
        + outer
        + head
        + blocks
        + adapters
        + computed
        + between
        + max(saved, logits)
        + (0 if streamed else min(saved, logits))
    )


def precision_bytes(settings: Retraining, stored: int) -> int:
    """Return the bytes of a number in training passes."""
    return {"model": stored, "float32": 4, "bfloat16": 2}[settings.precision]


def scratch_bytes(
    shapes: Shapes, samples: int, length: int, settings: Retraining, streamed: bool
) -> int:
    """Return the bytes on disk while a retraining runs: a streamed one keeps the hidden states of a
    step between blocks, and for `full` trained weights, moments and gradients.
    """
    if not streamed:
        return 0
    tokens = min(settings.batch, samples) * length
    between = (shapes.blocks + 2) * 4 * tokens * shapes.hidden
    if settings.trained.weights != FULL:
        return between
    # Weights and moments twice, since the last saved ones stay while the next are written.
    each = 2 * (4 + MOMENT_BYTES[settings.optimiser]) + 4
    return between + each * shapes.blocks * shapes.block_weights


def decide_residency(
    shapes: Shapes, samples: int, length: int, settings: Retraining
) -> tuple[bool, str | None]:
    """Return whether a retraining is streamed, and the reason if its settings say `auto`.

    Raises:
        UserError: The settings give a memory budget, and the retraining fits into it neither way.
    """
    if settings.residency != "auto":
        return settings.residency == "streamed", None
    given = settings.memory_gb
    budget = given * 1e9 if given is not None else memory_of_machine()
    has = f"{budget / 1e9:,.1f} GB" + (" of this machine" if given is None else "")
    needs = memory_bytes(shapes, samples, length, settings)
    if needs <= budget:
        return False, f"the model fits: needs {needs / 1e9:,.1f} of {has}"
    streamed = memory_bytes(shapes, samples, length, settings, streamed=True)
    if streamed > budget and given is not None:
        raise UserError(
            "this retraining does not fit into its memory budget, not even block by block",
            where="memory_gb",
            found=f"{given:g} GB",
            expected=f"at least {math.ceil(streamed / 1e6) / 1000:.3f} GB",
            todo="raise memory_gb, or set a smaller `micro_batch` or study.calibration.length",
        )
    why = f"the model does not fit: needs {needs / 1e9:,.1f} GB, streamed {streamed / 1e9:,.1f}, "
    return True, why + f"of {has}"


def _passed_together(settings: Retraining, samples: int) -> int:
    """Return how many sequences pass through the model together."""
    return min(settings.micro_batch or settings.batch, settings.batch, samples)
