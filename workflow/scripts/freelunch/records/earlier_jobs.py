"""What earlier jobs tell: how fast a machine is, and in how many jobs windows were adapted."""

import os
from bisect import bisect
from collections.abc import Collection, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from freelunch.core.artifact import MANIFEST
from freelunch.core.digest import unsealed
from freelunch.core.job import processor_name
from freelunch.costs.cost import PASSES
from freelunch.costs.machine import Learnt
from freelunch.study.adaptations import Windowed
from freelunch.study.cell import Cell
from freelunch.study.steps import EVALUATE_CELL, RECONSTRUCT_WINDOW, RETRAIN_MODEL
from freelunch.study.study import Study

# Jobs that mostly pass batches through blocks.
_PASSING = (EVALUATE_CELL, RECONSTRUCT_WINDOW, RETRAIN_MODEL)
# Only the latest records of each study count, and in them only jobs of at least so many operations:
# what starting and reading take is most of a smaller one. A GPU must also have taken a while.
_LATEST = 40
_LEAST_FLOPS, _LEAST_GPU_S = 10**12, 10.0
# Operations per second and thread, or per second on a GPU, that can be meant. Any processor of the
# last fifteen years multiplies large matrices at over 2 GFLOP/s a core; those with units for
# matrices in bfloat16 reach 5 TFLOP/s. GPUs range from a tenth of a T4 to far above a B200.
_CORE_RATES, _GPU_RATES = (1e9, 1e13), (1e12, 1e16)
# Fewer jobs tell nothing: the machine may have been busy with something else.
_LEAST_JOBS = 3


def learnt_rate(results: Path, on_gpu: bool = False, gpus: Collection[str] = ()) -> Learnt | None:
    """Return the rate of earlier jobs of all studies in `results`; None if too few are known.

    Half of the operations ran at this rate or above, so that a few jobs cannot change it. Those of
    a processor count by the time that each of their threads computed, however long they waited for
    other jobs.

    If `on_gpu`, jobs on the named GPUs count (on any, if none is named); otherwise, those on the
    processor of a machine like this one.
    """

    def counts(environment: dict[str, Any]) -> bool:
        if on_gpu:
            name = environment.get("device_name")
            return name is not None and (not gpus or name in gpus)
        like_this = (environment.get("processor"), environment.get("cores")) == this_machine
        return environment.get("device") == "cpu" and like_this

    this_machine = processor_name(), os.cpu_count()
    # Cells share jobs, such as what is measured of an equal checkpoint.
    known: dict[tuple[float, float], None] = {}
    for record in _latest(results):
        provenance = record.get("provenance", {})
        for rule in _PASSING:
            cost = record.get("cost", {}).get(rule, {})
            environments = [
                *filter(None, [provenance.get("environments", {}).get(rule)]),
                *provenance.get("other_environments", {}).get(rule, []),
            ]
            if environments and all(map(counts, environments)):
                threads = {each.get("threads", 1) for each in environments}
                flops, seconds = cost.get("flops", 0), cost.get("wall_s", 0.0)
                if not on_gpu:
                    seconds = cost.get("cpu_s", 0.0) / max(threads)
                least, most = _GPU_RATES if on_gpu else (max(threads) * at for at in _CORE_RATES)
                took = flops >= _LEAST_FLOPS and seconds > (_LEAST_GPU_S if on_gpu else 0.0)
                if took and least <= flops / seconds <= most:
                    known[flops / seconds, flops] = None
    if len(known) < _LEAST_JOBS:
        return None
    fastest = sorted(known, reverse=True)
    done = list(accumulate(flops for _, flops in fastest))
    rate, _ = fastest[bisect(done, done[-1] / 2)]
    return Learnt(rate / PASSES.share, len(known))


def _latest(results: Path) -> Iterator[dict[str, Any]]:
    for folder in sorted(results.glob("*/records")):
        records = (path for path in folder.glob("*.json") if path.is_file())
        for path in sorted(records, key=_changed, reverse=True)[:_LATEST]:
            yield unsealed(path.read_bytes()) or {}


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def finished_groups(study: Study) -> int | None:
    """Return how many jobs shared the windows of each reconstruction; None if none is finished.

    A study stays with it. With another number, finished cells would run again whenever the study is
    continued with other GPUs or another executor, or earlier jobs have taught another rate. Of
    several numbers, the latest counts. All parts of a study have the same, since they share cells.
    """
    found = [each for cell in study.of_part(None).cells for each in _groups_of(study, cell)]
    return max(found)[1] if found else None


def _groups_of(study: Study, cell: Cell) -> Iterator[tuple[float, int]]:
    """Yield when windows of a cell were finished, and in how many jobs."""
    for each in study.candidates(cell) or [cell]:
        settings = study.adaptation(each.adaptation)
        if not isinstance(settings, Windowed) or settings.is_sequential:
            return
        windows = study.paths.windows(each, "")
        for first in windows.glob(f"1-of-*/{MANIFEST}"):
            groups = int(first.parent.name.removeprefix("1-of-"))
            parts = [windows / f"{at}-of-{groups}" / MANIFEST for at in range(1, groups + 1)]
            if all(path.is_file() for path in parts):
                yield max(map(_changed, parts)), groups
    record = study.paths.record(cell)
    # A clone that took over the results may have the records alone, and `tidy` removes candidates.
    if record.is_file():
        cost = (unsealed(record.read_bytes()) or {}).get("cost", {})
        if jobs := cost.get(RECONSTRUCT_WINDOW, {}).get("jobs"):
            yield _changed(record), jobs
