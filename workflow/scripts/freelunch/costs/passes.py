"""Cost of a step, from shapes alone: floating-point operations, memory, disk.

Memory is that of a job on a CPU. Weights that are only memory-mapped and hardly touched do not
count. While a block is passed, the next one is read, so that two blocks are in memory; at the head,
the last block is.

The plan before a run and the record after it use the same formulas. A multiplication and an
addition count as two operations. With T tokens, P weights in a block's linear layers, hidden size d
and sequence length S, a block's forward pass takes 2 T P + 2 T S d (attention is causal, so half of
each of its two products counts), and its backward pass takes twice that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from freelunch.costs.shapes import Shapes
from freelunch.study.batching import BATCH_TOKENS, HEAD_PLACES
from freelunch.study.boundaries import ALL, kept_boundaries
from freelunch.study.criteria import Criterion, OfWeights

# Resident memory before any weight: Python, torch, transformers, modules (measured, CPU build).
PROCESS_BYTES = 385_000_000
# Resident memory that lm-eval and datasets add (measured).
HARNESS_BYTES = 250_000_000
# Tokens per document of a zero-shot task: those passed (shared ones once, with padding), and those
# predicted (measured on 200 documents of each task with the tokenizer of SmolLM2).
DOCUMENT_TOKENS = {
    "arc_challenge": (60, 23),
    "arc_easy": (46, 17),
    "boolq": (157, 2),
    "hellaswag": (171, 118),
    "openbookqa": (30, 14),
    "rte": (88, 2),
    "winogrande": (31, 11),
}
# For any other task: the average.
OTHER_TOKENS = (83, 27)


@dataclass(frozen=True)
class Cost:
    """Predicted cost of one job.

    Attributes:
        flops: Floating-point operations.
        memory_bytes: Peak resident memory, in bytes.
        disk_bytes: Bytes that the job leaves on disk.
    """

    flops: int = 0
    memory_bytes: int = PROCESS_BYTES
    disk_bytes: int = 0


def fetch_model(shapes: Shapes, is_gguf: bool) -> Cost:
    """Return the cost of fetching a model.

    A GGUF file is dequantised in memory, which holds it twice at the peak; safetensors are
    streamed.
    """
    held = (
        2.5 * 4 / shapes.bytes_each * shapes.model_bytes
        if is_gguf
        else (2 * max(shapes.outer_bytes, shapes.block_bytes))
    )
    return Cost(0, PROCESS_BYTES + int(held), shapes.model_bytes)


def capture_dense(shapes: Shapes, samples: int, length: int, gram: bool, keep: str) -> Cost:
    tokens = samples * length
    gram_bytes = shapes.gram_bytes if gram else 0
    kept = len(kept_boundaries(keep, shapes.blocks))
    return Cost(
        capture_flops(shapes, samples, length, gram),
        PROCESS_BYTES
        + shapes.outer_bytes
        + shapes.block_bytes
        + max(
            shapes.block_bytes
            + gram_bytes
            + shapes.passing_bytes(max(BATCH_TOKENS, length), length),
            shapes.head_bytes(length),
        ),
        kept * shapes.hidden_bytes(tokens) + shapes.blocks * gram_bytes,
    )


def capture_flops(shapes: Shapes, samples: int, length: int, gram: bool) -> int:
    """Return the operations of the dense pass, which sums only the upper half of a Gram matrix."""
    tokens = samples * length
    grams = shapes.blocks * tokens * sum(width**2 for width in shapes.inputs)
    return shapes.forward_flops(tokens, length) + (grams if gram else 0)


def prune_model(
    shapes: Shapes,
    samples: int,
    length: int,
    criterion: Criterion,
) -> Cost:
    """Return the cost of choosing masks.

    Args:
        shapes: Sizes of the model.
        samples: Number of calibration sequences.
        length: Tokens in a sequence.
        criterion: Settings of the criterion.
    """
    sparse = criterion.statistics == "sparse"
    gram, changes = criterion.needs_gram, criterion.changes_parameters
    passing = shapes.passing_bytes(max(BATCH_TOKENS, length), length)
    # The factors stay in memory after the factorisation; swaps come afterwards.
    factors = shapes.gram_bytes if gram and changes else 0
    swapping = factors + (_swaps_bytes(shapes) if _swaps(criterion) else 0)
    return Cost(
        prune_flops(shapes, samples, length, criterion),
        PROCESS_BYTES
        # A block and the next one, and what changes in it.
        + (4 if changes else 2) * shapes.block_bytes
        # Weights and scores in float32, and the workspace for selecting among them.
        + 16 * shapes.largest_matrix
        + (shapes.gram_bytes if gram else 0)
        + max(4 * factors, swapping)
        + (passing if sparse else 0),
        shapes.blocks * (shapes.block_weights // 8 + (shapes.block_bytes if changes else 0)),
    )


def prune_flops(
    shapes: Shapes,
    samples: int,
    length: int,
    criterion: Criterion,
) -> int:
    """Return the operations of choosing masks, without those of scores, which are a few per weight.

    An elimination factorises and inverts each Gram matrix, C^3 / 3 operations each, and updates R
    rows of C columns, R C^2. Swaps multiply a matrix of R rows by the Gram matrix twice, and search
    for the best swap of each row with about 120 operations per column (terms, bounds and eight
    tries of `freelunch.pruning.swaps`; rows that stop early take fewer).
    """
    flops = 0
    if criterion.needs_gram and criterion.changes_parameters:
        factors = sum(2 * width**3 // 3 for width in shapes.inputs)
        updates = zip(shapes.inputs, shapes.weights, strict=True)
        flops += shapes.blocks * (factors + sum(width * weights for width, weights in updates))
    if swaps := _swaps(criterion):
        products = zip(shapes.inputs, shapes.weights, strict=True)
        each = sum((4 * width + 120 * swaps) * weights for width, weights in products)
        flops += shapes.blocks * each
    if criterion.statistics == "sparse":
        # Each block is passed once for its statistics, and again, pruned, for the next block.
        flops += capture_flops(shapes, samples, length, criterion.needs_gram)
        flops += shapes.forward_flops(samples * length, length, shapes.blocks - 1)
    return flops


def _swaps(criterion: Criterion) -> int:
    return criterion.swaps if isinstance(criterion, OfWeights) else 0


def _swaps_bytes(shapes: Shapes) -> int:
    """Return the bytes for refining the largest matrix, in float64: its Gram matrix and seven
    arrays of its own size.
    """
    outputs = (shapes.attention, shapes.hidden, shapes.intermediate, shapes.hidden)
    return max(
        8 * width**2 + 7 * 8 * width * rows
        for width, rows in zip(shapes.inputs, outputs, strict=True)
    )


def evaluate_cell(shapes: Shapes, parts: Sequence[Cost], writes: bool) -> Cost:
    """Return the cost of assembling a checkpoint and measuring it, one measurement after another.

    Args:
        shapes: Sizes of the model.
        parts: Cost of each measurement on its own.
        writes: Whether the checkpoint's blocks are written rather than linked.
    """
    assembling = PROCESS_BYTES + (2 * shapes.block_bytes if writes else 0)
    return Cost(
        sum(part.flops for part in parts),
        max(assembling, *(part.memory_bytes for part in parts)),
        shapes.blocks * shapes.block_bytes if writes else 0,
    )


def measure_perplexity(shapes: Shapes, windows: int, length: int) -> Cost:
    return Cost(
        reference_flops(shapes, windows, length),
        PROCESS_BYTES
        + shapes.outer_bytes
        + shapes.block_bytes
        + max(
            shapes.block_bytes + shapes.passing_bytes(max(BATCH_TOKENS, length), length),
            shapes.head_bytes(length),
        ),
        0,
    )


def capture_reference(shapes: Shapes, sequences: int, length: int, keep: str) -> Cost:
    """Return the cost of a pass of the dense model that keeps all its outputs, or none."""
    tokens, held = sequences * length, max(BATCH_TOKENS, length)
    # Outputs of each matrix and of the block, all of them again side by side, and those of the
    # batch before, which are written.
    widths = shapes.output_width + shapes.hidden
    outputs = (3 if keep == ALL else 2) * held * shapes.bytes_each * widths
    kept = tokens * shapes.bytes_each * (shapes.hidden + shapes.blocks * widths)
    return Cost(
        reference_flops(shapes, sequences, length),
        PROCESS_BYTES
        + shapes.outer_bytes
        + shapes.block_bytes
        + max(
            shapes.block_bytes + shapes.passing_bytes(held, length) + outputs,
            shapes.head_bytes(length),
        ),
        kept if keep == ALL else 0,
    )


def reference_flops(shapes: Shapes, sequences: int, length: int) -> int:
    """Return the operations of passing sequences through a model and computing their loss."""
    tokens = sequences * length
    return shapes.forward_flops(tokens, length) + shapes.head_flops(tokens)


def measure_drift(shapes: Shapes, sequences: int, length: int, keep: str) -> Cost:
    """Return the cost of measuring drift: two passes of a checkpoint that hold all outputs of a
    block beside the dense model's outputs. If these are not kept, the dense model passes again.
    """
    held, passes = max(BATCH_TOKENS, length), keep != ALL
    # Each matrix's output in two passes, those of the dense model that are read meanwhile, and
    # float32 copies of the largest.
    widths = (2 if passes else 3) * shapes.output_width
    outputs = shapes.bytes_each * widths + 4 * 3 * shapes.intermediate
    models = 1 + passes
    return Cost(
        drift_flops(shapes, sequences, length, shapes.blocks if passes else 0),
        PROCESS_BYTES
        + models * (shapes.outer_bytes + shapes.block_bytes)
        + max(
            models * shapes.block_bytes + shapes.passing_bytes(held, length) + held * outputs,
            shapes.head_bytes(length),
        ),
        0,
    )


def drift_flops(shapes: Shapes, sequences: int, length: int, dense_blocks: int) -> int:
    """Return the operations of measuring drift, with those of `dense_blocks` dense blocks."""
    tokens = sequences * length
    checkpoint = 2 * shapes.forward_flops(tokens, length) + shapes.head_flops(tokens)
    return checkpoint + shapes.forward_flops(tokens, length, dense_blocks)


def ask_tasks(shapes: Shapes, documents: Mapping[str, int]) -> Cost:
    """Return the cost of evaluating zero-shot tasks, by the number of documents of each."""
    flops = length = 0
    for task, count in documents.items():
        tokens, predicted = DOCUMENT_TOKENS.get(task, OTHER_TOKENS)
        length = max(length, tokens)
        flops += task_flops(shapes, count * tokens, count, count * predicted)
    return Cost(
        flops,
        PROCESS_BYTES
        + HARNESS_BYTES
        + shapes.outer_bytes
        + shapes.block_bytes
        + max(
            shapes.block_bytes + shapes.passing_bytes(BATCH_TOKENS, length),
            shapes.head_bytes(HEAD_PLACES),
        ),
        0,
    )


def task_flops(shapes: Shapes, tokens: int, sequences: int, predicted: int) -> int:
    """Return the operations of passing packed sequences and predicting some of their tokens."""
    # An explicit mask saves no half.
    length = (1 if shapes.all_scores else 2) * tokens // max(1, sequences)
    return shapes.forward_flops(tokens, length) + shapes.head_flops(predicted)
