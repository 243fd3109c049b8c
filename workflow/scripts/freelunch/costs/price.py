"""The price of a study's models and claims, each taken alone: time on the device, memory, disk."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from freelunch.costs.fits import misfit
from freelunch.costs.jobs import Job, jobs_of, scheduled_jobs
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.work import Cost, Memory, together
from freelunch.study.config import Grid, Part
from freelunch.study.grids import claims_of, grids_in, models_of
from freelunch.study.search import adaptation_of
from freelunch.study.steps import FETCH_MODEL, RECONSTRUCT_WINDOW, RETRAIN_MODEL

# Rules whose jobs differ in their adaptation.
ADAPTING = (RECONSTRUCT_WINDOW, RETRAIN_MODEL)
# Memory of common GPUs, in bytes, and what of it is left to CUDA and to gaps between tensors.
DEVICES = tuple(size * 10**9 for size in (24, 40, 80))
RESERVED_BYTES = 1_500_000_000


@dataclass(frozen=True)
class Price:
    """What a part of a study costs if it is taken alone.

    Attributes:
        name: The model or the claim.
        cells: Number of its cells.
        jobs: Number of its jobs that compute.
        scheduled: Number of jobs that a scheduler gets.
        seconds: Time of these jobs, one after another, without fetching models.
        memory: Memory of the largest job.
        disk_bytes: Bytes that remain at the end.
        unfitting: For each size of DEVICES, how many kinds of jobs do not fit, whatever the host
            has; empty without a device.
    """

    name: str
    cells: int
    jobs: int
    scheduled: int
    seconds: float
    memory: Memory
    disk_bytes: int
    unfitting: tuple[int, ...]


def prices_of_models(plan: Plan, machine: Machine) -> list[Price]:
    """Return the price of each model whose shapes are known."""
    grids, part = _asked(plan)
    models = [name for name in models_of(grids) if name in plan.shapes]
    return _prices(plan, machine, {it: part.model_copy(update={"models": [it]}) for it in models})


def prices_of_claims(plan: Plan, machine: Machine) -> list[Price]:
    """Return the price of each claim whose models, or some of them, have known shapes.

    Claims share cells, so that prices do not add up.
    """
    grids, part = _asked(plan)
    claims = [it for it in claims_of(grids) if part.claims is None or it in part.claims]
    return _prices(plan, machine, {it: part.model_copy(update={"claims": [it]}) for it in claims})


def _asked(plan: Plan) -> tuple[list[Grid], Part]:
    part = plan.study.block.part
    return grids_in(plan.study.block.grids, part), part or Part()


def _prices(plan: Plan, machine: Machine, parts: Mapping[str, Part]) -> list[Price]:
    sizes = DEVICES if machine.device_bytes is not None else ()
    # The machine is described by its GPU alone: its host need not be this one.
    devices = [
        (plan.on_device(free), replace(machine, device_bytes=free, memory_bytes=None))
        for free in (size - RESERVED_BYTES for size in sizes)
    ]
    found = []
    for name, part in parts.items():
        study = plan.study.of_part(part)
        jobs = [job for job in jobs_of(study) if job.model in plan.shapes]
        if not jobs:
            # The plan names the models whose cost is not known yet.
            continue
        costs = {job: plan.step(*job) or Cost() for job in jobs}
        memories = [cost.memory(machine.device_bytes is not None) for cost in costs.values()]
        price = Price(
            name,
            cells=len(study.cells),
            jobs=len(jobs),
            scheduled=scheduled_jobs(study),
            seconds=sum(costs[job].seconds(machine) for job in jobs if job.rule != FETCH_MODEL),
            memory=Memory(*map(max, zip(*memories, strict=True))),
            disk_bytes=together([costs[job] for job in jobs]).disk_bytes,
            unfitting=tuple(_unfitting(costs, sized, device) for sized, device in devices),
        )
        found.append(price)
    return found


def _unfitting(costs: Mapping[Job, Cost], plan: Plan, machine: Machine) -> int:
    """Return how many kinds of jobs do not fit a device: adaptations, and the other rules.

    Args:
        costs: What each job costs, whatever computes it.
        plan: The plan for the device, by which it decides what is `auto` in adaptations.
        machine: The machine with the device.
    """
    unfitting = set()
    for job, cost in costs.items():
        adapts = job.rule in ADAPTING
        if misfit((plan.step(*job) or cost) if adapts else cost, machine):
            unfitting.add((job.model, adaptation_of(job.adaptation) if adapts else job.rule))
    return len(unfitting)
