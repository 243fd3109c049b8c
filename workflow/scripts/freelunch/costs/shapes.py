"""The sizes of a model, and the numbers that follow from them alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from freelunch.study.families import (
    FAMILIES,
    Family,
    Whole,
    dropout_of,
    has_biases,
    sizes_of,
    whole_of,
)
from freelunch.study.steps import HEAD_PLACES

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class LinearShape(NamedTuple):
    """The shape of a linear layer's weight in a block.

    Attributes:
        group: Index in `Shapes.inputs` of the input that it multiplies: 0 for queries, keys and
            values, 1 for the attention's output projection, 2 for the matrices that lead into the
            MLP, 3 for the one that leads out of it.
        inputs: Number of columns.
        outputs: Number of rows.
    """

    group: int
    inputs: int
    outputs: int

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Shapes:
    """Sizes of a decoder-only model.

    Attributes:
        model_type: The family, as transformers calls it.
        family: Its entry in the table of families; one like Llama's if it has none.
        blocks: Number of decoder blocks.
        hidden: The hidden size d.
        intermediate: Width of the MLP.
        heads: Number of query heads.
        key_heads: Number of key heads, and of value heads.
        head: Width of one head.
        biases: Whether some linear layers of a block have a bias; None if it is not known.
        whole: The setting with which blocks have no halves; None if they have halves.
        dropout: The highest rate of dropout within a block; None if it is not known.
        outer_weights: Number of weights in embeddings and head.
        vocabulary: Number of rows of the embedding.
        bytes_each: Bytes of a stored weight.
    """

    model_type: str
    family: Family
    blocks: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head: int
    biases: bool | None
    whole: Whole | None
    dropout: float | None
    outer_weights: int
    vocabulary: int
    bytes_each: int

    @classmethod
    def of(cls, config: Mapping[str, Any], dtype: str) -> "Shapes":
        """Read the sizes from a transformers config (or an excerpt with the same keys), which may
        have several parts (text, vision): the text part has the decoder's sizes.
        """
        sizes = sizes_of(config.get("text_config", config))
        model_type = sizes.get("model_type", "")
        embedding = sizes["vocab_size"] * sizes["hidden_size"]
        return cls(
            model_type=model_type,
            family=FAMILIES.get(model_type, Family()),
            blocks=sizes["num_hidden_layers"],
            hidden=sizes["hidden_size"],
            intermediate=sizes["intermediate_size"],
            heads=sizes["num_attention_heads"],
            key_heads=sizes["num_key_value_heads"],
            head=sizes["head_dim"],
            biases=has_biases(sizes),
            whole=whole_of(sizes),
            dropout=dropout_of(sizes),
            outer_weights=embedding * (1 if sizes["tie_word_embeddings"] else 2),
            vocabulary=sizes["vocab_size"],
            bytes_each=DTYPE_BYTES[dtype],
        )

    @classmethod
    def read(cls, config_json: Path, dtype: str | None = None) -> "Shapes":
        """Read the sizes from a model's config.json, and also the dtype if none is given.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: The file is damaged, or leaves sizes to
                defaults.
        """
        config = json.loads(config_json.read_text())
        return cls.of(config, dtype or config["dtype"])

    @property
    def is_known(self) -> bool:
        return self.model_type in FAMILIES

    @property
    def tied(self) -> bool:
        """Return whether the head shares the embedding's weights."""
        return self.outer_weights == self.head_weights

    # --- Weights

    @cached_property
    def matrices(self) -> tuple[LinearShape, ...]:
        """Return the linear layers of a block, in the order of `Family.linears`."""
        keys = self.key_heads * self.head
        heads = [self.attention, keys, keys]
        channels = [self.intermediate] * (2 if self.family.gated else 1)
        if self.family.fused:
            heads, channels = [sum(heads)], [sum(channels)]
        return (
            *(LinearShape(0, self.hidden, width) for width in heads),
            LinearShape(1, self.attention, self.hidden),
            *(LinearShape(2, self.hidden, width) for width in channels),
            LinearShape(3, self.intermediate, self.hidden),
        )

    @property
    def inputs(self) -> tuple[int, ...]:
        """Return the widths of a block's inputs; q, k and v share one, gate and up another."""
        return (self.hidden, self.attention, self.hidden, self.intermediate)

    @cached_property
    def weights(self) -> tuple[int, ...]:
        """Return the number of weights in a block that multiply each of `inputs`."""
        return tuple(
            sum(matrix.weights for matrix in self.matrices if matrix.group == number)
            for number in range(len(self.inputs))
        )

    @property
    def block_weights(self) -> int:
        """Return P, the number of weights in a block's linear layers."""
        return sum(self.weights)

    @property
    def largest_matrix(self) -> int:
        return max(matrix.weights for matrix in self.matrices)

    @property
    def head_weights(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def attention(self) -> int:
        """Return the width of the attention's output, before its projection."""
        return self.heads * self.head

    @property
    def output_width(self) -> int:
        """Return the summed widths of the outputs of all matrices of a block."""
        return sum(matrix.outputs for matrix in self.matrices)

    # --- Bytes, as weights are stored

    @property
    def block_bytes(self) -> int:
        return self.block_weights * self.bytes_each

    @property
    def blocks_bytes(self) -> int:
        return self.blocks * self.block_bytes

    @property
    def outer_bytes(self) -> int:
        return self.outer_weights * self.bytes_each

    @property
    def model_bytes(self) -> int:
        return self.blocks_bytes + self.outer_bytes

    @property
    def masks_bytes(self) -> int:
        """Return the bytes of the masks of all blocks on disk, where they are packed into bits."""
        return self.blocks * self.block_weights // 8

    @property
    def staged_bytes(self) -> int:
        """Return the bytes that pass through the host's memory on their way to a device: the outer
        part as a whole, and later block after block.
        """
        return max(self.outer_bytes, self.block_bytes)

    @property
    def gram_bytes(self) -> int:
        """Return the bytes of the Gram matrices of one block, in float32."""
        return 4 * sum(width**2 for width in self.inputs)

    def hidden_bytes(self, tokens: int) -> int:
        """Return the bytes of the hidden states of these tokens at one boundary."""
        return tokens * self.hidden * self.bytes_each

    # --- Operations and memory of passes

    def forward_flops(self, tokens: int, length: int, blocks: int | None = None) -> int:
        """Return the operations of a forward pass through blocks (all of them by default)."""
        weights = 2 * tokens * self.block_weights * (self.blocks if blocks is None else blocks)
        return weights + self.attention_flops(tokens, length, blocks)

    def attention_flops(self, tokens: int, length: int, blocks: int | None = None) -> int:
        """Return the part of `forward_flops` that multiplies no weights: the two products of
        queries, keys and values.
        """
        once = (4 if self.family.scores else 2) * tokens * length * self.attention
        return once * (self.blocks if blocks is None else blocks)

    def head_flops(self, tokens: int) -> int:
        return 2 * tokens * self.head_weights

    def head_bytes(self, tokens: int) -> int:
        """Return the bytes that the loss of a window of so many tokens holds: logits and two
        copies, float32, of HEAD_PLACES tokens at a time.
        """
        return 3 * 4 * min(tokens, HEAD_PLACES) * self.vocabulary

    def saved_bytes(self, tokens: int, length: int) -> int:
        """Return the bytes that one block keeps of a batch for its backward pass, in float32.

        They are the inputs, normalised inputs and outputs of its norms; queries, keys, values and
        the output of the attention; and four arrays of the MLP's width, or two without a gate (as
        autograd saves them in Llama's blocks); and what attention keeps of its scores.
        """
        attention = 2 * self.attention + 2 * self.key_heads * self.head
        if self.family.query_key_norms:
            attention += 2 * (self.attention + self.key_heads * self.head)
        mlp = (4 if self.family.gated else 2) * self.intermediate
        scores = self.family.scores.saved * self.heads * length if self.family.scores else 0
        norms = 2 * (1 + self.family.norms) * self.hidden
        return 4 * tokens * (norms + attention + mlp + scores)

    def scores_bytes(self, tokens: int, length: int) -> int:
        """Return the peak bytes of attention's scores in a pass without gradients.

        In a backward pass, gradients of scores take about as much, beside what is saved.
        """
        if self.family.scores is None:
            return 0
        # The softmax in float32, and its input, if that has to be converted.
        softmax = 4 if self.bytes_each == 4 else 4 + 4
        each = self.family.scores.passed * self.bytes_each + softmax
        return each * tokens * self.heads * length

    def passing_bytes(self, tokens: int, length: int) -> int:
        """Return the peak bytes that a pass through a block holds of a batch, without gradients.

        They include the next inputs, which are read meanwhile, and the results that are written.
        """
        mlp = (4 if self.family.gated else 2) * self.intermediate
        # Norms are computed in float32.
        norms = 0 if self.bytes_each == 4 else 4 * 2 * self.hidden
        held = max(self.bytes_each * mlp * tokens, self.scores_bytes(tokens, length))
        return tokens * (self.bytes_each * 5 * self.hidden + norms) + held
