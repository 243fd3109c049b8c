"""Peak memory of retraining random models, as planned and as measured, for tests and benchmarks.

The models are wide; a model takes a few hundred megabytes. They have biases, so that every method
trains something. Short sequences let weights dominate, and long ones activations and logits.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import OPTConfig, PreTrainedConfig

from freelunch.costs.retraining import memory_bytes
from freelunch.costs.shapes import Shapes
from freelunch.study.retraining import read_adaptation
from random_models import llama, prune_by_wanda, run_step, write_model

SEQUENCES = 4
SHORT, LONG = 16, 256
SHAPES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: llama(
        hidden_size=1024,
        intermediate_size=2816,
        num_key_value_heads=4,
        num_hidden_layers=6,
        vocab_size=8192,
        attention_bias=True,
    ),
    "opt": lambda: OPTConfig(
        hidden_size=1024,
        word_embed_proj_dim=1024,
        ffn_dim=4096,
        num_attention_heads=16,
        num_hidden_layers=6,
        vocab_size=8192,
    ),
    "deep": lambda: llama(
        hidden_size=640,
        intermediate_size=2560,
        num_hidden_layers=16,
        vocab_size=16384,
        attention_bias=True,
    ),
    "wide vocabulary": lambda: llama(
        hidden_size=768,
        intermediate_size=2304,
        num_hidden_layers=6,
        vocab_size=24576,
        attention_bias=True,
    ),
}


def write_pruned(folder: Path, shape: str, dtype: str, length: int = SHORT) -> Shapes:
    """Write a pruned random model below a folder, with sequences of this length, and return its
    shapes.
    """
    config = SHAPES[shape]()
    tokens = SEQUENCES * length
    write_model(folder, config, getattr(torch, dtype), tokens=tokens, length=length)
    prune_by_wanda(folder)
    return Shapes.read(folder / "checkpoint" / "config.json")


def planned_and_measured(
    folder: Path, shapes: Shapes, entry: dict[str, Any], streamed: bool, length: int = SHORT
) -> tuple[int, int]:
    """Return the peak memory of a retraining as it is planned, and that of a process, in bytes."""
    settings = read_adaptation(entry)
    measured = run_step(folder, "retrain", settings, streamed=streamed)
    return memory_bytes(shapes, SEQUENCES, length, settings, streamed), measured
