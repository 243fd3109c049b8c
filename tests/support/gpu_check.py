"""Check what this machine's GPU computes, how fast, and in how much memory (`make gpu-check`).

It prints one line per measurement: what was measured, the value, the bound, and a verdict. It exits
with 1 if a bound is missed. `--device cpu --small` tries the same measurements on a processor, with
shapes that take seconds; speed then has no bound.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from freelunch.adaptation.job import AdaptationJob
from freelunch.adaptation.reconstruction.windows_in_turn import reconstruct_windows
from freelunch.adaptation.retraining.training_run import TrainingRun
from freelunch.core.artifact import Artifact
from freelunch.costs.cost import PROCESS_BYTES
from freelunch.costs.retraining_costs import PlannedRetraining, retrain
from freelunch.costs.shapes import Shapes
from freelunch.costs.window_costs import reconstruct, reconstruction_work
from freelunch.model import mask_store, token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import DenseStates, open_states
from freelunch.study.adaptations import Reconstruction
from freelunch.study.retraining import read_adaptation
from random_models import llama, take_step, write_model

# Shares of the rate of a large matrix product, from design goals for an H100 in bfloat16.
PASS_SHARE, WINDOW_SHARE, STREAMED_SHARE = 0.5, 0.5, 0.4
MEMORY_RATIO = 0.8, 1.2
REPEATS = 5
# Of windows, whose times are subtracted.
EPOCHS = 1, 5
# The sizes of Llama-3.1-8B's blocks; the vocabulary is cut, since the head is not what is measured.
LARGE = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 2,
    "vocab_size": 32000,
}
SMALL = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 512,
}


@dataclass(frozen=True)
class Case:
    """Where, "cuda" or "cpu", and at what size measurements are made: sizes of the model, tokens in
    a sequence, sequences.
    """

    device: str
    sizes: dict[str, int]
    length: int
    sequences: int


class Report:
    """Print results one per line, and note how many bounds were missed."""

    def __init__(self) -> None:
        self.missed = 0

    def say(self, what: str, value: str, bound: str = "", met: bool = True) -> None:
        self.missed += not met
        verdict = ("met" if met else "MISSED") if bound else "-"
        print(f"{what:<64} {value:>20}   {bound:<24} {verdict}", flush=True)


def run_tests(report: Report) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or ["no output"]
    report.say("tests that need a GPU", lines[-1].strip("= "), "all pass", done.returncode == 0)


@contextmanager
def prepared(
    case: Case, dtype: torch.dtype
) -> Iterator[tuple[StreamedModel, Artifact, DenseStates, Shapes, Path]]:
    """Give a random pruned model on the device, its masks, its hidden states, and its shapes."""
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base)
        tokens = case.sequences * case.length
        write_model(folder, llama(**case.sizes), dtype, tokens, case.length)
        model = StreamedModel(folder / "checkpoint", case.device)
        sample = Artifact(folder / "calibration", token_ids.KIND)
        scratch = folder / "scratch"
        scratch.mkdir()
        for step in ("capture", "prune"):
            take_step(folder, step, None, False, scratch, case.device)
        masks = Artifact(folder / "masks", mask_store.KIND)
        states = open_states(model, sample, folder / "hidden", scratch)
        name = str(dtype).removeprefix("torch.")
        yield model, masks, states, Shapes.of(model.config.to_dict(), name), folder


def matmul_rate(case: Case) -> float:
    """Return the operations per second of a large matrix product in bfloat16."""
    size = 8192 if case.device == "cuda" else 512
    one, other = (torch.randn(size, size, device=case.device).bfloat16() for _ in range(2))
    return 10 * 2 * size**3 / timed(case, lambda: [one @ other for _ in range(10)])


def timed(case: Case, work: Callable[[], object]) -> float:
    """Return the median seconds of a piece of work, after one that warms up."""
    times = []
    for _ in range(REPEATS + 1):
        synchronise(case)
        start = time.perf_counter()
        work()
        synchronise(case)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def synchronise(case: Case) -> None:
    if case.device == "cuda":
        torch.cuda.synchronize()


def peak(case: Case) -> int | None:
    """Return the peak of the device's memory since it was last asked; None on a processor."""
    if case.device != "cuda":
        return None
    found = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return found


def measure(report: Report, case: Case) -> None:
    """Measure rates and memory of a pass, a window and retraining steps, in bfloat16."""
    rate = matmul_rate(case)
    report.say("matrix product in bfloat16, TFLOP/s", f"{rate / 1e12:.2f}")
    bounded = case.device == "cuda"

    def say_rate(what: str, flops: float, seconds: float, bound: float) -> None:
        share = flops / seconds / rate
        limit = f"at least {bound:.0%}" if bounded else ""
        report.say(
            f"{what}: share of that rate", f"{share:.0%}", limit, share >= bound or not limit
        )

    def say_memory(what: str, predicted: int) -> None:
        measured = peak(case)
        if measured is not None:
            ratio = (predicted - PROCESS_BYTES) / measured
            low, high = MEMORY_RATIO
            value = f"{ratio:.2f} ({measured / 1e9:.1f} GB)"
            met = low <= ratio <= high
            report.say(f"{what}: memory predicted / measured", value, f"{low} to {high}", met)

    with prepared(case, torch.bfloat16) as (model, masks, states, shapes, folder):
        samples, length = states.sequences, states.length
        block, outputs = model.load_block(0), states.create(states.scratch / "outputs")
        hidden = states.at(0)
        took = timed(case, lambda: states.blocks.through_(0, block, hidden, outputs))
        say_rate(
            "pass of a block", shapes.forward_flops(samples * length, length, 1), took, PASS_SHARE
        )
        numbers = iter(range(100))
        # Loading a block, its masks and its shard take as long for one epoch as for more: what
        # more epochs take is training alone.
        few, many = (
            read_adaptation({"method": "reconstruction", "epochs": epochs, "batch": 1})
            for epochs in EPOCHS
        )

        def window(settings: Reconstruction) -> None:
            target = folder / f"adapted-{next(numbers)}"
            name = str(target)
            job: AdaptationJob[Any] = AdaptationJob(model, masks, states, settings, 0, target, name)
            reconstruct_windows(job, 1, [range(1)])
            shutil.rmtree(target)

        peak(case)
        one, more = (timed(case, lambda its=its: window(its)) for its in (few, many))
        took = more - one
        least, most = (
            reconstruction_work(shapes, samples, length, its, blocks=1).total()
            for its in (few, many)
        )
        say_rate("window of a block", most - least, took, WINDOW_SHARE)
        say_memory("window of a block", reconstruct(shapes, samples, length, many).memory_bytes)
        for method in ("masklora", "lora", "full"):
            for streamed in (False, True):
                entry: dict[str, Any] = {"method": method, "batch": samples, "micro_batch": 1}
                retraining = read_adaptation(entry)
                saved = folder / f"{method}-{streamed}"
                job: AdaptationJob[Any] = AdaptationJob(
                    model, masks, states, retraining, 0, saved, ""
                )
                training = TrainingRun(job, streamed)
                rows = torch.arange(samples)
                peak(case)
                took = timed(case, lambda t=training, r=rows: t.step(1e-6, r))
                many = 10**6 // samples * samples
                every = PlannedRetraining(shapes, many, length, retraining, streamed).work().total()
                what = f"step of {method}, {'streamed' if streamed else 'in memory'}"
                bound = STREAMED_SHARE if streamed else 0.0
                say_rate(what, every / (many / samples), took, bound)
                cost = retrain(shapes, samples, length, retraining, streamed=streamed)
                say_memory(what, cost.memory_bytes)
                training.state.remove()
                del training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="shapes that take seconds")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            f"there is no GPU that torch {torch.__version__} can use; install a CUDA build of "
            "torch on a machine with one, or try `--device cpu --small`"
        )
    transformers.logging.disable_progress_bar()
    report = Report()
    if chosen.device == "cuda":
        print(torch.cuda.get_device_name())
        run_tests(report)
    sizes, length = (SMALL, 64) if chosen.small else (LARGE, 4096)
    measure(report, Case(chosen.device, sizes, length, 4 if chosen.small else 8))
    print(f"{report.missed} bounds missed" if report.missed else "all bounds met")
    sys.exit(1 if report.missed else 0)


if __name__ == "__main__":
    main()
