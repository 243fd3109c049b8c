"""Cost of assembling a checkpoint and measuring it, from shapes alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from freelunch.costs.passes import passing, reference_work, staged_bytes
from freelunch.costs.shapes import Shapes
from freelunch.costs.work import OVERLAPPING, PASSES, PROCESS_BYTES, Cost, Work, together
from freelunch.study.steps import BATCH_TOKENS, EVALUATE_CELL, HEAD_PLACES
from freelunch.study.windows import KEEP_ALL

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


def evaluate_cell(shapes: Shapes, parts: Sequence[Cost], writes: bool) -> Cost:
    """Return the cost of assembling a checkpoint and measuring it, one measurement after another.

    Args:
        shapes: Sizes of the model.
        parts: Cost of each measurement on its own.
        writes: Whether the checkpoint's blocks are written rather than linked.
    """
    assembling = PROCESS_BYTES + (2 * shapes.block_bytes if writes else 0)
    largest = max(parts, key=lambda part: part.memory_bytes)
    written = shapes.blocks_bytes if writes else 0
    measured = together(parts)
    return replace(
        measured,
        memory_bytes=max(assembling, largest.memory_bytes),
        host_bytes=largest.host_bytes,
        staged_bytes=staged_bytes(shapes),
        # The checkpoint is digested, and its blocks are passed. Blocks that are written come from
        # the dense model and the masks.
        read_bytes=measured.read_bytes
        + 2 * shapes.model_bytes
        + (shapes.blocks_bytes + shapes.masks_bytes if writes else 0),
        written_bytes=measured.written_bytes + written,
        disk_bytes=written,
        # All measurements have hidden states of their own at once.
        scratch_bytes=sum(part.scratch_bytes for part in parts),
        overlaps=EVALUATE_CELL in OVERLAPPING,
    )


def measure_perplexity(shapes: Shapes, windows: int, length: int) -> Cost:
    hidden = shapes.hidden_bytes(windows * length)
    return Cost(
        reference_work(shapes, windows, length),
        PROCESS_BYTES
        + shapes.outer_bytes
        + shapes.block_bytes
        + max(
            shapes.block_bytes + shapes.passing_bytes(max(BATCH_TOKENS, length), length),
            shapes.head_bytes(length),
        ),
        read_bytes=(shapes.blocks + 1) * hidden,
        written_bytes=(shapes.blocks + 1) * hidden,
        scratch_bytes=hidden,
    )


def measure_drift(shapes: Shapes, sequences: int, length: int, keep: str) -> Cost:
    """Return the cost of measuring drift: two passes of a checkpoint that hold all outputs of a
    block beside the dense model's outputs. If these are not kept, the dense model passes again.
    """
    tokens, held, passes = sequences * length, max(BATCH_TOKENS, length), keep != KEEP_ALL
    hidden = shapes.hidden_bytes(tokens)
    # Each matrix's output in two passes, those of the dense model that are read meanwhile, and
    # float32 copies of the largest.
    widths = (2 if passes else 3) * shapes.output_width
    outputs = shapes.bytes_each * widths + 4 * 3 * shapes.intermediate
    models = 1 + passes
    kept = tokens * shapes.bytes_each * shapes.blocks * (shapes.output_width + shapes.hidden)
    return Cost(
        drift_work(shapes, sequences, length, shapes.blocks if passes else 0),
        PROCESS_BYTES
        + models * (shapes.outer_bytes + shapes.block_bytes)
        + max(
            models * shapes.block_bytes + shapes.passing_bytes(held, length) + held * outputs,
            shapes.head_bytes(length),
        ),
        # The checkpoint's hidden states and the dense model's, and what the dense model gives.
        read_bytes=2 * (shapes.blocks + 1) * hidden + (shapes.model_bytes if passes else kept),
        written_bytes=2 * (shapes.blocks + 1) * hidden,
        scratch_bytes=2 * hidden,
    )


def drift_work(shapes: Shapes, sequences: int, length: int, dense_blocks: int) -> Work:
    """Return the operations of measuring drift, with those of `dense_blocks` dense blocks."""
    tokens = sequences * length
    return (
        passing(shapes, 2 * tokens, length)
        + passing(shapes, tokens, length, dense_blocks)
        + Work({PASSES: shapes.head_flops(tokens)})
    )


def ask_tasks(shapes: Shapes, documents: Mapping[str, int]) -> Cost:
    """Return the cost of evaluating zero-shot tasks, by the number of documents of each."""
    work, passed, length = Work(), 0, 0
    for task, count in documents.items():
        tokens, predicted = DOCUMENT_TOKENS.get(task, OTHER_TOKENS)
        work += task_work(shapes, count * tokens, count, count * predicted)
        passed += count * tokens
        length = max(length, tokens)
    hidden = shapes.hidden_bytes(passed)
    return Cost(
        work,
        PROCESS_BYTES
        + HARNESS_BYTES
        + shapes.outer_bytes
        + shapes.block_bytes
        + max(
            shapes.block_bytes + shapes.passing_bytes(BATCH_TOKENS, length),
            shapes.head_bytes(HEAD_PLACES),
        ),
        host_bytes=PROCESS_BYTES + HARNESS_BYTES,
        read_bytes=(shapes.blocks + 1) * hidden,
        written_bytes=(shapes.blocks + 1) * hidden,
        scratch_bytes=hidden,
    )


def task_work(shapes: Shapes, tokens: int, sequences: int, predicted: int) -> Work:
    """Return the operations of passing packed sequences and predicting some of their tokens."""
    # An explicit mask saves no half.
    length = (1 if shapes.scores else 2) * tokens // max(1, sequences)
    return passing(shapes, tokens, length) + Work({PASSES: shapes.head_flops(predicted)})
