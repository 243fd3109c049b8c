"""Cost of retraining a whole model, from shapes alone.

With T tokens, P weights in the linear layers of all blocks, V weights in the head, hidden size d,
sequence length S and L blocks, the forward pass of an epoch takes 2 T (P + V) + 2 T S d L. In the
backward pass, the gradients of activations take 2 T (P + V) + 4 T S d L. The gradients of matrices
take another 2 T per weight if a matrix is trained itself or through factors that multiply it.
Branches beside frozen matrices (rank r, R outputs, C inputs) take 6 T r (R + C) instead.

Element-wise work is left out: norms, activations, softmax, masks, the optimiser. Attention is
causal. Its backward pass counts as two forward passes, although kernels recompute some of it.
"""

from freelunch.costs.adapters import (
    MOMENT_BYTES,
    adapter_bytes,
    adapter_flops,
    branch_flops,
    head_branch_flops,
    held_bytes,
    input_branch_flops,
    last_branch_flops,
    trained_weights,
)
from freelunch.costs.passes import PROCESS_BYTES, Cost
from freelunch.costs.reconstruction import BESIDE_BYTES
from freelunch.costs.shapes import Shapes
from freelunch.study.adaptations import Retraining
from freelunch.study.batching import CHECK_SEQUENCES
from freelunch.study.boundaries import ALL, NONE
from freelunch.study.methods import FULL


def retrain(
    shapes: Shapes, samples: int, length: int, settings: Retraining, keep: str = ALL
) -> Cost:
    """Return the cost of retraining a model.

    Args:
        shapes: Sizes of the model.
        samples: Number of sequences.
        length: Tokens in a sequence.
        settings: Settings of the retraining.
        keep: Hidden states of the dense model that are on disk; a distillation recomputes those
            that it lacks.
    """
    # If any hidden states are kept, those after the last block are.
    remade = shapes.blocks if settings.distils and keep == NONE else 0
    return Cost(
        retraining_flops(shapes, samples, length, settings)
        + shapes.forward_flops(samples * length, length, remade),
        memory_bytes(shapes, samples, length, settings),
        shapes.blocks * shapes.block_bytes,
    )


def retraining_flops(shapes: Shapes, samples: int, length: int, settings: Retraining) -> int:
    """Return the operations of a retraining, including the losses before and after it."""
    trained, tokens = settings.trained, samples * length
    blocks, head = shapes.forward_flops(tokens, length), shapes.head_flops(tokens)
    attention = 2 * tokens * length * shapes.hidden * shapes.blocks
    weights = 2 * tokens * trained_weights(shapes, trained) * shapes.blocks
    teacher = head if settings.distils else 0
    branch = branch_flops(shapes, tokens, trained) * shapes.blocks
    branch += head_branch_flops(shapes, tokens, trained)
    forward = blocks + head + teacher
    through = blocks + attention + head + 2 * branch
    if not trained.norms:
        # Nothing is trained before the first linear layers.
        through -= 2 * tokens * shapes.weights[0] + input_branch_flops(shapes, tokens, trained, [0])
    epoch = forward + branch + through
    if trained.needs_weight_gradient:
        epoch += weights + (head if trained.head else 0)
    if settings.gradient_checkpointing:
        # No gradient needs a block's last product, so it is not recomputed.
        of_block = branch_flops(shapes, tokens, trained)
        last = last_branch_flops(shapes, tokens, trained) or 2 * tokens * shapes.weights[-1]
        epoch += blocks + (of_block - last) * shapes.blocks
    whole, rest = divmod(samples, settings.batch)
    together = _passed_together(settings, samples)
    steps = settings.passes * (whole + (rest > 0))
    passes = settings.passes * (whole * -(-settings.batch // together) - (-rest // together))
    # The loss before is measured without branches.
    checked = min(CHECK_SEQUENCES, samples) / samples * (2 * forward + branch)
    return int(
        settings.passes * epoch
        + checked
        + adapter_flops(shapes, trained, shapes.blocks, steps, passes)
    )


def memory_bytes(shapes: Shapes, samples: int, length: int, settings: Retraining) -> int:
    """Return the peak memory, in bytes, of a retraining, which holds the whole model."""
    trained, optimiser = settings.trained, settings.optimiser
    weights, passed = shapes.blocks * shapes.block_weights, _passed_together(settings, samples)
    each = held_bytes(trained, optimiser)
    if not trained.needs_weight_gradient and settings.precision != "float32":
        # Frozen matrices keep the dtype in which they are stored.
        each += shapes.bytes_each - 4
    held = weights * each + shapes.blocks * adapter_bytes(shapes, trained, optimiser)
    if trained.weights == FULL:
        # All gradients, until they are clipped.
        held += 4 * weights
    elif trained.needs_weight_gradient:
        held += 4 * shapes.largest_matrix
    if trained.head:
        held += shapes.vocabulary * shapes.hidden * (4 + MOMENT_BYTES[optimiser])
    tokens = passed * length
    if settings.gradient_checkpointing:
        saved = shapes.saved_bytes(tokens) + 4 * tokens * shapes.hidden * shapes.blocks
    else:
        saved = shapes.blocks * shapes.saved_bytes(tokens)
    logits = shapes.head_bytes(tokens) * (2 if settings.distils else 1)
    return (
        PROCESS_BYTES
        + BESIDE_BYTES
        + 8 * shapes.largest_matrix
        # One copy to train, one to compare with.
        + 2 * shapes.outer_bytes
        + held
        + saved
        + logits
    )


def _passed_together(settings: Retraining, samples: int) -> int:
    """Return how many sequences pass through the model together."""
    return min(settings.micro_batch or settings.batch, settings.batch, samples)
