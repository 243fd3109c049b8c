"""Models of the shapes that users have, with random weights (a part of `make bench`).

Each step is a process of its own; its peak memory and its time stand beside the plan's.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from configs import QWEN_72B
from freelunch.costs.cost import Cost
from freelunch.costs.machine import Machine
from freelunch.costs.pass_costs import capture_dense, measure_perplexity, prune_model
from freelunch.costs.retraining_costs import retrain
from freelunch.costs.shapes import Shapes
from freelunch.costs.window_costs import reconstruct
from freelunch.study.adaptations import Adaptation
from freelunch.study.retraining import read_adaptation
from random_models import WANDA, llama, one_block, run_step, write_model
from timing import say, seconds

SEQUENCES, LENGTH = 8, 256
LLAMA_1B = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 16,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}
# Memory that no step may exceed: as much as the weights take in bfloat16.
LIMIT_GB = 2.5
WINDOW = read_adaptation({"method": "reconstruction", "train_norms": False})
STREAMED: dict[str, Any] = {"batch": 4, "micro_batch": 1}


def bench_llama_1b() -> None:
    """Take a model of Llama-3.2-1B's shapes in bfloat16 through every step."""
    masklora = read_adaptation({"method": "masklora", **STREAMED})
    steps: list[tuple[str, Adaptation | None, bool, Callable[[Shapes], Cost]]] = [
        ("capture", None, False, lambda s: capture_dense(s, SEQUENCES, LENGTH, False, "all")),
        ("prune", None, False, lambda s: prune_model(s, SEQUENCES, LENGTH, WANDA)),
        ("reconstruct", WINDOW, False, lambda s: reconstruct(s, SEQUENCES, LENGTH, WINDOW)),
        (
            "retrain",
            masklora,
            True,
            lambda s: retrain(s, SEQUENCES, LENGTH, masklora, streamed=True),
        ),
        ("assemble", None, False, lambda s: Cost()),
        ("evaluate", None, False, lambda s: measure_perplexity(s, SEQUENCES, LENGTH)),
    ]
    with tempfile.TemporaryDirectory(dir="results") as base:
        folder = Path(base)
        shapes = _written(folder, llama(**LLAMA_1B), SEQUENCES)
        machine = Machine.of()
        for step, settings, streamed, cost in steps:
            _take(f"Llama-3.2-1B, {step}", folder, step, settings, streamed, cost(shapes), machine)


def bench_72b_block() -> None:
    """Retrain one block of Qwen2.5-72B's shape for two steps, streamed."""
    masklora = read_adaptation({"method": "masklora", "batch": 1})
    with tempfile.TemporaryDirectory(dir="results") as base:
        folder = Path(base)
        shapes = _written(folder, one_block(QWEN_72B), 2)
        machine = Machine.of()
        run_step(folder, "capture")
        run_step(folder, "prune")
        cost = retrain(shapes, 2, LENGTH, masklora, streamed=True)
        what = "one block of Qwen2.5-72B, masklora"
        _take(what, folder, "retrain", masklora, True, cost, machine)


def _written(folder: Path, config: PreTrainedConfig, sequences: int) -> Shapes:
    write_model(folder, config, torch.bfloat16, tokens=sequences * LENGTH, length=LENGTH)
    return Shapes.of(config.to_dict(), "bfloat16")


def _take(
    what: str,
    folder: Path,
    step: str,
    settings: Adaptation | None,
    streamed: bool,
    planned: Cost,
    machine: Machine,
) -> None:
    """Take a step, and say its memory and time beside the plan's."""
    peaks: list[int] = []
    took = seconds(lambda: peaks.append(run_step(folder, step, settings, streamed=streamed)))
    (peak,) = peaks
    bound = f"at most {LIMIT_GB}" if "1B" in what else "0.8 to 1.2"
    ratio = planned.memory_bytes / peak
    say(f"{what}: GB (planned / measured)", f"{peak / 1e9:.2f} ({ratio:.2f})", bound)
    say("  seconds (planned)", f"{took:.0f} ({planned.seconds(machine):.0f})")


def main() -> None:
    bench_llama_1b()
    bench_72b_block()
