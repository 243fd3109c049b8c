"""Cost of fetching a model and of passing the dense one, from shapes alone.

Memory is that of a job on a CPU. The outer part, which is memory-mapped, does not count where it is
hardly touched. While a block is passed, the next one is read, so that two blocks are in memory; at
the head, the last block is. Bytes read and written are those of weights, masks, hidden states,
outputs and Gram matrices; a file that was just written is digested from the page cache, which does
not count.

The plan before a run and the record after it use the same formulas. A multiplication and an
addition count as two operations. With T tokens, P weights in a block's linear layers, heads of
width d together and sequence length S, a block's forward pass takes 2 T P + 2 T S d (attention is
causal, so half of each of its two products counts), and its backward pass takes twice that.
"""

from freelunch.costs.shapes import Shapes
from freelunch.costs.work import ATTENTION, GRAM, OVERLAPPING, PASSES, PROCESS_BYTES, Cost, Work
from freelunch.study.steps import BATCH_TOKENS, CAPTURE_DENSE, CAPTURE_REFERENCE
from freelunch.study.windows import KEEP_ALL, kept_boundaries

# Bytes of a weight in a GGUF file: 4 bits, and the scale of each group.
_QUANTISED = 0.6


def passing(shapes: Shapes, tokens: int, length: int, blocks: int | None = None) -> Work:
    """Return the operations of a forward pass through blocks (all of them by default)."""
    attention = shapes.attention_flops(tokens, length, blocks)
    flops = shapes.forward_flops(tokens, length, blocks)
    return Work({PASSES: flops - attention, ATTENTION: attention})


def staged_bytes(shapes: Shapes) -> int:
    """Return what passes through the host's memory on its way to a device: the outer part as a
    whole, and later block after block.
    """
    return max(shapes.outer_bytes, shapes.block_bytes)


def fetch_model(shapes: Shapes, source: str, is_gguf: bool) -> Cost:
    """Return the cost of fetching a model, and writing it again, one shard per block.

    A GGUF file is dequantised in memory, which holds it twice at the peak; safetensors are
    streamed.
    """
    model, weights = shapes.model_bytes, shapes.model_bytes // shapes.bytes_each
    if is_gguf:
        held, obtained = int(2.5 * 4 * weights), int(_QUANTISED * weights)
        # The wheel, the file in it, and what is dequantised from it.
        scratch = (2 * obtained if source == "wheel" else 0) + 4 * weights
    else:
        held, obtained = 2 * max(shapes.outer_bytes, shapes.block_bytes), model
        scratch = model if source == "hub" else 0
    memory = PROCESS_BYTES + held
    return Cost(
        memory_bytes=memory,
        host_bytes=memory,
        # Its files are digested, and read again for the shards.
        read_bytes=2 * (4 * weights if is_gguf else model),
        written_bytes=scratch + model,
        downloaded_bytes=obtained if source != "path" else 0,
        disk_bytes=model,
        scratch_bytes=scratch,
    )


def capture_dense(shapes: Shapes, samples: int, length: int, gram: bool, keep: str) -> Cost:
    tokens = samples * length
    gram_bytes = shapes.gram_bytes if gram else 0
    kept = len(kept_boundaries(keep, shapes.blocks))
    hidden = shapes.hidden_bytes(tokens)
    return Cost(
        capture_work(shapes, samples, length, gram),
        PROCESS_BYTES
        + shapes.outer_bytes
        + shapes.block_bytes
        + max(
            shapes.block_bytes
            + gram_bytes
            + shapes.passing_bytes(max(BATCH_TOKENS, length), length),
            shapes.head_bytes(length),
        ),
        staged_bytes=staged_bytes(shapes),
        read_bytes=shapes.model_bytes + shapes.blocks * hidden,
        written_bytes=(shapes.blocks + 1) * hidden + shapes.blocks * gram_bytes,
        disk_bytes=kept * hidden + shapes.blocks * gram_bytes,
        # Hidden states that are not kept take turns in two files.
        scratch_bytes=2 * hidden if kept <= shapes.blocks else 0,
        overlaps=CAPTURE_DENSE in OVERLAPPING,
    )


def capture_work(shapes: Shapes, samples: int, length: int, gram: bool) -> Work:
    """Return the operations of the dense pass, which sums only the upper half of a Gram matrix."""
    tokens = samples * length
    grams = shapes.blocks * tokens * sum(width**2 for width in shapes.inputs)
    return passing(shapes, tokens, length) + Work({GRAM: grams if gram else 0})


def capture_reference(shapes: Shapes, sequences: int, length: int, keep: str) -> Cost:
    """Return the cost of a pass of the dense model that keeps all its outputs, or none."""
    tokens, held = sequences * length, max(BATCH_TOKENS, length)
    hidden = shapes.hidden_bytes(tokens)
    # Outputs of each matrix and of the block, all of them again side by side, and those of the
    # batch before, which are written.
    widths = shapes.output_width + shapes.hidden
    outputs = (3 if keep == KEEP_ALL else 2) * held * shapes.bytes_each * widths
    kept = hidden + tokens * shapes.bytes_each * shapes.blocks * widths if keep == KEEP_ALL else 0
    return Cost(
        reference_work(shapes, sequences, length),
        PROCESS_BYTES
        + shapes.outer_bytes
        + shapes.block_bytes
        + max(
            shapes.block_bytes + shapes.passing_bytes(held, length) + outputs,
            shapes.head_bytes(length),
        ),
        staged_bytes=staged_bytes(shapes),
        read_bytes=shapes.model_bytes + (shapes.blocks + 1) * hidden,
        written_bytes=(shapes.blocks + 1) * hidden + kept,
        disk_bytes=kept,
        scratch_bytes=hidden,
        overlaps=CAPTURE_REFERENCE in OVERLAPPING,
    )


def reference_work(shapes: Shapes, sequences: int, length: int) -> Work:
    """Return the operations of passing sequences through a model and computing their loss."""
    tokens = sequences * length
    return passing(shapes, tokens, length) + Work({PASSES: shapes.head_flops(tokens)})
