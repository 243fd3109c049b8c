"""What jobs ask a scheduler for, and how they share work, from their predicted cost.

A scheduler ends a job that takes more than it asked for. Requests therefore have margins, and grow
with each attempt at the job.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil, inf
from typing import Any, NamedTuple

from freelunch.core.job import KEPT_BYTES
from freelunch.costs.cost import START_S
from freelunch.costs.jobs import PlannedJob, can_be_shared, jobs_of, sharers_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.study.cell import NONE, Cell
from freelunch.study.criteria import OfWeights
from freelunch.study.steps import PRUNE_MODEL
from freelunch.study.study import Study

# The request is the prediction times this.
MEMORY_MARGIN, TIME_MARGIN = 1.15, 2.0
# A second attempt asks for this many times as much as the first, and so on.
MORE_MEMORY, MORE_TIME = 1.5, 2.0
# What the scheduler counts besides the job's own process: Snakemake, which a Slurm job starts twice
# (measured: 196 MB each).
AROUND_BYTES = 400_000_000
# Minutes that any step asks for: on a busy node or file system, its start alone may take some. A
# scheduler gets several steps as one job, and partitions for short jobs end them after ten minutes.
LEAST_MINUTES = 3
# Requests of a job whose cost is not known, because its model is not here yet.
UNKNOWN_MB, UNKNOWN_MINUTES = 4000, 240
# A job of less than this many seconds is not divided: starting more jobs, or waiting for them in a
# queue, would cost more than it saves.
WORTH_S = 600.0


class JobRequest(NamedTuple):
    """What a job asks for: memory of the host (MB), time (minutes), and disk that it fills, for as
    long as it runs or for good (MB).
    """

    mem_mb: int
    runtime: int
    disk_mb: int


# What collecting the record of a cell asks for.
RECORD = JobRequest(mem_mb=700, runtime=LEAST_MINUTES, disk_mb=0)


class Limits(NamedTuple):
    """The most memory of the host (MB) and time (minutes) that a job may ask for."""

    mem_mb: float = inf
    runtime: float = inf

    def take(self, asked: Mapping[str, Any]) -> bool:
        """Return whether a job, known by its resources, asks for no more."""
        return all((asked.get(name) or 0) <= most for name, most in self._asdict().items())


def request(plan: Plan, machine: Machine, job: PlannedJob, groups: int = 1) -> JobRequest:
    """Return what a job of a plan asks for at its first attempt, or the largest of the `groups`
    jobs that share the windows of each reconstruction whose windows are independent.
    """
    cost = plan.cost(job, groups)
    if cost is None:
        return JobRequest(UNKNOWN_MB, UNKNOWN_MINUTES, 1000)
    host = cost.memory(plan.device_bytes is not None).host
    memory = host * MEMORY_MARGIN + KEPT_BYTES + AROUND_BYTES
    minutes = max(LEAST_MINUTES, cost.seconds(machine) * TIME_MARGIN / 60)
    disk = cost.disk_bytes + cost.scratch_bytes
    return JobRequest(ceil(memory / 1e6), ceil(minutes), ceil(disk / 1e6))


def planned_s(plan: Plan, machine: Machine, rule: str, wildcards: Mapping[str, str]) -> float:
    """Return the seconds that the plan gives one job of a run, by which the terminal's bar weights
    it; for a job whose cost the plan does not know, the time that any job takes to start.
    """
    job = PlannedJob.of_wildcards(rule, wildcards)
    cost = plan.cost(job, sharers_of(wildcards)) if job is not None else None
    return START_S if cost is None else cost.seconds(machine)


def together(requests: Sequence[JobRequest]) -> JobRequest:
    """Return what jobs ask for that a scheduler runs one after another as one job."""
    memory, time, disk = zip(*requests, strict=True)
    return JobRequest(max(memory), sum(time), max(disk))


def again(
    first: JobRequest, attempt: int, whole: JobRequest, most: Limits, in_time: int | None = None
) -> JobRequest:
    """Return what an attempt at a job, counted from 1, asks for: more than the first, up to the
    most that it may ask for together with the jobs that a scheduler runs as one with it, whose
    first attempts asked for `whole`. Snakemake does not say what ran out, so time and memory grow;
    memory only with the attempts that did not run out of time, `in_time` of them (all by default).
    """
    lacking = attempt - 1 if in_time is None else in_time
    memory = min(first.mem_mb * MORE_MEMORY**lacking, max(first.mem_mb, most.mem_mb))
    more_time = min(MORE_TIME ** (attempt - 1), max(1.0, most.runtime / whole.runtime))
    # Rounding up could exceed the limit.
    return first._replace(mem_mb=int(memory), runtime=int(first.runtime * more_time))


def window_groups(plan: Plan, machine: Machine, workers: int) -> int:
    """Return how many jobs share the windows of each reconstruction, if the user does not say.

    Cells run side by side first. The windows of each cell share the workers (GPUs of this machine,
    or nodes of a cluster) that are left.
    """
    jobs = [job for job in jobs_of(plan.study) if can_be_shared(plan.study, job)]
    spare = workers // max(1, len(jobs))
    costs = [plan.cost(job) for job in jobs]
    longest = max((cost.seconds(machine) for cost in costs if cost), default=0.0)
    return max(1, min(spare, int(longest // WORTH_S)))


def is_shared(study: Study, criterion: str) -> bool:
    """Return whether masks of a criterion can be chosen with others: those of single weights, from
    the dense model's statistics.
    """
    settings = study.criterion(criterion)
    return isinstance(settings, OfWeights) and settings.statistics == "dense"


def mask_groups(
    plan: Plan, machine: Machine, model: str, prunings: Iterable[str], workers: int
) -> list[list[str]]:
    """Divide masks of a model and seed, `{criterion}-{pattern}`, into as many groups as there are
    workers, which take about the same time; one job chooses those of a group in one pass. Masks
    that cannot be chosen together are in no group.
    """
    seconds = {}
    for pruning in sorted(prunings):
        criterion, pattern = pruning.split("-")
        if is_shared(plan.study, criterion):
            cost = plan.cost(PlannedJob(PRUNE_MODEL, Cell(model, criterion, pattern, NONE, 0)))
            seconds[pruning] = cost.seconds(machine) if cost else 1.0
    groups: list[list[str]] = [[] for _ in range(min(workers, len(seconds)))]
    loads = [0.0] * len(groups)
    for pruning in sorted(seconds, key=seconds.__getitem__, reverse=True):
        lightest = loads.index(min(loads))
        groups[lightest].append(pruning)
        loads[lightest] += seconds[pruning]
    return groups
