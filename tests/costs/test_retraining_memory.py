"""Planned memory of retraining: what stands in memory at once, and what does not."""

from typing import Any

import pytest

from configs import QWEN_72B
from freelunch.costs.retraining import memory_bytes, retrain
from freelunch.costs.shapes import Shapes
from freelunch.study.retraining import read_adaptation

BLOCK = Shapes.of(QWEN_72B, "bfloat16").block_weights
# One small block, and so many words that nothing but logits counts.
_SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}
MANY_WORDS = Shapes.of(QWEN_72B | _SMALL | _HEADS | {"vocab_size": 10**6}, "bfloat16")


def planned(streamed: bool, blocks: int = 3, vocabulary: int = 1000, **entry: Any) -> int:
    """Return the planned memory of a model of wide blocks, in bytes; sequences are short."""
    sizes = {"num_hidden_layers": blocks, "vocab_size": vocabulary}
    shapes = Shapes.of(QWEN_72B | sizes, "bfloat16")
    return memory_bytes(shapes, 4, 16, read_adaptation(entry), streamed)


def test_several_micro_batches_of_full_hold_copies_beside_gradients() -> None:
    """In the precision of the passes, which is bfloat16 here."""
    entry = {"method": "full"}
    whole, parts = (planned(False, blocks=20, **entry, micro_batch=micro) for micro in (4, 1))
    assert 0.9 * 2 * 20 * BLOCK < parts - whole < 2 * 20 * BLOCK
    single = {**entry, "precision": "float32"}
    assert planned(False, **single, micro_batch=1) <= planned(False, **single, micro_batch=4)


def test_a_streamed_model_of_one_block_reads_no_other() -> None:
    """Two bytes a weight and one of its mask; adapters of a second block are small."""
    for method, each in (("masklora", 2 + 1), ("full", 4 + 2 + 1)):
        one, two = (planned(True, blocks=blocks, method=method) for blocks in (1, 2))
        assert each * BLOCK <= two - one < 1.1 * each * BLOCK


def test_logits_are_not_in_memory_beside_a_streamed_block() -> None:
    entry = {"method": "norms"}
    few, many = (planned(True, vocabulary=it, **entry) for it in (1000, 100_000))
    width = QWEN_72B["hidden_size"]
    # Only the embedding and the head grow.
    assert many - few == 2 * 2 * 99_000 * width


@pytest.mark.parametrize("streamed", [False, True])
def test_a_distillation_holds_logits_of_the_teacher_too(streamed: bool) -> None:
    """Three arrays as large as the logits of 2 sequences of 16 tokens, in float32."""
    plain, distilled = (
        memory_bytes(
            MANY_WORDS,
            4,
            16,
            read_adaptation({"method": "norms", "loss": loss, "batch": 2}),
            streamed,
        )
        for loss in ("next_token", "distillation")
    )
    assert distilled - plain == 3 * 4 * (2 * 16) * 10**6


def test_a_training_keeps_its_last_state_while_it_writes_the_next() -> None:
    cost = retrain(MANY_WORDS, 4, 16, read_adaptation({"method": "full", "epochs": 2}))
    assert cost.scratch_bytes == 2 * cost.saved_bytes > 0
