"""Whether a study fits a machine: the memory of each job, and the disk space of all of them."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from freelunch.core.units import amount
from freelunch.costs.cost import Cost, together
from freelunch.costs.jobs import ADAPTING, PlannedJob, adaptation_jobs, jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import STREAMED, Plan, windows_by_size
from freelunch.costs.retraining_costs import retrain
from freelunch.study.adaptations import Reconstruction
from freelunch.study.cell import Cell
from freelunch.study.retraining import Retraining
from freelunch.study.search import adaptation_of
from freelunch.study.source_files import downloads_of, scratch_of
from freelunch.study.study import Study


class Misfit(NamedTuple):
    """A kind of job, named by the adaptation or else the rule, that does not fit into the memory of
    a machine: what it needs, what the machine has, and what would fit.
    """

    name: str
    model: str
    problem: str

    def __str__(self) -> str:
        return f"{self.name} of {self.model} {self.problem}"


def lacking(plan: Plan, machine: Machine) -> list[str]:
    """Return what does not fit a machine: kinds of jobs, and the whole study on its disk."""
    disk = lacking_disk(plan)
    return [*map(str, misfits(plan, machine)), *([f"the study {disk}"] if disk else [])]


def misfits(plan: Plan, machine: Machine) -> list[Misfit]:
    """Return the kinds of jobs that do not fit into the memory of a machine, each once."""
    jobs = list(adaptation_jobs(plan.study).values())
    jobs += [job for job in jobs_of(plan.study) if job.rule not in ADAPTING]
    found = dict[Misfit, None]()
    for job in jobs:
        if problem := misfit(plan, job, machine):
            name = adaptation_of(job.cell.adaptation) if job.rule in ADAPTING else job.rule
            found[Misfit(name, job.cell.model, problem)] = None
    return list(found)


def misfit(plan: Plan, job: PlannedJob, machine: Machine) -> str | None:
    """Return in words that a job does not fit into a machine, and what would fit; None if it fits,
    or if the machine's memory is not known.
    """
    cost = plan.cost(job)
    problem = _misfit(cost, machine) if cost is not None else None
    if problem is None or job.rule not in ADAPTING:
        return problem
    for change, cost in _changes(plan, job):
        if _misfit(cost, machine) is None:
            host, device = cost.memory(machine.device_bytes is not None)
            return f"{problem}; {change} needs {amount(device or host)}"
    is_retraining = isinstance(plan.study.adaptation(job.cell.adaptation), Retraining)
    otherwise = "shorten study.calibration.length" if is_retraining else "no window fits"
    return f"{problem}; {otherwise}"


def _misfit(cost: Cost, machine: Machine) -> str | None:
    host, device = cost.memory(machine.device_bytes is not None)
    for needs, owner, size in (
        (device, "the device", machine.device_bytes),
        (host, "this machine", machine.memory_bytes),
    ):
        if size is not None and needs > size:
            return f"does not fit: needs {amount(needs)}, {owner} has {amount(size)}"
    return None


def _changes(plan: Plan, job: PlannedJob) -> Iterator[tuple[str, Cost]]:
    model, adaptation = job.cell.model, job.cell.adaptation
    settings, shapes = plan.study.adaptation(adaptation), plan.shapes[model]
    sample = plan.sample(model, adaptation)
    if isinstance(settings, Retraining):
        change = f"`residency: {STREAMED}`"
        if plan.streamed(model, adaptation)[0]:
            change, settings = "`micro_batch: 1`", settings.model_copy(update={"micro_batch": 1})
        yield change, retrain(shapes, *sample, settings, streamed=True)
    elif isinstance(settings, Reconstruction):
        on_device = plan.device_bytes is not None
        for window, memory in windows_by_size(shapes, *sample, settings, on_device=on_device):
            yield f"`window: {window}`", Cost(memory_bytes=memory)


def lacking_disk(plan: Plan) -> str | None:
    """Return in words that a study does not fit on the disk; None if it fits.

    What the study made earlier counts as space that it already has, and what `freelunch tidy`
    removed is not made again.
    """
    study = plan.study
    models = [study.paths.model(name) for name in plan.shapes]
    places = [study.paths.root, *models, *(downloads_of(scratch_of(folder)) for folder in models)]
    # Hard links count once.
    sizes = [{each.st_ino: each.st_size for each in files_in(place)} for place in places]
    there = sum(sum(of_place.values()) for of_place in sizes)
    tidied = {cell for cell in study.cells if _is_tidied(study, cell)}
    costs = [whole_cost(plan, cells) for cells in (tidied, set(study.cells))]
    needed, least = (cost.disk_bytes + cost.scratch_bytes - there for cost in costs)
    folder = study.paths.root.absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed <= free:
        return None
    lacks = f"needs {amount(needed)} more on disk, but {folder} has only {amount(free)} free"
    if least < needed:
        lacks += f" (at least {amount(max(0, least))} if `{study.command('tidy')}` removes the"
        lacks += " candidates of finished cells meanwhile)"
    return lacks


def whole_cost(plan: Plan, tidied: Collection[Cell] = ()) -> Cost:
    """Return the cost of all jobs of a study together; of tidied cells, as `jobs_of` says."""
    return together([plan.cost(job) or Cost() for job in jobs_of(plan.study, tidied)])


def _is_tidied(study: Study, cell: Cell) -> bool:
    folders = [study.paths.windows(each, "") for each in study.candidates(cell)]
    return study.paths.record(cell).is_file() and not any(map(Path.is_dir, folders))


def files_in(folder: Path) -> Iterator[os.stat_result]:
    """Yield the status of each file below a folder, of a hard link once for each of its names."""
    for inside, _, names in os.walk(folder):
        for name in names:
            # A job that is at work may remove a file meanwhile.
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(inside, name))
