"""What earlier jobs tell: how fast a machine is, and in how many jobs windows were adapted."""

import os
from collections.abc import Collection, Iterator
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
# Only the latest records count, and in them only jobs that took at least so many seconds.
_LATEST = 40
_LEAST_S = 10.0
# Fewer jobs tell nothing: the machine may have been busy with something else.
_LEAST_JOBS = 3


def learnt_rate(results: Path, on_gpu: bool = False, gpus: Collection[str] = ()) -> Learnt | None:
    """Return the rate of earlier jobs of any study; None if too few are known.

    Args:
        results: The folder with the results of all studies.
        on_gpu: Whether jobs on GPUs count; otherwise, those on the processor of a machine like this
            one count.
        gpus: Names of the GPUs that count; all count if it is empty.
    """

    def counts(environment: dict[str, Any]) -> bool:
        if on_gpu:
            name = environment.get("device_name")
            return name is not None and (not gpus or name in gpus)
        like_this = (environment.get("processor"), environment.get("cores")) == this_machine
        return environment.get("device") == "cpu" and like_this

    this_machine = processor_name(), os.cpu_count()
    found = [
        (flops, seconds)
        for environments, flops, seconds in _jobs(results)
        if all(map(counts, environments))
    ]
    if len(found) < _LEAST_JOBS:
        return None
    flops, seconds = map(sum, zip(*found, strict=True))
    return Learnt(flops / seconds / PASSES.share, len(found))


def _jobs(results: Path) -> Iterator[tuple[list[dict[str, Any]], float, float]]:
    """Yield the environments, the operations and the seconds of jobs that passed batches."""
    seen = set()
    records = (path for path in results.glob("*/records/*.json") if path.is_file())
    for path in sorted(records, key=_changed, reverse=True)[:_LATEST]:
        record = unsealed(path.read_bytes()) or {}
        provenance = record.get("provenance", {})
        environments, others = (
            provenance.get(key, {}) for key in ("environments", "other_environments")
        )
        for rule in _PASSING:
            cost = record.get("cost", {}).get(rule, {})
            job = cost.get("flops", 0), cost.get("wall_s", 0.0)
            # Cells share jobs, such as what is measured of an equal checkpoint.
            if job[0] and job[1] >= _LEAST_S and rule in environments and job not in seen:
                seen.add(job)
                yield [environments[rule], *others.get(rule, [])], *job


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def finished_groups(study: Study) -> int | None:
    """Return how many jobs shared the windows of each reconstruction; None if none is finished.

    A study stays with it. With another number, finished cells would run again whenever the study is
    continued with other GPUs or another executor, or earlier jobs have taught another rate. Of
    several numbers, the latest counts. All parts of a study have the same, since they share cells.
    """
    found = [each for cell in study.of_part(None).cells for each in _of_cell(study, cell)]
    return max(found)[1] if found else None


def _of_cell(study: Study, cell: Cell) -> Iterator[tuple[float, int]]:
    """Yield when windows of a cell were finished, and in how many jobs."""
    for each in study.candidates(cell) or [cell]:
        settings = study.adaptation(each.adaptation)
        if not isinstance(settings, Windowed) or settings.is_sequential:
            return
        for first in study.paths.windows(each, "").glob(f"1-of-*/{MANIFEST}"):
            parts = _parts(first)
            if all(path.is_file() for path in parts):
                yield max(path.stat().st_mtime for path in parts), len(parts)
    record = study.paths.record(cell)
    # A clone that took over the results may have the records alone, and `tidy` removes candidates.
    if record.is_file():
        cost = (unsealed(record.read_bytes()) or {}).get("cost", {})
        if jobs := cost.get(RECONSTRUCT_WINDOW, {}).get("jobs"):
            yield record.stat().st_mtime, jobs


def _parts(first: Path) -> list[Path]:
    """Return the manifests of all groups of a division, from that of its first group."""
    groups = int(first.parent.name.removeprefix("1-of-"))
    folder = first.parents[1]
    return [folder / f"{group}-of-{groups}" / first.name for group in range(1, groups + 1)]
