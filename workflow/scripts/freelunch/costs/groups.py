"""How many jobs share the windows of a reconstruction, if the user does not say how many."""

from freelunch.costs.jobs import can_be_shared, jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan

# A job of less than this many seconds is not divided: starting more jobs, or waiting for them in a
# queue, would cost more than it saves.
WORTH_S = 600.0


def window_groups(plan: Plan, machine: Machine, workers: int) -> int:
    """Return how many jobs share the windows of each reconstruction.

    Cells run side by side first. The windows of each cell share the workers that are left.

    Args:
        plan: The plan.
        machine: The machine whose rates it takes.
        workers: How many jobs can compute at a time: GPUs of this machine, or nodes of a cluster.
    """
    jobs = [job for job in jobs_of(plan.study) if can_be_shared(plan.study, job)]
    spare = workers // max(1, len(jobs))
    if spare < 2:
        return 1
    costs = [plan.step(*job) for job in jobs]
    longest = max((cost.seconds(machine) for cost in costs if cost), default=0.0)
    return max(1, min(spare, int(longest // WORTH_S)))
