"""The sizes of a model, and the numbers that follow from them alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from freelunch.study import families
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


class Shapes:
    """Sizes of a decoder-only model. Bytes are of weights as they are stored.

    Attributes:
        model_type: The family, as transformers calls it.
        is_known, family: Whether it is in the table of families, and its entry; otherwise one with
            its shapes.
        blocks: Number of decoder blocks.
        hidden, intermediate: The hidden size d, and the width of the MLP.
        heads, key_heads: Number of query heads, and of key and value heads.
        attention, keys: Width of the attention's output before its projection, and of the keys.
        biases: Whether some linear layers of a block have a bias; None if it is not known.
        whole: The setting with which blocks have no halves; None if they have halves.
        dropout: The highest rate of dropout within a block; None if it is not known.
        tied: Whether the head shares the embedding's weights.
        vocabulary: Number of rows of the embedding.
        inputs: Widths of a block's inputs; q, k and v share one, gate and up another.
        matrices: The linear layers of a block, in the order of the names in `Family`.
        weights: Number of weights in a block that multiply each of `inputs`.
        block_weights: P, the number of weights in a block's linear layers.
        outer_weights: Number of weights in embeddings and head.
        output_width: Summed widths of the outputs of all matrices of a block.
        masks_bytes: Bytes of the masks of all blocks on disk, where they are packed into bits.
        staged_bytes: What passes through the host's memory on its way to a device: the outer part
            as a whole, and later block after block.
        gram_bytes: Bytes of the Gram matrices of one block, in float32.
    """

    def __init__(self, config: Mapping[str, Any], dtype: str) -> None:
        sizes = families.sizes_of(config)
        self.model_type: str = sizes.get("model_type", "")
        self.is_known = self.model_type in families.FAMILIES
        self.family = families.shaped_like(self.model_type)
        self.blocks: int = sizes["num_hidden_layers"]
        self.hidden: int = sizes["hidden_size"]
        self.intermediate: int = sizes["intermediate_size"]
        self.heads: int = sizes["num_attention_heads"]
        self.key_heads: int = sizes["num_key_value_heads"]
        self.attention: int = self.heads * sizes["head_dim"]
        self.keys: int = self.key_heads * sizes["head_dim"]
        self.biases = families.has_biases(sizes)
        self.whole = families.whole_of(sizes)
        self.dropout = families.dropout_of(sizes)
        self.tied = bool(sizes["tie_word_embeddings"])
        self.vocabulary: int = sizes["vocab_size"]
        self.bytes_each: int = DTYPE_BYTES[dtype]
        layers = self._linear_layers()
        self.inputs = (self.hidden, self.attention, self.hidden, self.intermediate)
        self.matrices = tuple(layers)
        self.weights = tuple(
            sum(matrix.weights for matrix in layers if matrix.group == group) for group in range(4)
        )
        self.largest_matrix: int = max(matrix.weights for matrix in layers)
        self.output_width: int = sum(matrix.outputs for matrix in layers)
        self.block_weights: int = sum(self.weights)
        self.head_weights: int = self.vocabulary * self.hidden
        self.outer_weights: int = self.head_weights * (1 if self.tied else 2)
        self.block_bytes: int = self.block_weights * self.bytes_each
        self.blocks_bytes: int = self.blocks * self.block_bytes
        self.outer_bytes: int = self.outer_weights * self.bytes_each
        self.model_bytes: int = self.blocks_bytes + self.outer_bytes
        self.masks_bytes: int = self.blocks * self.block_weights // 8
        self.staged_bytes: int = max(self.outer_bytes, self.block_bytes)
        self.gram_bytes: int = 4 * sum(width**2 for width in self.inputs)

    @classmethod
    def of(cls, config: Mapping[str, Any], dtype: str) -> "Shapes":
        """Read the sizes from a transformers config (or an excerpt with the same keys), which may
        have several parts (text, vision): the text part has the decoder's sizes.
        """
        return cls(config.get("text_config", config), dtype)

    @classmethod
    def read(cls, config_json: Path, dtype: str | None = None) -> "Shapes":
        """Read the sizes from a model's config.json, and also the dtype if none is given;
        ValueError, KeyError, TypeError or AttributeError: it is damaged, or leaves sizes to
        defaults.
        """
        config = json.loads(config_json.read_text())
        return cls.of(config, dtype or config["dtype"])

    def _linear_layers(self) -> list[LinearShape]:
        heads = [self.attention, self.keys, self.keys]
        channels = [self.intermediate] * (2 if self.family.gated else 1)
        if self.family.fused:
            heads, channels = [sum(heads)], [sum(channels)]
        return [
            *(LinearShape(0, self.hidden, width) for width in heads),
            LinearShape(1, self.attention, self.hidden),
            *(LinearShape(2, self.hidden, width) for width in channels),
            LinearShape(3, self.intermediate, self.hidden),
        ]

    def hidden_bytes(self, tokens: int) -> int:
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
        attention = 2 * self.attention + 2 * self.keys
        if self.family.query_key_norms:
            attention += 2 * (self.attention + self.keys)
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
