"""Cost of fetching a model, passing the dense one, choosing masks, and measuring a checkpoint, from
shapes alone.

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

from collections.abc import Mapping, Sequence
from dataclasses import replace

from freelunch.costs.cost import (
    ATTENTION,
    ELIMINATION,
    GRAM,
    HEAD,
    PASSES,
    PROCESS_BYTES,
    SWAPS,
    Cost,
    Work,
    together,
)
from freelunch.costs.shapes import Shapes
from freelunch.study.criteria import Alps, Criterion, OfUnits, OfWeights
from freelunch.study.sources import WHEEL, WHEELS
from freelunch.study.steps import BATCH_TOKENS, BOS_LENGTH, BOS_WINDOWS, HEAD_PLACES
from freelunch.study.windows import kept_boundaries

# Bytes of a weight in a GGUF file: 4 bits, and the scale of each group.
_QUANTISED = 0.6
# Seconds to dequantise and check a weight of a GGUF file, and to convert a token of its vocabulary
# with its merges: Gemma 3 270M (268 million weights, 262,144 tokens), on one thread.
_WEIGHT_S, _TOKEN_S = 35e-9, 20e-6
# ALPS: products of a matrix with one as wide as its inputs, and inverses of such. Every matrix of
# SmolLM2-135M that we tried settled after 33 or 36 iterations; 12 products begin and end them.
ALPS_PRODUCTS, ALPS_INVERSES = 46, 12
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


def passing(shapes: Shapes, tokens: int, length: int, blocks: int | None = None) -> Work:
    """Return the operations of a forward pass through blocks (all of them by default)."""
    attention = shapes.attention_flops(tokens, length, blocks)
    flops = shapes.forward_flops(tokens, length, blocks)
    return Work({PASSES: flops - attention, ATTENTION: attention})


def _pass_bytes(
    shapes: Shapes, length: int, beside: int = 0, predicted: int | None = None, models: int = 1
) -> int:
    """Return the peak memory of a process that passes sequences of this length through so many
    models, with `beside` bytes beside a block that is passed. Logits are computed for `predicted`
    tokens together; by default, those of a sequence.
    """
    block = models * shapes.block_bytes
    passed = block + shapes.passing_bytes(max(BATCH_TOKENS, length), length) + beside
    at_head = shapes.head_bytes(length if predicted is None else predicted)
    return PROCESS_BYTES + models * shapes.outer_bytes + block + max(passed, at_head)


# --- Dense models


def fetch_model(shapes: Shapes, source: str, is_gguf: bool) -> Cost:
    """Return the cost of fetching a model, and writing it again, one shard per block.

    A GGUF file is dequantised in memory, which holds it twice at the peak; safetensors are
    streamed.
    """
    model, weights = shapes.model_bytes, shapes.model_bytes // shapes.bytes_each
    other_s = _WEIGHT_S * weights + _TOKEN_S * shapes.vocabulary if is_gguf else 0.0
    if is_gguf:
        peak, obtained = int(2.5 * 4 * weights), int(_QUANTISED * weights)
        # The wheel, the file in it, and what is dequantised from it.
        scratch = (2 * obtained if source in (WHEEL, WHEELS) else 0) + 4 * weights
    else:
        peak, obtained = 2 * shapes.staged_bytes, model
        scratch = model if source == "hub" else 0
    return Cost(
        memory_bytes=PROCESS_BYTES + peak,
        host_bytes=PROCESS_BYTES + peak,
        # Its files are digested, and read again for the shards.
        read_bytes=2 * (4 * weights if is_gguf else model),
        written_bytes=scratch + model,
        downloaded_bytes=obtained if source != "path" else 0,
        disk_bytes=model,
        scratch_bytes=scratch,
        other_s=other_s,
    )


def decide_bos(shapes: Shapes, length: int) -> Cost:
    """Return the cost of measuring the dense model with and without the token `bos`."""
    cost = measure_perplexity(shapes, 2 * BOS_WINDOWS, min(BOS_LENGTH, length))
    read = cost.read_bytes + shapes.model_bytes
    return replace(cost, staged_bytes=shapes.staged_bytes, read_bytes=read, overlaps=True)


def capture_dense(shapes: Shapes, samples: int, length: int, gram: bool, keep: str) -> Cost:
    """Return the cost of the dense pass over `samples` sequences of `length` tokens, which may sum
    Gram matrices; `keep` says which hidden states stay on disk.
    """
    gram_bytes = shapes.gram_bytes if gram else 0
    kept = len(kept_boundaries(keep, shapes.blocks))
    hidden = shapes.hidden_bytes(samples * length)
    return Cost(
        capture_work(shapes, samples, length, gram),
        _pass_bytes(shapes, length, gram_bytes),
        staged_bytes=shapes.staged_bytes,
        read_bytes=shapes.model_bytes + shapes.blocks * hidden,
        written_bytes=(shapes.blocks + 1) * hidden + shapes.blocks * gram_bytes,
        disk_bytes=kept * hidden + shapes.blocks * gram_bytes,
        # Hidden states that are not kept take turns in two files.
        scratch_bytes=2 * hidden if kept <= shapes.blocks else 0,
        overlaps=True,
    )


def capture_work(shapes: Shapes, samples: int, length: int, gram: bool) -> Work:
    """Return the operations of the dense pass, which sums only the upper half of a Gram matrix."""
    tokens = samples * length
    grams = shapes.blocks * tokens * sum(width**2 for width in shapes.inputs)
    return passing(shapes, tokens, length) + Work({GRAM: grams if gram else 0})


def _passing_cost(
    shapes: Shapes,
    tokens: int,
    work: Work,
    memory: int,
    *,
    models: int = 1,
    read: int = 0,
) -> Cost:
    """Return the cost of passing tokens through so many models, which write hidden states after
    each block, and read them before the next one.
    """
    hidden = models * shapes.hidden_bytes(tokens)
    return Cost(
        work,
        memory,
        read_bytes=read + (shapes.blocks + 1) * hidden,
        written_bytes=(shapes.blocks + 1) * hidden,
        scratch_bytes=hidden,
    )


def loss_work(shapes: Shapes, sequences: int, length: int) -> Work:
    """Return the operations of passing sequences through a model and computing their loss."""
    tokens = sequences * length
    return passing(shapes, tokens, length) + Work({HEAD: shapes.head_flops(tokens)})


# --- Masks


def prune_model(shapes: Shapes, samples: int, length: int, criterion: Criterion) -> Cost:
    """Return the cost of choosing masks from `samples` calibration sequences of `length` tokens."""
    sparse, changes = criterion.statistics == "sparse", criterion.changes_parameters
    grams = shapes.gram_bytes if criterion.needs_gram else 0
    # The factors stay in memory after the factorisation; swaps come afterwards.
    factors = refining = grams if changes else 0
    if _swaps(criterion):
        # The largest matrix is refined in float64: its Gram matrix and seven arrays of its size.
        refining += max(8 * each.inputs**2 + 7 * 8 * each.weights for each in shapes.matrices)
    if isinstance(criterion, Alps):
        # Eigenvectors in float64, and what they are computed in; then, in float32, those of one
        # input, an inverse, and ten arrays of the largest matrix's size.
        widest = max(shapes.inputs) ** 2
        iterating = max(4 * 4 * each.inputs**2 + 10 * 4 * each.weights for each in shapes.matrices)
        factors, refining = 0, refining + max(5 * 8 * widest, iterating)
    leaves = shapes.masks_bytes + (shapes.blocks_bytes if changes else 0)
    hidden = shapes.hidden_bytes(samples * length) if sparse else 0
    read = shapes.model_bytes + 2 * shapes.blocks * hidden
    if sparse:
        # For its statistics, a block sees its inputs; for the next block, it is read again.
        read += shapes.blocks_bytes + shapes.masks_bytes
    else:
        read += shapes.blocks * grams
    allocates = isinstance(criterion, OfWeights) and criterion.allocation
    if allocates or (isinstance(criterion, OfUnits) and criterion.scope == "model"):
        # Scores of all blocks come before the first mask.
        read += shapes.blocks_bytes
    return Cost(
        prune_work(shapes, samples, length, criterion),
        PROCESS_BYTES
        # A block and the next one, and what changes in it.
        + (4 if changes else 2) * shapes.block_bytes
        # Weights and scores in float32, and the workspace for selecting among them.
        + 16 * shapes.largest_matrix
        + grams
        + max(4 * factors, refining)
        + (shapes.passing_bytes(max(BATCH_TOKENS, length), length) if sparse else 0),
        staged_bytes=max(shapes.staged_bytes, grams),
        read_bytes=read,
        written_bytes=leaves + shapes.blocks * hidden,
        disk_bytes=leaves,
        scratch_bytes=hidden,
    )


def prune_work(shapes: Shapes, samples: int, length: int, criterion: Criterion) -> Work:
    """Return the operations of choosing masks, without those of scores, which are a few per weight.

    An elimination factorises and inverts each Gram matrix, C^3 / 3 operations each, and updates R
    rows of C columns, R C^2. Swaps multiply a matrix of R rows by the Gram matrix twice, and search
    for the best swap of each row with about 120 operations per column (terms, bounds and eight
    tries of `freelunch.pruning.swaps`; rows that stop early take fewer). ALPS decomposes each Gram
    matrix, about 9 C^3, and multiplies each matrix by an inverse, which it makes anew, 2 C^3, every
    few iterations.
    """
    work, swaps = Work(), _swaps(criterion)
    widths = list(zip(shapes.inputs, shapes.weights, strict=True))
    if isinstance(criterion, Alps):
        inverted = sum(2 * ALPS_INVERSES * each.inputs**3 for each in shapes.matrices)
        multiplied = sum(2 * ALPS_PRODUCTS * width * weights for width, weights in widths)
        decomposed = sum(9 * width**3 for width in shapes.inputs)
        work[GRAM] = shapes.blocks * (decomposed + inverted + multiplied)
    elif criterion.needs_gram and criterion.changes_parameters:
        eliminated = (2 * width**3 // 3 + width * weights for width, weights in widths)
        work[ELIMINATION] = shapes.blocks * sum(eliminated)
    if swaps:
        swapped = ((4 * width + 120 * swaps) * weights for width, weights in widths)
        work[SWAPS] = shapes.blocks * sum(swapped)
    if criterion.statistics == "sparse":
        # Each block is passed once for its statistics, and again, pruned, for the next block.
        work += capture_work(shapes, samples, length, criterion.needs_gram)
        work += passing(shapes, samples * length, length, shapes.blocks - 1)
        # After its first batch, the pass for statistics ends before the last matrix.
        ended = max(0, samples - max(1, BATCH_TOKENS // length)) * length
        work[PASSES] -= 2 * shapes.blocks * ended * shapes.weights[-1]
    return work


def _swaps(criterion: Criterion) -> int:
    return criterion.swaps if isinstance(criterion, OfWeights) else 0


# --- Measurements


def evaluate_cell(shapes: Shapes, parts: Sequence[Cost], writes: bool) -> Cost:
    """Return the cost of assembling a checkpoint and measuring it, one measurement after another,
    given the cost of each. Its blocks are linked, or written from the dense model and the masks.
    """
    assembling = PROCESS_BYTES + (2 * shapes.block_bytes if writes else 0)
    largest = max(parts, key=lambda part: part.memory_bytes)
    measured = together(parts)
    # The checkpoint is digested, and its blocks are passed.
    read = measured.read_bytes + 2 * shapes.model_bytes
    return replace(
        measured,
        memory_bytes=max(assembling, largest.memory_bytes),
        host_bytes=largest.host_bytes,
        staged_bytes=shapes.staged_bytes,
        read_bytes=read + (shapes.blocks_bytes + shapes.masks_bytes if writes else 0),
        written_bytes=measured.written_bytes + (shapes.blocks_bytes if writes else 0),
        disk_bytes=shapes.blocks_bytes if writes else 0,
        # All measurements have hidden states of their own at once.
        scratch_bytes=sum(part.scratch_bytes for part in parts),
        overlaps=True,
    )


def measure_perplexity(shapes: Shapes, windows: int, length: int) -> Cost:
    """Return the cost of measuring perplexity on windows of a text."""
    work = loss_work(shapes, windows, length)
    return _passing_cost(shapes, windows * length, work, _pass_bytes(shapes, length))


def measure_drift(shapes: Shapes, sequences: int, length: int) -> Cost:
    """Return the cost of measuring drift: two passes of a checkpoint and one of the dense model,
    each of which holds all outputs of a block.
    """
    # Each matrix's output in two passes at once, and float32 copies of the largest.
    outputs = shapes.bytes_each * 2 * shapes.output_width + 4 * 3 * shapes.intermediate
    memory = _pass_bytes(shapes, length, max(BATCH_TOKENS, length) * outputs, models=2)
    # The checkpoint's hidden states and the dense model's.
    return _passing_cost(
        *(shapes, sequences * length, drift_work(shapes, sequences, length), memory),
        models=2,
        read=shapes.model_bytes,
    )


def drift_work(shapes: Shapes, sequences: int, length: int) -> Work:
    """Return the operations of measuring drift, and of computing the loss of both models."""
    tokens = sequences * length
    return passing(shapes, 3 * tokens, length) + Work({HEAD: 2 * shapes.head_flops(tokens)})


def ask_tasks(shapes: Shapes, documents: Mapping[str, int]) -> Cost:
    """Return the cost of evaluating zero-shot tasks, by the number of documents of each."""
    work, passed, longest = Work(), 0, 0
    for task, count in documents.items():
        tokens, predicted = DOCUMENT_TOKENS.get(task, OTHER_TOKENS)
        work += task_work(shapes, count * tokens, count, count * predicted)
        passed += count * tokens
        longest = max(longest, tokens)
    memory = HARNESS_BYTES + _pass_bytes(shapes, longest, predicted=HEAD_PLACES)
    cost = _passing_cost(shapes, passed, work, memory)
    return replace(cost, host_bytes=PROCESS_BYTES + HARNESS_BYTES)


def task_work(shapes: Shapes, tokens: int, sequences: int, predicted: int) -> Work:
    """Return the operations of passing packed sequences and predicting some of their tokens."""
    # An explicit mask saves no half.
    length = (1 if shapes.family.scores else 2) * tokens // max(1, sequences)
    return passing(shapes, tokens, length) + Work({HEAD: shapes.head_flops(predicted)})
