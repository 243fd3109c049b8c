"""What a step costs, from shapes alone: floating-point operations, memory, disk.

One formula each, for the plan before a run and for the record after it. Operations count a
multiplication and an addition as two. With T tokens, P weights of a block's linear layers, d hidden
size and S sequence length, a block's forward is 2 T P + 2 T S d (attention is causal, so half of
each of its two products counts), and its backward twice that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Families whose head is the embedding where their config.json says nothing of it.
_TIED = ("gemma", "gemma2", "gemma3_text", "opt")
# Resident before any tensor: Python, torch and transformers (measured, CPU build).
PROCESS_BYTES = 450_000_000
# Tokens in a batch of a forward pass: enough to keep the matrix multiplications busy, few enough
# that an MLP's activations stay small beside its weights.
BATCH_TOKENS = 2048
# Sequences on which something is checked beside the work itself (the dense model's perplexity, a
# window before and after its reconstruction): a quarter of the default sample, so it costs little.
CHECK_SEQUENCES = 8


@dataclass(frozen=True)
class Shapes:
    """Sizes of a decoder-only model.

    Attributes:
        model_type: The family, as transformers calls it.
        blocks: Number of decoder blocks.
        hidden: d.
        attention: Width of the attention's output, before its projection.
        intermediate: Width of the MLP.
        heads: Query heads.
        key_heads: Key (and value) heads.
        weights: Of a block's linear layers, those behind each of `inputs`.
        outer_weights: Embeddings and head.
        vocabulary: Rows of the embedding.
        bytes_each: Of a stored weight.
    """

    model_type: str
    blocks: int
    hidden: int
    attention: int
    intermediate: int
    heads: int
    key_heads: int
    weights: tuple[int, ...]
    outer_weights: int
    vocabulary: int
    bytes_each: int

    @classmethod
    def of(cls, config: Mapping[str, Any], dtype: str) -> "Shapes":
        """Read the sizes from a transformers config (or an excerpt with the same keys)."""
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        head = config.get("head_dim") or hidden // heads
        key_heads = config.get("num_key_value_heads") or heads
        keys = key_heads * head
        # OPT calls its width ffn_dim and has two matrices in its MLP; gated ones have three.
        opt = config.get("model_type") == "opt"
        width = config.get("intermediate_size") or config["ffn_dim"]
        embedding = config["vocab_size"] * hidden
        tied = config.get("tie_word_embeddings", config.get("model_type") in _TIED)
        return cls(
            model_type=config.get("model_type", ""),
            blocks=config["num_hidden_layers"],
            hidden=hidden,
            attention=heads * head,
            intermediate=width,
            heads=heads,
            key_heads=key_heads,
            weights=(
                hidden * (heads * head + 2 * keys),
                heads * head * hidden,
                hidden * width * (1 if opt else 2),
                width * hidden,
            ),
            outer_weights=embedding * (1 if tied else 2),
            vocabulary=config["vocab_size"],
            bytes_each=DTYPE_BYTES[dtype],
        )

    @property
    def block_weights(self) -> int:
        """Return P, the weights of a block's linear layers."""
        return sum(self.weights)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Return the widths of a block's distinct linear inputs: q, k, v share one, gate and up."""
        return (self.hidden, self.attention, self.hidden, self.intermediate)

    @property
    def gram_bytes(self) -> int:
        """Return the size of the Gram matrices of one block."""
        return 4 * sum(width**2 for width in self.inputs)

    @property
    def model_bytes(self) -> int:
        return (self.blocks * self.block_weights + self.outer_weights) * self.bytes_each

    @property
    def block_bytes(self) -> int:
        return self.block_weights * self.bytes_each

    @property
    def outer_bytes(self) -> int:
        return self.outer_weights * self.bytes_each

    def hidden_bytes(self, tokens: int) -> int:
        """Return the size of the hidden states of so many tokens at one boundary."""
        return tokens * self.hidden * self.bytes_each

    def forward_flops(self, tokens: int, length: int, blocks: int | None = None) -> int:
        """Return the operations of a forward pass through blocks (all of them by default)."""
        each = 2 * tokens * self.block_weights + 2 * tokens * length * self.hidden
        return each * (self.blocks if blocks is None else blocks)

    def head_flops(self, tokens: int) -> int:
        """Return the operations of the language-model head."""
        return 2 * tokens * self.vocabulary * self.hidden

    def activation_bytes(self, tokens: int) -> int:
        """Return what one block keeps of a batch for its backward pass, roughly.

        Inputs of the linear layers and of what lies between them: about 12 of width d and 5 of the
        MLP's width (measured on Llama blocks, float32).
        """
        return 4 * tokens * (12 * self.hidden + 5 * self.intermediate)


@dataclass(frozen=True)
class Cost:
    """Predicted cost of one job.

    Attributes:
        flops: Floating-point operations.
        memory_bytes: Peak resident memory.
        disk_bytes: What it leaves on disk.
    """

    flops: int = 0
    memory_bytes: int = PROCESS_BYTES
    disk_bytes: int = 0


def fetch_model(shapes: Shapes, source: str) -> Cost:
    """A GGUF file is dequantised in memory, twice over at its peak; anything else is streamed."""
    held = (
        2.5 * 4 / shapes.bytes_each * shapes.model_bytes
        if source == "wheel"
        else (2 * max(shapes.outer_bytes, shapes.block_bytes))
    )
    return Cost(0, PROCESS_BYTES + int(held), shapes.model_bytes)


def capture_dense(shapes: Shapes, samples: int, length: int, gram: bool) -> Cost:
    tokens = samples * length
    gram_bytes = shapes.gram_bytes if gram else 0
    return Cost(
        capture_flops(shapes, samples, length, gram),
        PROCESS_BYTES
        + shapes.outer_bytes
        + 2 * shapes.block_bytes
        # The sums, and the largest of them mirrored while it is written.
        + 3 * gram_bytes
        + shapes.activation_bytes(max(BATCH_TOKENS, length)) // 2
        # Mapped files: pages the system may drop, but counted as resident while they are touched.
        + 2 * shapes.hidden_bytes(tokens),
        (shapes.blocks + 1) * shapes.hidden_bytes(tokens) + shapes.blocks * gram_bytes,
    )


def capture_flops(shapes: Shapes, samples: int, length: int, gram: bool) -> int:
    """Return the operations of the dense pass; of a Gram matrix only the upper half is summed."""
    tokens = samples * length
    grams = shapes.blocks * tokens * sum(width**2 for width in shapes.inputs)
    return shapes.forward_flops(tokens, length) + (grams if gram else 0)


def prune_model(
    shapes: Shapes,
    samples: int,
    length: int,
    criterion: Mapping[str, Any],
    gram: bool,
    changes: bool,
) -> Cost:
    """Cost of choosing masks.

    Args:
        shapes: Of the model.
        samples: Calibration sequences.
        length: Tokens in each.
        criterion: An entry of `criteria`.
        gram: Whether the criterion uses Gram matrices.
        changes: Whether parameters that stay change as well, and are written.
    """
    sparse = criterion["statistics"] == "sparse"
    passing = shapes.activation_bytes(max(BATCH_TOKENS, length)) // 2
    passing += 2 * shapes.hidden_bytes(samples * length)
    # Of the factorisation the factors stay; a refinement comes after it.
    factors = shapes.gram_bytes if gram and changes else 0
    swapping = factors + (_swaps_bytes(shapes) if criterion.get("swaps") else 0)
    return Cost(
        prune_flops(shapes, samples, length, criterion, gram, changes),
        PROCESS_BYTES
        + shapes.outer_bytes
        + 8 * shapes.block_bytes
        + (shapes.gram_bytes if gram else 0)
        + max(4 * factors, swapping)
        + (passing if sparse else 0),
        shapes.blocks * (shapes.block_weights // 8 + (shapes.block_bytes if changes else 0)),
    )


def prune_flops(
    shapes: Shapes,
    samples: int,
    length: int,
    criterion: Mapping[str, Any],
    gram: bool,
    changes: bool,
) -> int:
    """Return the operations of choosing masks; scores, a few a weight, are left out.

    An elimination factorises and inverts each Gram matrix, C^3 / 3 operations each, and updates R
    rows of C columns, R C^2. Swaps multiply a matrix of R rows by the Gram matrix twice, and look
    for the best swap of each row with about 120 operations a column (terms, bounds and eight tries
    of `freelunch.swaps`; rows that stop early do less).
    """
    flops = 0
    if gram and changes:
        factors = sum(2 * width**3 // 3 for width in shapes.inputs)
        updates = zip(shapes.inputs, shapes.weights, strict=True)
        flops += shapes.blocks * (factors + sum(width * weights for width, weights in updates))
    if swaps := criterion.get("swaps", 0):
        products = zip(shapes.inputs, shapes.weights, strict=True)
        each = sum((4 * width + 120 * swaps) * weights for width, weights in products)
        flops += shapes.blocks * each
    if criterion["statistics"] == "sparse":
        # Once through each block for its statistics, and once more, pruned, for the next one.
        flops += capture_flops(shapes, samples, length, gram)
        flops += shapes.forward_flops(samples * length, length, shapes.blocks - 1)
    return flops


def _swaps_bytes(shapes: Shapes) -> int:
    """Return what refining the largest matrix takes, in float64: its Gram matrix and seven arrays
    of its own size.
    """
    outputs = (shapes.attention, shapes.hidden, shapes.intermediate, shapes.hidden)
    return max(
        8 * width**2 + 7 * 8 * width * rows
        for width, rows in zip(shapes.inputs, outputs, strict=True)
    )


def reconstruct(shapes: Shapes, samples: int, length: int, settings: Mapping[str, Any]) -> Cost:
    """Cost of all windows; memory is that of one."""
    tokens, window = samples * length, settings["window_blocks"]
    # Weights, gradients, two moments and a copy to go back to, float32; masks.
    training = window * shapes.block_weights * (5 * 4 + 1)
    return Cost(
        reconstruction_flops(shapes, samples, length, settings),
        PROCESS_BYTES
        + shapes.outer_bytes
        + training
        + window * shapes.activation_bytes(settings["batch"] * length)
        + 2 * shapes.hidden_bytes(tokens),
        shapes.blocks * shapes.block_bytes,
    )


def reconstruction_flops(
    shapes: Shapes,
    samples: int,
    length: int,
    settings: Mapping[str, Any],
    blocks: int | None = None,
) -> int:
    """Return the operations of training: three forwards an epoch, and the loss before and after."""
    checked = 2 * min(CHECK_SEQUENCES, samples) * length
    passed = 3 * settings["epochs"] * samples * length + checked
    return shapes.forward_flops(passed, length, blocks)


def assemble_model(shapes: Shapes, writes: bool) -> Cost:
    return Cost(
        0,
        PROCESS_BYTES + shapes.outer_bytes + 3 * shapes.block_bytes,
        shapes.blocks * shapes.block_bytes if writes else 0,
    )


def evaluate_perplexity(shapes: Shapes, windows: int, length: int) -> Cost:
    tokens = windows * length
    return Cost(
        shapes.forward_flops(tokens, length) + shapes.head_flops(tokens),
        PROCESS_BYTES
        + shapes.outer_bytes
        + 2 * shapes.block_bytes
        + shapes.hidden_bytes(tokens)
        + max(
            shapes.activation_bytes(max(BATCH_TOKENS, length)) // 2,
            2 * 4 * length * shapes.vocabulary,
        ),
        0,
    )
