"""Speed and memory of the default study, as ratios within one run (`make bench`).

These machines are noisy, so nothing here is a test: each ratio is a median over alternating
repetitions, and stands beside the bound that the project set itself. Needs the finished default
study.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM

from freelunch import activations, calibration, pruning
from freelunch.activations import capture_dense
from freelunch.artifact import Artifact
from freelunch.calibration import read_tokens
from freelunch.checkpoint import StreamedModel
from freelunch.cost import Shapes, reconstruction_flops
from freelunch.hidden import hidden_file, open_hidden
from freelunch.reconstruction import Window, reconstruct_windows, split_windows
from freelunch.streaming import BlockPass
from freelunch.study import Study

STUDY = Study.load(Path("config.yaml"))
MODEL, REPEATS = "smollm2-135m", 5
GIB = 2**30


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternating(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Return the median seconds of two pieces of work, done in turns."""
    times = [(seconds(one), seconds(other)) for _ in range(REPEATS)]
    return statistics.median(t for t, _ in times), statistics.median(t for _, t in times)


def say(what: str, value: str, bound: str) -> None:
    print(f"{what:<58} {value:>16}   bound: {bound}", flush=True)


def matmul_rate() -> float:
    """Return the float32 operations a second of products of a block's own shape."""
    a, b = torch.randn(2048, 576), torch.randn(1536, 576)
    linear = torch.nn.functional.linear
    times = [seconds(lambda: [linear(a, b) for _ in range(20)]) for _ in range(7)]
    return 20 * 2 * 2048 * 576 * 1536 / statistics.median(times)


def bench_capture(model: StreamedModel, sample: Artifact) -> None:
    input_ids = read_tokens(sample)
    whole = AutoModelForCausalLM.from_pretrained(model.folder).eval()
    blocks = BlockPass(model, *input_ids.shape)

    @torch.no_grad()
    def plain() -> None:
        for batch in blocks.batches:
            whole.model(input_ids[batch], use_cache=False)

    def captured() -> None:
        with tempfile.TemporaryDirectory(dir="results") as scratch:
            capture_dense(model, sample, float("inf"), Path(scratch) / "dense", "bench")

    plain_s, captured_s = alternating(plain, captured)
    say(
        "capture_dense / plain forward of the blocks, I/O included",
        f"{captured_s / plain_s:.2f} ({captured_s:.1f} s)",
        "2",
    )


def bench_reconstruction(model: StreamedModel, dense: Artifact, masks: Artifact) -> None:
    settings = STUDY.adaptation("recon_block") or {}
    windows = split_windows(model.num_blocks, 1)[:4]
    sequences, length = dense.facts["sequences"], dense.facts["length"]
    blocks = BlockPass(model, sequences, length)
    batch = settings["batch"]

    calls = blocks.calls(batch)
    loaded = [Window.load(model, masks, indices) for indices in windows]
    for window in loaded:
        window.trained(train_norms=True, train_biases=True)

    def passes() -> None:
        """The forward and backward passes of the same windows, and nothing else."""
        for window in loaded:
            inputs = open_hidden(dense.path(hidden_file(window.indices.start)))
            targets = open_hidden(dense.path(hidden_file(window.indices.stop)))
            for start in range(0, sequences, batch):
                rows = slice(start, start + batch)
                loss = torch.nn.functional.mse_loss(window(inputs[rows], calls), targets[rows])
                loss.backward()  # type: ignore[no-untyped-call]

    def reconstruction() -> None:
        with tempfile.TemporaryDirectory(dir="results") as scratch:
            reconstruct_windows(
                model, masks, dense, windows, settings, 0, Path(scratch) / "windows", "bench"
            )

    passes_s, whole_s = alternating(passes, reconstruction)
    say("recon_block / its own forward and backward passes", f"{whole_s / passes_s:.2f}", "1.3")
    shapes = Shapes.of(model.config.to_dict(), "float32")
    flops = reconstruction_flops(shapes, sequences, length, settings, len(windows))
    rate = flops / whole_s / matmul_rate()
    say("  rate of all of it / matrix multiplication rate", f"{rate:.2f}", "none yet")


def bench_start() -> None:
    commands = {
        "plan": [sys.executable, "-m", "freelunch", "plan"],
        "dry run": ["snakemake", "--cores", "all", "--dry-run", "--forceall"],
    }
    for name, command in commands.items():
        times = [
            seconds(
                lambda command=command: subprocess.run(command, capture_output=True, check=True)
            )
            for _ in range(REPEATS)
        ]
        say(f"{name}, seconds", f"{statistics.median(times):.2f}", "4")


def show_study() -> None:
    """Say what the last run of the default study cost, from what its jobs noted."""
    runs = {
        str(path.parent): json.loads(path.read_text())["cost"]
        for root in (f"resources/models/{MODEL}", "resources/texts", "results/laptop")
        for path in Path(root).glob("**/run.json")
    }
    largest = max(runs, key=lambda name: runs[name]["peak_bytes"])
    peak = runs[largest]["peak_bytes"] / GIB
    say("largest job of the default study, GiB", f"{peak:.2f}", "3")
    busy = sum(run["cpu_s"] for run in runs.values())
    say("processor seconds of all its jobs / 2 cores, minutes", f"{busy / 120:.1f}", "10")


def main() -> None:
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    paths = STUDY.paths
    model = StreamedModel(paths.model(MODEL))
    sample = Artifact(paths.calibration(MODEL, 0), calibration.KIND)
    dense = Artifact(paths.dense(MODEL, 0), activations.KIND)
    masks = Artifact(paths.pruned(MODEL, "wanda-u50", 0), pruning.KIND)
    print(f"2 threads, {matmul_rate() / 1e9:.0f} GFLOP/s in a block's own matrix products\n")
    bench_capture(model, sample)
    bench_reconstruction(model, dense, masks)
    bench_start()
    show_study()


if __name__ == "__main__":
    main()
