"""Speed and memory of retraining a whole model (a part of `make bench`)."""

import statistics
import tempfile
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from bench_windows import SHAPES, shaped, studied

import retraining_memory
from freelunch.adaptation.retraining.driver import Training
from freelunch.costs.retraining import retrain, retraining_work
from freelunch.costs.shapes import Shapes
from freelunch.study.methods import DISTILLATION
from freelunch.study.methods import METHODS as ALL_METHODS
from freelunch.study.retraining import read_adaptation
from random_models import run_step
from timing import REPEATS, alternating, matmul_rate, say, seconds

SEQUENCE = 256
BOUNDS = {"full": "0.75", "masklora": "0.65"}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "masklora": {"method": "masklora"},
    "lora": {"method": "lora"},
    "biases_norms": {"method": "biases_norms"},
    "full, distilled": {"method": "full", "loss": DISTILLATION},
    "full, checkpointing": {"method": "full", "gradient_checkpointing": True},
}
STEPS: tuple[dict[str, Any], ...] = ({"batch": 2}, {"batch": 8, "micro_batch": 2})
# By the precision of the checkpoint.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "float32": {
        "full": {"method": "full"},
        "masklora": {"method": "masklora"},
        "norms": {"method": "norms"},
        "lora, dropout": {"method": "lora", "dropout": 0.1},
        "full, micro-batches": {"method": "full", "micro_batch": 1},
        "full in bfloat16, micro-batches": {
            "method": "full",
            "precision": "bfloat16",
            "micro_batch": 1,
        },
        "norms in bfloat16": {"method": "norms", "precision": "bfloat16"},
        "lora_prune in bfloat16": {"method": "lora_prune", "precision": "bfloat16"},
        "full, distilled": {"method": "full", "loss": DISTILLATION},
        "masklora, distilled": {"method": "masklora", "loss": DISTILLATION},
        "full and the head": {"method": "full", "train_head": True},
    },
    "bfloat16": {
        "full": {"method": "full"},
        "masklora": {"method": "masklora"},
        "masklora, micro-batches": {"method": "masklora", "micro_batch": 1},
        "full, micro-batches": {"method": "full", "micro_batch": 1},
        "full and the head, micro-batches": {
            "method": "full",
            "train_head": True,
            "micro_batch": 1,
        },
        "masklora and the head": {"method": "masklora", "train_head": True},
        "masklora, checkpointing": {"method": "masklora", "gradient_checkpointing": True},
        "lora, distilled": {"method": "lora", "loss": DISTILLATION},
    },
}


def bench_rates() -> None:
    """Time steps of the default study's model, with the threads of a job and with all of the
    machine.

    A step of `full` counts as three forward passes, including the head; a step of another method
    counts the operations that the method has to compute.
    """
    with studied() as (model, masks, states):
        shapes = Shapes.of(model.config.to_dict(), "float32")
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for name, entry in METHODS.items():
                settings = read_adaptation(entry)
                batch = settings.batch
                # Operations of one step, without the losses before and after the training.
                epoch = retraining_work(shapes, 10**6, SEQUENCE, settings).total() / (10**6 / batch)
                training = Training(model, masks, states, settings, 0, states.scratch / name, "")
                rows = torch.arange(batch)

                def step(training: Training = training, rows: torch.Tensor = rows) -> None:
                    training.step(1, 1e-6, rows)

                step()
                rates, times = [], []
                for _ in range(REPEATS):
                    before = matmul_rate()
                    took = seconds(step)
                    machine = (before + matmul_rate()) / 2
                    times.append(took)
                    rates.append(epoch / took / machine)
                what = f"{name}, {threads} threads: rate / matrix multiplication's, float32"
                value = f"{statistics.median(rates):.2f} ({statistics.median(times):.1f} s a step)"
                say(what, value, BOUNDS.get(name, "none"))
    torch.set_num_threads(2)


def bench_streaming() -> None:
    """Compare a streamed step with one in memory, with weights in the page cache.

    The second forward pass adds at most a third where weights have gradients, and half where only
    adapters have. Reading the blocks takes as long in a step of two sequences as in one of eight.
    """
    with studied() as (model, masks, states):
        for step, name in product(STEPS, ("full", "masklora", "lora")):
            settings = read_adaptation(METHODS[name] | step)
            what = f"{name}, {settings.batch} sequences"
            training = [
                Training(
                    *(model, masks, states, settings, 0),
                    *(states.scratch / f"{what}-{streamed}", ""),
                    streamed=streamed,
                )
                for streamed in (False, True)
            ]
            rows = torch.arange(settings.batch)
            steps = [partial(it.step, 1, 1e-6, rows) for it in training]
            for warm_up in steps:
                warm_up()
            whole, streamed = alternating(*steps)
            say(f"{what}: a streamed step / a step in memory", f"{streamed / whole:.2f}", "1.5")
            for each in training:
                each.state.remove()


def bench_predictions() -> None:
    """Compare the measured peak memory with the plan's prediction, for long sequences."""
    for name in SHAPES:
        with shaped(name, vocab_size=32000) as (folder, _, shapes):
            for method, entry in METHODS.items():
                settings = read_adaptation(entry)
                planned = retrain(shapes, 8, SEQUENCE, settings).memory_bytes
                measured = run_step(folder, "retrain", settings)
                value = f"{planned / measured:.2f} ({measured / 1e9:.2f} GB)"
                what = f"memory predicted / measured, shape {name}, {method}"
                say(what, value, "0.8 to 1.2")


def bench_residencies() -> None:
    """Compare the measured peak memory with the plan's prediction: every method, in memory and
    streamed, with short sequences.
    """
    for shape, dtype in product(retraining_memory.SHAPES, ("float32", "bfloat16")):
        with tempfile.TemporaryDirectory(dir="results") as base:
            folder = Path(base)
            shapes = retraining_memory.write_pruned(folder, shape, dtype)
            for method in ALL_METHODS:
                _compare(f"{shape}, {dtype}, {method}", folder, shapes, {"method": method})


def bench_settings() -> None:
    """Compare the measured peak memory with the plan's prediction: settings that change it, in
    memory and streamed, with long sequences, so that activations and logits dominate.
    """
    for dtype, named in SETTINGS.items():
        with tempfile.TemporaryDirectory(dir="results") as base:
            folder, length = Path(base), retraining_memory.LONG
            shapes = retraining_memory.write_pruned(folder, "wide vocabulary", dtype, length)
            for name, entry in named.items():
                # In the first step, a state has no moments yet.
                entry = {"epochs": 2, **entry}
                _compare(f"{dtype}, long sequences, {name}", folder, shapes, entry, length)


def _compare(
    what: str,
    folder: Path,
    shapes: Shapes,
    entry: dict[str, Any],
    length: int = retraining_memory.SHORT,
) -> None:
    """Say the memory that is planned and measured for a retraining, in memory and streamed."""
    for streamed in (False, True):
        planned, measured = retraining_memory.planned_and_measured(
            folder, shapes, entry, streamed, length
        )
        value = f"{planned / measured:.2f} ({measured / 1e9:.2f} GB)"
        how = ", streamed" if streamed else ""
        say(f"memory predicted / measured, {what}{how}", value, "0.8 to 1.2")


def main() -> None:
    bench_rates()
    bench_streaming()
    bench_predictions()
    bench_residencies()
    bench_settings()
