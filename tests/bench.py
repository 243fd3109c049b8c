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
from torch import Tensor
from transformers import AutoModelForCausalLM

from freelunch import activations, calibration, pruned
from freelunch.activations import capture_dense, read_statistics
from freelunch.artifact import Artifact
from freelunch.blocks import block_linears
from freelunch.calibration import read_tokens
from freelunch.checkpoint import StreamedModel
from freelunch.cost import Shapes, reconstruction_flops
from freelunch.criteria import sparsegpt
from freelunch.hidden import hidden_file, open_hidden
from freelunch.masks import keep_mask
from freelunch.patterns import Pattern
from freelunch.pruning import prune_model
from freelunch.reconstruction import Window, reconstruct_windows, split_windows
from freelunch.streaming import BlockPass
from freelunch.study import Study, with_defaults

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


def bench_capture(model: StreamedModel, sample: Artifact, gram: bool) -> None:
    input_ids = read_tokens(sample)
    whole = AutoModelForCausalLM.from_pretrained(model.folder).eval()
    blocks = BlockPass(model, *input_ids.shape)

    @torch.no_grad()
    def plain() -> None:
        for batch in blocks.batches:
            whole.model(input_ids[batch], use_cache=False)

    def captured() -> None:
        with tempfile.TemporaryDirectory(dir="results") as scratch:
            capture_dense(model, sample, float("inf"), gram, Path(scratch) / "dense", "bench")

    plain_s, captured_s = alternating(plain, captured)
    say(
        f"capture_dense{' with Gram matrices' if gram else ''} / plain forward of the blocks",
        f"{captured_s / plain_s:.2f} ({captured_s:.1f} s)",
        "none" if gram else "2",
    )


def bench_pruning(model: StreamedModel, sample: Artifact) -> None:
    """Prune by every criterion and pattern of the bound from one dense pass, I/O included."""
    criteria = ("magnitude", "wanda", "ria", "sparsegpt")
    patterns = ("u50", "u60", "2of4", "4of8")
    with tempfile.TemporaryDirectory(dir="results") as folder:
        scratch = Path(folder)

        def capture(number: int) -> None:
            capture_dense(model, sample, float("inf"), True, scratch / f"dense{number}", "bench")

        # Before and after, since the machine's speed changes.
        before = seconds(lambda: capture(0))
        dense = Artifact(scratch / "dense0", activations.KIND)
        times = {}
        for score in criteria:
            criterion = with_defaults({"score": score})
            for name in patterns:
                target = scratch / f"{score}-{name}"
                times[score, name] = seconds(
                    lambda criterion=criterion, name=name, target=target: prune_model(
                        model, dense, criterion, Pattern.parse(name), 0, target, "bench", scratch
                    )
                )
        captured_s = statistics.median([before, seconds(lambda: capture(1))])
    all_s = sum(times.values())
    say(
        f"{len(times)} criteria and patterns / the capture_dense they all come from",
        f"{all_s / captured_s:.2f} ({all_s:.0f} s)",
        "2.5",
    )
    of_sparsegpt = statistics.median(times["sparsegpt", name] for name in patterns)
    say("  SparseGPT, one pattern, seconds", f"{of_sparsegpt:.1f}", "none")


def column_loop(weight: Tensor, upper: Tensor, sparsity: float, block: int = 128) -> Tensor:
    """Eliminate as SparseGPT's own code does: every later column of a block after each column."""
    weight, columns = weight.clone(), weight.shape[1]
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        inner, here = weight[:, start:stop].clone(), upper[start:stop, start:stop]
        errors = torch.zeros_like(inner)
        costs = inner.square() / here.diagonal().square()
        goes = costs <= costs.flatten().sort().values[int(costs.numel() * sparsity) - 1]
        for column in range(stop - start):
            kept = inner[:, column].clone()
            kept[goes[:, column]] = 0.0
            error = (inner[:, column] - kept) / here[column, column]
            inner[:, column:] -= error[:, None] @ here[column, column:][None, :]
            errors[:, column] = error
        weight[:, start:stop] = inner.masked_fill(goes, 0.0)
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return weight


def bench_elimination(model: StreamedModel, dense: Artifact) -> None:
    """One thread, all matrices of a block, equal masks."""
    torch.set_num_threads(1)
    u50, criterion = Pattern.parse("u50"), with_defaults({"score": "sparsegpt"})
    block = model.load_block(model.num_blocks // 2)
    inputs = read_statistics(dense, model.num_blocks // 2, gram=True)
    work = [
        (linear.weight, inputs[name], sparsegpt.factorise(inputs[name], criterion["damping"]))
        for name, linear in block_linears(block).items()
    ]

    def usual() -> list[Tensor]:
        return [column_loop(weight, factor.upper, u50.sparsity) for weight, _, factor in work]

    def ours() -> list[Tensor]:
        return [sparsegpt.prune(weight, x, u50, criterion)[0] for weight, x, _ in work]

    different = sum(
        int(((one == 0) != (other == 0)).sum()) for one, other in zip(usual(), ours(), strict=True)
    )
    usual_s, ours_s = alternating(usual, ours)
    say(
        f"usual column loop / SparseGPT's elimination, 1 thread ({different} weights differ)",
        f"{usual_s / ours_s:.2f}",
        "at least 3",
    )
    torch.set_num_threads(2)


def bench_selection() -> None:
    scores = torch.rand(2048, 8192)
    for name in ("u50", "2of4"):
        for scope in ("row", "matrix") if name == "u50" else ("row",):
            groups = scores if scope == "row" else scores.reshape(1, -1)
            sorted_s, selected_s = alternating(
                lambda groups=groups: groups.sort(dim=1),
                lambda name=name, scope=scope: keep_mask(scores, Pattern.parse(name), scope),
            )
            say(
                f"full sort / mask of 2048 x 8192, {name}, scope {scope}",
                f"{sorted_s / selected_s:.1f}",
                "at least 4",
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
    masks = Artifact(paths.pruned(MODEL, "wanda-u50", 0), pruned.KIND)
    print(f"2 threads, {matmul_rate() / 1e9:.0f} GFLOP/s in a block's own matrix products\n")
    bench_capture(model, sample, gram=False)
    bench_capture(model, sample, gram=True)
    bench_pruning(model, sample)
    bench_elimination(model, dense)
    bench_selection()
    bench_reconstruction(model, dense, masks)
    bench_start()
    show_study()


if __name__ == "__main__":
    main()
