"""What a job asks a scheduler for, from its predicted cost: memory, time and disk.

A scheduler ends a job that takes more than it asked for. Requests therefore have margins, and grow
with each attempt at the job.
"""

from collections.abc import Mapping, Sequence
from math import ceil, inf
from typing import Any, NamedTuple

from freelunch.core.job import KEPT_BYTES
from freelunch.costs.jobs import Job
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan

# The request is the prediction times this.
MEMORY_MARGIN, TIME_MARGIN = 1.15, 2.0
# A second attempt asks for this many times as much as the first, and so on.
MORE_MEMORY, MORE_TIME = 1.5, 2.0
# What the scheduler counts besides the job's own process: Snakemake, which a Slurm job starts twice
# (measured: 196 MB each).
AROUND_BYTES = 400_000_000
# Minutes that any job asks for: on a busy node or file system, its start alone may take some.
LEAST_MINUTES = 10
# Requests of a job whose cost is not known, because its model is not here yet.
UNKNOWN_MB, UNKNOWN_MINUTES = 4000, 240


class Request(NamedTuple):
    """What a job asks for.

    Attributes:
        mem_mb: Memory of the host, in MB.
        runtime: Time, in minutes.
        disk_mb: Disk that it fills, for as long as it runs or for good, in MB.
    """

    mem_mb: int
    runtime: int
    disk_mb: int


# What collecting the record of a cell asks for.
RECORD = Request(mem_mb=700, runtime=10, disk_mb=0)


class Limits(NamedTuple):
    """The most that a job may ask for.

    Attributes:
        mem_mb: Memory of the host, in MB.
        runtime: Time, in minutes.
    """

    mem_mb: float = inf
    runtime: float = inf

    def take(self, asked: Mapping[str, Any]) -> bool:
        """Return whether a job, known by its resources, asks for no more."""
        return (asked.get("mem_mb") or 0) <= self.mem_mb and (
            (asked.get("runtime") or 0) <= self.runtime
        )


def request(plan: Plan, machine: Machine, job: Job, groups: int = 1) -> Request:
    """Return what a job of a plan asks for at its first attempt.

    Args:
        plan: The plan.
        machine: The machine whose rates the job is planned with.
        job: The job.
        groups: How many jobs share the windows of each reconstruction whose windows are
            independent; each asks for what the one needs that has most to do.
    """
    cost = plan.step(*job, groups=groups)
    if cost is None:
        return Request(UNKNOWN_MB, UNKNOWN_MINUTES, 1000)
    host = cost.memory(plan.device_bytes is not None).host
    memory = host * MEMORY_MARGIN + KEPT_BYTES + AROUND_BYTES
    minutes = max(LEAST_MINUTES, cost.seconds(machine) * TIME_MARGIN / 60)
    return Request(
        ceil(memory / 1e6),
        ceil(minutes),
        ceil((cost.disk_bytes + cost.scratch_bytes) / 1e6),
    )


def together(requests: Sequence[Request]) -> Request:
    """Return what jobs ask for that a scheduler runs one after another as one job."""
    memory, time, disk = zip(*requests, strict=True)
    return Request(max(memory), sum(time), max(disk))


def again(first: Request, attempt: int, whole: Request, most: Limits) -> Request:
    """Return what a further attempt at a job asks for: more, up to a limit.

    Snakemake does not say what ran out, so time and memory both grow.

    Args:
        first: What the first attempt asked for.
        attempt: Which attempt it is, from 1.
        whole: What the first attempt asked for with the jobs that a scheduler runs as one with it.
        most: The most that these may ask for together.
    """
    memory = min(first.mem_mb * MORE_MEMORY ** (attempt - 1), max(first.mem_mb, most.mem_mb))
    more_time = min(MORE_TIME ** (attempt - 1), max(1.0, most.runtime / whole.runtime))
    # Rounding up could exceed the limit.
    return first._replace(mem_mb=int(memory), runtime=int(first.runtime * more_time))
