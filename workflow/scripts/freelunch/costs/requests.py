"""What a job asks a scheduler for, from its predicted cost: memory, time and disk.

A scheduler ends a job that takes more than it asked for. Requests therefore have margins, and grow
with each attempt at the job.
"""

from math import ceil
from typing import NamedTuple

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


def request(plan: Plan, machine: Machine, job: Job, attempt: int = 1) -> Request:
    """Return what a job of a plan asks for.

    Args:
        plan: The plan.
        machine: The machine whose rates the job is planned with.
        job: The job.
        attempt: Which attempt at the job this is, from 1.
    """
    more_memory, more_time = MORE_MEMORY ** (attempt - 1), MORE_TIME ** (attempt - 1)
    cost = plan.step(*job)
    if cost is None:
        memory, minutes, disk = UNKNOWN_MB * more_memory, UNKNOWN_MINUTES * more_time, 1000
        return Request(ceil(memory), ceil(minutes), disk)
    host = cost.memory(plan.device_bytes is not None).host
    memory = host * MEMORY_MARGIN + KEPT_BYTES + AROUND_BYTES
    minutes = max(LEAST_MINUTES, cost.seconds(machine) * TIME_MARGIN / 60)
    return Request(
        ceil(memory * more_memory / 1e6),
        ceil(minutes * more_time),
        ceil((cost.disk_bytes + cost.scratch_bytes) / 1e6),
    )
