"""How fast earlier jobs were on this machine, or on the GPUs of a cluster, by their records."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from freelunch.core.digest import unsealed
from freelunch.core.job import processor_name
from freelunch.costs.cost import PASSES
from freelunch.costs.machine import Learnt
from freelunch.study.steps import EVALUATE_CELL, RECONSTRUCT_WINDOW, RETRAIN_MODEL

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
