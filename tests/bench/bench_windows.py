"""Speed, memory and operations of adapting windows (a part of `make bench`)."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from configs import QWEN_72B
from freelunch.adaptation.reconstruction.driver import reconstruct_windows
from freelunch.core.artifact import Artifact
from freelunch.costs.reconstruction import reconstruct, reconstruction_work
from freelunch.costs.shapes import Shapes
from freelunch.model import mask_store, token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import DenseStates, open_states
from freelunch.study.adaptations import LeastSquares, Local, Reconstruction
from freelunch.study.retraining import read_adaptation
from freelunch.study.study import Study
from freelunch.study.windows import split_windows
from random_models import llama, one_block, run_step, write_model
from timing import REPEATS, matmul_rate, say, seconds

MODEL = "smollm2-135m"
BLOCKS = 4
SEQUENCE = 256
LIMIT = 600 * 2**20
SHAPES: dict[str, tuple[dict[str, int], torch.dtype]] = {
    "SmolLM2's": (
        {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
        },
        torch.float32,
    ),
    "TinyLlama's": (
        {"hidden_size": 2048, "intermediate_size": 5632, "num_key_value_heads": 4},
        torch.float32,
    ),
    "of 1024 and 4096, bfloat16": (
        {"hidden_size": 1024, "intermediate_size": 4096},
        torch.bfloat16,
    ),
}
WINDOWS: tuple[dict[str, Any], ...] = (
    {"window": "matrix"},
    {"window": "attention_mlp"},
    {"window": 1},
    {"window": 2},
    {"window": "all"},
    {"method": "least_squares"},
)
# Solving for a matrix of thousands of inputs takes two cores hours.
EXACT_SHAPE = "SmolLM2's"


def settings_of(**settings: Any) -> Local:
    """Return the settings of an adaptation, with defaults; norms are not trained."""
    entry = {"method": "reconstruction", **settings}
    if entry["method"] == "reconstruction":
        entry = {"train_norms": False, **entry}
    adaptation: Local = read_adaptation(entry)
    return adaptation


@contextmanager
def studied() -> Iterator[tuple[StreamedModel, Artifact, DenseStates]]:
    """Give artifacts of the finished default study: its model, Wanda's masks, its hidden states."""
    paths = Study.load(Path("config.yaml")).paths
    model = StreamedModel(paths.model(MODEL))
    sample = Artifact(paths.calibration(MODEL, 0), token_ids.KIND)
    masks = Artifact(paths.pruned(MODEL, "wanda-u50", 0), mask_store.KIND)
    with tempfile.TemporaryDirectory(dir="results") as scratch:
        yield model, masks, open_states(model, sample, paths.hidden(MODEL, 0), Path(scratch))


@contextmanager
def shaped(name: str, **sizes: int) -> Iterator[tuple[Path, StreamedModel, Shapes]]:
    """Give the folder of a pruned random model of one of SHAPES, the model, and its shapes."""
    given, dtype = SHAPES[name]
    heads = given["hidden_size"] // 64
    config = llama(
        num_hidden_layers=BLOCKS,
        **{"num_attention_heads": heads, "num_key_value_heads": heads, **given, **sizes},
    )
    with tempfile.TemporaryDirectory(dir="results") as base:
        folder = Path(base)
        write_model(folder, config, dtype, tokens=8 * SEQUENCE)
        run_step(folder, "capture")
        run_step(folder, "prune")
        model = StreamedModel(folder / "checkpoint")
        shapes = Shapes.of(model.config.to_dict(), str(dtype).removeprefix("torch."))
        yield folder, model, shapes


def adapt(model: StreamedModel, masks: Artifact, states: DenseStates, settings: Local) -> None:
    """Adapt the windows of the first few blocks, and discard the results."""
    whole = split_windows(model.num_blocks, settings.window)
    last = min(BLOCKS, model.num_blocks)
    windows = [each for each in whole if each.stop <= last]
    assert windows and windows[-1].stop == last
    with tempfile.TemporaryDirectory(dir="results") as folder:
        target = Path(folder) / "windows"
        reconstruct_windows(
            model, masks, states, settings.window, windows, settings, 0, target, "bench"
        )


def _with_norms(settings: Local) -> Local:
    if not isinstance(settings, Reconstruction):
        return settings
    return settings_of(**{**settings.as_json(), "train_norms": True})


def bench_rates() -> None:
    """Time windows of the default study's model, with the threads of a job and of the machine."""
    with studied() as (model, masks, states):
        shapes = Shapes.of(model.config.to_dict(), "float32")
        kinds = {
            "block": settings_of(window=1),
            "matrix": settings_of(window="matrix"),
            "attention_mlp": settings_of(window="attention_mlp"),
            "2 blocks": settings_of(window=2),
            "block, bfloat16": settings_of(window=1, precision="bfloat16"),
            "matrix, exact": settings_of(method="least_squares"),
        }
        # Count three forward passes, the usual formula, as if norms were trained.
        flops = {
            name: reconstruction_work(
                shapes,
                states.sequences,
                states.length,
                _with_norms(settings),
                blocks=BLOCKS,
            ).total()
            for name, settings in kinds.items()
        }
        for threads in (1, 2):
            torch.set_num_threads(threads)
            times: dict[str, list[float]] = {name: [] for name in kinds}
            rates: dict[str, list[float]] = {name: [] for name in kinds}
            for _ in range(REPEATS):
                for name, settings in kinds.items():
                    before = matmul_rate()
                    took = seconds(lambda settings=settings: adapt(model, masks, states, settings))
                    # The machine's speed changes: use the mean of its speeds before and after.
                    machine = (before + matmul_rate()) / 2
                    times[name].append(took)
                    rates[name].append(flops[name] / took / machine)
            for name in kinds:
                took, rate = statistics.median(times[name]), statistics.median(rates[name])
                bound = "0.80" if name == "block" else "none"
                what = f"{name}, {threads} threads: rate / matrix multiplication's, float32"
                say(what, f"{rate:.2f} ({took:.1f} s)", bound)
            for name, other, bound in (
                ("matrix", "block", "1"),
                ("block, bfloat16", "block", "1"),
                ("attention_mlp", "block", "none"),
                ("2 blocks", "block", "none"),
            ):
                ratios = [a / b for a, b in zip(times[name], times[other], strict=True)]
                what = f"seconds of {name} / {other}, {threads} threads"
                say(what, f"{statistics.median(ratios):.2f}", bound)
    torch.set_num_threads(2)


def bench_depth() -> None:
    """Compare the peak memory of two models of equal width, one eight times as deep."""
    peaks: dict[str, list[int]] = {}
    for blocks in (4, 32):
        with tempfile.TemporaryDirectory(dir="results") as base:
            folder = Path(base)
            config = llama(hidden_size=512, intermediate_size=2048, num_hidden_layers=blocks)
            write_model(folder, config, torch.float32, tokens=8 * SEQUENCE)
            run_step(folder, "capture")
            run_step(folder, "prune")
            for window in (1, "attention_mlp", "matrix"):
                peak = run_step(folder, "reconstruct", settings_of(window=window))
                peaks.setdefault(f"window {window}", []).append(peak)
            sparse = settings_of(window=1, inputs="sparse")
            peaks.setdefault("window 1, sparse inputs", []).append(
                run_step(folder, "reconstruct", sparse)
            )
    for name, (shallow, deep) in peaks.items():
        value = f"{deep / shallow:.3f} ({deep / 1e9:.2f} GB)"
        say(f"peak memory of 32 blocks / 4 blocks, {name}", value, "1.15")


def bench_larger_than_memory() -> None:
    """Run every step of a model whose weights are larger than the memory a process may use."""
    with tempfile.TemporaryDirectory(dir="results") as base:
        folder = Path(base)
        config = llama(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24)
        write_model(folder, config, torch.float32, tokens=8 * SEQUENCE)
        files = (folder / "checkpoint").glob("*.safetensors")
        weights = sum(path.stat().st_size for path in files)
        for step in ("capture", "prune", "reconstruct", "assemble", "evaluate"):
            run_step(folder, step, settings_of(window=1), limit=LIMIT)
        say("weights / memory that every step may use", f"{weights / LIMIT:.2f}", "more than 1")


def bench_predictions() -> None:
    """Compare the measured peak memory and operations of jobs with the plan's predictions."""
    for name in SHAPES:
        with shaped(name) as (folder, model, shapes):
            for window in WINDOWS:
                settings = settings_of(**window)
                if isinstance(settings, LeastSquares) and name != EXACT_SHAPE:
                    continue
                planned = reconstruct(shapes, 8, SEQUENCE, settings)
                measured = run_step(folder, "reconstruct", settings)
                what = " ".join(map(str, window.values()))
                value = f"{planned.memory_bytes / measured:.2f} ({measured / 1e9:.2f} GB)"
                say(f"memory predicted / measured, shape {name}, {what}", value, "0.8 to 1.2")
                # Torch does not count the operations of solvers and optimisers.
                if isinstance(settings, Reconstruction):
                    counted = _counted(folder, model, settings)
                    ratio = planned.flops / counted
                    say("  operations predicted / counted", f"{ratio:.2f}", "0.8 to 1.2")


def _counted(folder: Path, model: StreamedModel, settings: Local) -> int:
    sample = Artifact(folder / "calibration", token_ids.KIND)
    masks = Artifact(folder / "masks", mask_store.KIND)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        states = open_states(model, sample, folder / "hidden", Path(scratch))
        with FlopCounterMode(display=False) as counter:
            adapt(model, masks, states, settings)
    return int(counter.get_total_flops())


def bench_72b() -> None:
    """Adapt one block of Qwen2.5-72B's shape with random weights."""
    with tempfile.TemporaryDirectory(dir="results") as base:
        folder = Path(base)
        config = one_block(QWEN_72B)
        # One step; the passes run in float32, because few processors multiply in bfloat16.
        write_model(folder, config, torch.bfloat16, tokens=2 * SEQUENCE)
        run_step(folder, "capture")
        run_step(folder, "prune")
        shapes = Shapes.of(config.to_dict(), "bfloat16")
        for window in (1, "attention_mlp", "matrix"):
            settings = settings_of(window=window, precision="float32")
            planned = reconstruct(shapes, 2, SEQUENCE, settings).memory_bytes
            start = time.perf_counter()
            measured = run_step(folder, "reconstruct", settings)
            took = time.perf_counter() - start
            what = f"one block of Qwen2.5-72B, {2 * SEQUENCE} tokens, window {window}: memory"
            value = f"{planned / measured:.2f} ({measured / 1e9:.2f} GB)"
            say(f"{what} predicted / measured", value, "0.8 to 1.2")
            say("  seconds", f"{took:.0f}")


def main() -> None:
    bench_rates()
    bench_depth()
    bench_larger_than_memory()
    bench_predictions()
    bench_72b()
