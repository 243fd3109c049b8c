"""Which jobs share work: windows of a reconstruction, and masks that are chosen together."""

from collections.abc import Iterable

from freelunch.costs.jobs import can_be_shared, jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.study.cell import NONE
from freelunch.study.criteria import OfWeights
from freelunch.study.steps import PRUNE_MODEL
from freelunch.study.study import Study

# A job of less than this many seconds is not divided: starting more jobs, or waiting for them in a
# queue, would cost more than it saves.
WORTH_S = 600.0


def window_groups(plan: Plan, machine: Machine, workers: int) -> int:
    """Return how many jobs share the windows of each reconstruction, if the user does not say.

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


def is_shared(study: Study, criterion: str) -> bool:
    """Return whether masks of a criterion can be chosen with others: those of single weights, from
    the dense model's statistics.
    """
    settings = study.criterion(criterion)
    return isinstance(settings, OfWeights) and settings.statistics == "dense"


def mask_groups(
    plan: Plan, machine: Machine, model: str, prunings: Iterable[str], workers: int
) -> list[list[str]]:
    """Divide masks of a model and seed into groups, each of which one job chooses in one pass.

    Args:
        plan: The plan.
        machine: The machine whose rates it takes.
        model: The model.
        prunings: The masks to be made, as `{criterion}-{pattern}`. Those that cannot be chosen
            together, since their statistics are not the dense model's or they are of units, are in
            no group.
        workers: How many jobs can choose masks of this model and seed at a time. Masks are divided
            into this many groups, which take about the same time.
    """
    seconds = {}
    for pruning in sorted(prunings):
        criterion, pattern = pruning.split("-")
        if is_shared(plan.study, criterion):
            cost = plan.step(PRUNE_MODEL, model, criterion, NONE, pattern)
            seconds[pruning] = cost.seconds(machine) if cost else 1.0
    groups: list[list[str]] = [[] for _ in range(min(workers, len(seconds)))]
    loads = [0.0] * len(groups)
    for pruning in sorted(seconds, key=seconds.__getitem__, reverse=True):
        lightest = loads.index(min(loads))
        groups[lightest].append(pruning)
        loads[lightest] += seconds[pruning]
    return groups
