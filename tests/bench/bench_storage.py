"""Reading and computing at once (a part of `make bench`).

Storage is made as slow as the computation: reading all that a piece of work reads takes as long as
computing it. With both at once, the work takes hardly longer than either; one after the other, it
takes their sum.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from bench_windows import adapt, settings_of

from freelunch.adaptation.retraining.driver import Training
from freelunch.core.artifact import Artifact
from freelunch.evaluation.cell import pass_through
from freelunch.evaluation.perplexity import Perplexity
from freelunch.model import mask_store, token_ids, transfer
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import open_states
from freelunch.model.tensor_file import TensorFile
from freelunch.study.retraining import read_adaptation
from random_models import llama, run_step, write_model
from timing import say, seconds

REPEATS = 3
BLOCKS = 2
# Many batches of a block, as in a study of a large model: what a block reads first waits for the
# block before it.
SEQUENCES, LENGTH = 256, 256
# A block has few bytes beside the hidden states of the sample, as in a study of a large model.
SIZES = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": BLOCKS}
# Bytes that a slow disk delivers at a time, so that two readers share it.
PIECE = 2**18


class SlowDisk:
    """A disk that delivers so many bytes a second, to all readers together; None for no limit.

    Attributes:
        count: Bytes that were read.
        busy_s: Seconds that the disk was busy.
    """

    def __init__(self, rate: float | None = None) -> None:
        self._rate, self._lock = rate, threading.Lock()
        self.count, self.busy_s = 0, 0.0

    def deliver(self, count: int) -> None:
        self.count += count
        for start in range(0, count if self._rate else 0, PIECE):
            with self._lock:
                begun = time.perf_counter()
                time.sleep(min(PIECE, count - start) / self._rate)
                self.busy_s += time.perf_counter() - begun

    @contextmanager
    def used(self) -> Iterator["SlowDisk"]:
        """Have hidden states and blocks come from this disk."""
        read = TensorFile.read

        def slow_read(file: TensorFile, *arguments: Any, **named: Any) -> torch.Tensor:
            found = read(file, *arguments, **named)
            self.deliver(found.nbytes)
            return found

        with mock.patch.object(TensorFile, "read", slow_read):
            yield self


def one_after_another(items: Any, read: Callable[[Any], Any]) -> Iterator[tuple[Any, Any]]:
    """Read an item when it is asked for: `read_ahead` without its thread."""
    return ((item, read(item)) for item in items)


def compare(name: str, work: Callable[[], object]) -> None:
    """Time a piece of work with fast storage, and with slow storage in both ways."""
    ahead, waiting = [], []
    work()
    for _ in range(REPEATS):
        with SlowDisk().used() as disk:
            computing = seconds(work)
        rate = disk.count / computing
        with SlowDisk(rate).used() as disk:
            took = seconds(work)
        ahead.append(took / max(disk.busy_s, computing))
        with (
            SlowDisk(rate).used() as disk,
            mock.patch.object(transfer, "read_ahead", one_after_another),
        ):
            took = seconds(work)
        waiting.append(took / max(disk.busy_s, computing))
    what = f"{name}: seconds / the longer of reading and computing"
    say(what, f"{statistics.median(ahead):.2f} ({computing:.1f} s)", "1.15")
    say("  without reading ahead", f"{statistics.median(waiting):.2f}")


def main() -> None:
    with tempfile.TemporaryDirectory(dir="results") as base:
        folder = Path(base)
        write_model(folder, llama(**SIZES), torch.float32, tokens=SEQUENCES * LENGTH)
        run_step(folder, "capture")
        run_step(folder, "prune")
        model = StreamedModel(folder / "checkpoint")
        sample = Artifact(folder / "calibration", token_ids.KIND)
        masks = Artifact(folder / "masks", mask_store.KIND)
        states = open_states(model, sample, folder / "hidden", folder)
        window = settings_of(window=1, batch=4)
        compare("windows", lambda: adapt(model, masks, states, window))

        def measure() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                pass_through(model, [Perplexity(model, states.input_ids, Path(scratch))])

        compare("a pass", measure)
        settings = read_adaptation({"method": "masklora", "batch": SEQUENCES, "micro_batch": 4})
        arguments = (model, masks, states, settings, 0, folder / "retraining", "")
        training = Training(*arguments, streamed=True)
        rows = torch.arange(SEQUENCES)
        compare("a step of a streamed retraining", lambda: training.step(1, 1e-6, rows))


if __name__ == "__main__":
    main()
