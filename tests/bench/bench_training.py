"""Speed of adapting windows and of retraining a whole model (a part of `make bench`)."""

import math
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from freelunch.adaptation.job import AdaptationJob
from freelunch.adaptation.reconstruction.windows_in_turn import reconstruct_windows
from freelunch.adaptation.retraining.training_run import TrainingRun
from freelunch.core.artifact import Artifact
from freelunch.core.devices import BFLOAT16, fast_precision
from freelunch.costs.retraining_costs import PlannedRetraining
from freelunch.costs.shapes import Shapes
from freelunch.costs.window_costs import reconstruction_work
from freelunch.model import mask_store, token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import DenseStates, open_states
from freelunch.study.methods import DISTILLATION
from freelunch.study.retraining import read_adaptation
from freelunch.study.study import Study
from freelunch.study.windows import split_windows
from timing import REPEATS, matmul_rate, say, seconds

MODEL = "smollm2-135m"
BLOCKS = 4
Entry = dict[str, Any]
WINDOWS: dict[str, Entry] = {
    "block": {"window": 1},
    "matrix": {"window": "matrix"},
    "attention_mlp": {"window": "attention_mlp"},
    "2 blocks": {"window": 2},
    "matrix, exact": {"method": "least_squares"},
}
# Other processors would take minutes for it.
if fast_precision(on_device=False) == BFLOAT16:
    WINDOWS["block, bfloat16"] = {"window": 1, "precision": BFLOAT16}
METHODS: dict[str, Entry] = {
    "full": {"method": "full"},
    "masklora": {"method": "masklora"},
    "full, distilled": {"method": "full", "loss": DISTILLATION},
}
# The least rate, and the most seconds in proportion to another piece of work.
RATES = {"block": 0.80, "full": 0.75, "masklora": 0.65}
RATIOS = {"matrix": 1, "block, bfloat16": 1, "attention_mlp": math.inf, "2 blocks": math.inf}
# The finished default study's model, Wanda's masks and hidden states.
Studied = tuple[StreamedModel, Artifact, DenseStates]


@contextmanager
def studied() -> Iterator[Studied]:
    paths = Study.load(Path("config.yaml")).paths
    model = StreamedModel(paths.model(MODEL))
    sample = Artifact(paths.calibration(MODEL, 0), token_ids.KIND)
    masks = Artifact(paths.pruned(MODEL, "wanda-u50", 0), mask_store.KIND)
    with tempfile.TemporaryDirectory(dir="results") as scratch:
        yield model, masks, open_states(model, sample, paths.hidden(MODEL, 0), Path(scratch))


def say_rates(works: dict[str, tuple[Callable[[], object], float]]) -> None:
    """Time pieces of work, each with its operations, in turns, with the threads of a job and with
    those of the machine.
    """
    for threads in (1, 2):
        torch.set_num_threads(threads)
        times: dict[str, list[float]] = {name: [] for name in works}
        rates: dict[str, list[float]] = {name: [] for name in works}
        for _, (name, (work, flops)) in product(range(REPEATS), works.items()):
            before = matmul_rate()
            took = seconds(work)
            # The machine's speed changes: use the mean of its speeds before and after.
            machine = (before + matmul_rate()) / 2
            times[name].append(took)
            rates[name].append(flops / took / machine)
        for name in works:
            took, rate = statistics.median(times[name]), statistics.median(rates[name])
            what = f"{name}, {threads} threads: rate / matrix multiplication's, float32"
            say(what, rate, least=RATES.get(name, 0), note=f"{took:.1f} s")
        for name in works.keys() & RATIOS.keys():
            ratios = [a / b for a, b in zip(times[name], times["block"], strict=True)]
            what = f"seconds of {name} / block, {threads} threads"
            say(what, statistics.median(ratios), most=RATIOS[name])
    torch.set_num_threads(2)


def bench_windows() -> None:
    """Time windows of the first few blocks. An epoch counts as three forward passes, the usual
    formula, as if norms were trained.
    """
    with studied() as (model, masks, states):
        shapes = Shapes.of(model.config.to_dict(), "float32")
        sample = states.sequences, states.length
        works: dict[str, tuple[Callable[[], object], float]] = {}
        for name, entry in WINDOWS.items():
            entry = {"method": "reconstruction", **entry}
            counted: Any = read_adaptation(entry)
            if entry["method"] == "reconstruction":
                entry["train_norms"] = False
            flops = reconstruction_work(shapes, *sample, counted, blocks=BLOCKS).total()
            works[name] = partial(adapt, (model, masks, states), read_adaptation(entry)), flops
        say_rates(works)


def adapt(of: Studied, settings: Any) -> None:
    """Adapt the windows of the first few blocks, and discard the results."""
    whole = split_windows(of[0].num_blocks, settings.window)
    windows = [each for each in whole if each.stop <= BLOCKS]
    assert windows and windows[-1].stop == BLOCKS
    with tempfile.TemporaryDirectory(dir="results") as folder:
        job = AdaptationJob(*of, settings, 0, Path(folder) / "windows", "bench")
        reconstruct_windows(job, settings.window, windows)


def stepping(of: Studied, entry: Entry) -> Callable[[], object]:
    """Return a step of a training that has taken one."""
    settings: Any = read_adaptation(entry)
    folder = of[2].scratch / "-".join(map(str, entry.values()))
    training = TrainingRun(AdaptationJob(*of, settings, 0, folder, ""))
    step = partial(training.step, 1, 1e-6, torch.arange(settings.batch))
    step()
    return step


def bench_steps() -> None:
    """Time steps of retrainings. A step of `full` counts as three forward passes, including the
    head; a step of another method counts the operations that the method has to compute.
    """
    with studied() as of:
        shapes = Shapes.of(of[0].config.to_dict(), "float32")
        for name, entry in METHODS.items():
            settings: Any = read_adaptation(entry)
            # Without the losses before and after the training.
            epoch = PlannedRetraining(shapes, 10**6, of[2].length, settings).work().total()
            # One training at a time is in memory.
            say_rates({name: (stepping(of, entry), epoch / (10**6 / settings.batch))})


def main() -> None:
    bench_windows()
    bench_steps()
