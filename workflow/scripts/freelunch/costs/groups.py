"""In how many jobs the windows of a reconstruction are adapted, where nobody says how many."""

from collections.abc import Iterator
from pathlib import Path

from freelunch.core.artifact import MANIFEST
from freelunch.costs.jobs import jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.study.adaptations import Windowed
from freelunch.study.cell import Cell
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.study import Study

# A job of less than this many seconds is not divided: starting more jobs, or waiting for them in a
# queue, would cost more than it saves.
WORTH_S = 600.0


def finished_groups(study: Study) -> int | None:
    """Return in how many jobs a study's windows were adapted; None if no reconstruction is finished.

    A study stays with it. Another number would run jobs again that are done: only to take over
    their windows, but in every cell, whenever it is continued with other GPUs or executors, or
    earlier jobs have taught another rate. Of several numbers, the latest counts.
    """
    found = [
        (max(path.stat().st_mtime for path in parts), len(parts))
        for cell in _divided(study)
        for first in study.paths.windows(cell, "").glob(f"1-of-*/{MANIFEST}")
        if all(path.is_file() for path in (parts := _parts(first)))
    ]
    return max(found)[1] if found else None


def _divided(study: Study) -> Iterator[Cell]:
    """Yield the cells and candidates whose windows several jobs may share."""
    for cell in study.cells:
        for each in study.candidates(cell) or [cell]:
            settings = study.adaptation(each.adaptation)
            if isinstance(settings, Windowed) and not settings.is_sequential:
                yield each


def _parts(first: Path) -> list[Path]:
    """Return the manifests of all groups of a division, from that of its first group."""
    groups = int(first.parent.name.removeprefix("1-of-"))
    folder = first.parents[1]
    return [folder / f"{group}-of-{groups}" / first.name for group in range(1, groups + 1)]


def window_groups(plan: Plan, machine: Machine, workers: int) -> int:
    """Return how many jobs share the windows of each reconstruction.

    Cells run side by side first. Windows share out the workers that these leave.

    Args:
        plan: The plan.
        machine: The machine whose rates it takes.
        workers: How many jobs can compute at a time: GPUs of this machine, or nodes of a cluster.
    """
    jobs = []
    for job in jobs_of(plan.study):
        settings = plan.study.adaptation(job.adaptation)
        if job.rule == RECONSTRUCT_WINDOW and isinstance(settings, Windowed):
            jobs += [] if settings.is_sequential else [job]
    spare = workers // max(1, len(jobs))
    if spare < 2:
        return 1
    costs = [plan.step(*job) for job in jobs]
    longest = max((cost.seconds(machine) for cost in costs if cost), default=0.0)
    return max(1, min(spare, int(longest // WORTH_S)))
