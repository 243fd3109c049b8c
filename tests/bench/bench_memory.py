"""Peak memory and time of steps, beside the plan's, on models with random weights (a part of
`make bench`). Each step is a process of its own.
"""

import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

import retraining_memory
from configs import QWEN_72B
from freelunch.costs.cost import Cost
from freelunch.costs.machine import Machine
from freelunch.costs.pass_costs import capture_dense, measure_perplexity, prune_model
from freelunch.costs.retraining_costs import retrain
from freelunch.costs.shapes import Shapes
from freelunch.costs.window_costs import reconstruct
from freelunch.study.methods import DISTILLATION, METHODS
from freelunch.study.retraining import read_adaptation
from random_models import WANDA, llama, one_block, run_step, write_model
from timing import say, seconds

LENGTH = 256
ONE_BILLION = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 16,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}
SMOLLM = {"hidden_size": 576, "intermediate_size": 1536, "num_key_value_heads": 3}
TINYLLAMA = {"hidden_size": 2048, "intermediate_size": 5632, "num_key_value_heads": 4}
WIDE = {"hidden_size": 1024, "intermediate_size": 4096}
Entry = dict[str, Any]
WINDOWS: tuple[Entry, ...] = tuple(
    {"method": "reconstruction", "window": window, "train_norms": False}
    for window in ("matrix", "attention_mlp", 1, 2, "all")
)
# Solving for a matrix of thousands of inputs takes two cores hours.
EXACT: Entry = {"method": "least_squares"}
# One step of a 72B model; passes in float32, because few processors multiply in bfloat16.
OF_72B = ({**WINDOWS[at], "precision": "float32"} for at in (2, 1, 0))
STREAMED: Entry = {"method": "masklora", "batch": 4, "micro_batch": 1}
# The steps of a model: its config, dtype and sequences, and the adaptations, the last one streamed.
MODELS: dict[str, tuple[Callable[[], PreTrainedConfig], str, int, list[Entry]]] = {
    "SmolLM2's shapes": (
        lambda: llama(num_hidden_layers=4, **SMOLLM),
        *("float32", 8, [*WINDOWS, EXACT]),
    ),
    "TinyLlama's shapes": (
        lambda: llama(num_hidden_layers=4, **TINYLLAMA),
        *("float32", 8, [*WINDOWS]),
    ),
    "shapes of 1024 and 4096": (
        lambda: llama(num_hidden_layers=4, **WIDE),
        *("bfloat16", 8, [*WINDOWS]),
    ),
    # No step of this one may exceed 2.5 GB, as much as its weights take.
    "Llama-3.2-1B": (lambda: llama(**ONE_BILLION), "bfloat16", 8, [WINDOWS[2], STREAMED]),
    "one block of Qwen2.5-72B": (
        lambda: one_block(QWEN_72B),
        *("bfloat16", 2, [*OF_72B, {"method": "masklora", "batch": 1}]),
    ),
}
# Settings that change what a retraining holds, by the precision of the checkpoint.
PARTS: Entry = {"micro_batch": 1}
RETRAINED: dict[str, tuple[Entry, ...]] = {
    "float32": (
        *({"method": method} for method in ("full", "masklora", "norms")),
        {"method": "lora"},
        {"method": "full", **PARTS},
        {"method": "full", "precision": "bfloat16", **PARTS},
        {"method": "norms", "precision": "bfloat16"},
        {"method": "lora_prune", "precision": "bfloat16"},
        *({"method": method, "loss": DISTILLATION} for method in ("full", "masklora")),
        {"method": "full", "train_head": True},
    ),
    "bfloat16": (
        *({"method": method} for method in ("full", "masklora")),
        *({"method": method, **PARTS} for method in ("full", "masklora")),
        {"method": "full", "train_head": True, **PARTS},
        {"method": "masklora", "train_head": True},
        {"method": "masklora", "gradient_checkpointing": True},
        {"method": "lora", "loss": DISTILLATION},
    ),
}


def compare(
    what: str,
    folder: Path,
    shapes: Shapes,
    step: str,
    entry: Entry | None = None,
    *,
    sequences: int = retraining_memory.SEQUENCES,
    length: int = LENGTH,
    streamed: bool = False,
) -> None:
    """Take a step, and say its memory and time beside the plan's."""
    settings: Any = entry and read_adaptation(entry)
    sample = shapes, sequences, length
    planned = {
        "capture": lambda: capture_dense(*sample, gram=False, keep="all"),
        "prune": lambda: prune_model(*sample, WANDA),
        "reconstruct": lambda: reconstruct(*sample, settings),
        "retrain": lambda: retrain(*sample, settings, streamed=streamed),
        "assemble": Cost,
        "evaluate": lambda: measure_perplexity(*sample),
    }[step]()
    peaks: list[int] = []
    took = seconds(lambda: peaks.append(run_step(folder, step, settings, streamed=streamed)))
    ratio = f"{planned.memory_bytes / peaks[0]:.2f} ({peaks[0] / 1e9:.2f} GB)"
    words = " ".join(map(str, (entry or {}).values())) + (", streamed" if streamed else "")
    say(f"memory planned / measured, {what}, {step} {words}", ratio, "0.8 to 1.2")
    say("  seconds (planned)", f"{took:.0f} ({planned.seconds(Machine.of()):.0f})")


def bench_models() -> None:
    """Take models of the shapes that users have through every step."""
    for name, (config_of, dtype, sequences, entries) in MODELS.items():
        config = config_of()
        with tempfile.TemporaryDirectory(dir="results") as base:
            folder = Path(base)
            write_model(folder, config, getattr(torch, dtype), tokens=sequences * LENGTH)
            shapes = Shapes.of(config.to_dict(), dtype)
            steps: list[tuple[str, Entry | None]] = [("capture", None), ("prune", None)]
            for entry in entries:
                is_window = entry["method"] not in METHODS
                steps.append(("reconstruct" if is_window else "retrain", entry))
            if name == "Llama-3.2-1B":
                steps += [("assemble", None), ("evaluate", None)]
            for step, chosen in steps:
                streamed = step == "retrain"
                sizes = {"sequences": sequences, "streamed": streamed}
                compare(name, folder, shapes, step, chosen, **sizes)


def bench_retraining() -> None:
    """Retrain by every method with short sequences, so that weights dominate; and with settings
    that change the memory and long sequences, so that activations and logits do.
    """
    plain = tuple({"method": method} for method in METHODS)
    dtypes, short = ("float32", "bfloat16"), retraining_memory.SHORT
    cases = [(*case, short, plain) for case in product(retraining_memory.SHAPES, dtypes)]
    # In the first step, a state has no moments yet.
    cases += [
        ("wide vocabulary", dtype, LENGTH, tuple({"epochs": 2, **entry} for entry in entries))
        for dtype, entries in RETRAINED.items()
    ]
    for shape, dtype, length, entries in cases:
        with tempfile.TemporaryDirectory(dir="results") as base:
            folder, what = Path(base), f"{shape}, {dtype}"
            shapes = retraining_memory.write_pruned(folder, shape, dtype, length)
            for entry, streamed in product(entries, (False, True)):
                sizes = {"length": length, "streamed": streamed}
                compare(what, folder, shapes, "retrain", entry, **sizes)


def main() -> None:
    bench_models()
    bench_retraining()
