"""Whether a study fits a machine: the memory of each job, and the disk space of all of them."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from freelunch.core.units import amount
from freelunch.costs import retraining
from freelunch.costs.automatic import STREAMED, windows_by_size
from freelunch.costs.jobs import ADAPTING, PlannedJob, adaptation_jobs, jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.work import Cost, together
from freelunch.study.adaptations import Reconstruction
from freelunch.study.cell import Cell
from freelunch.study.retraining import Retraining
from freelunch.study.search import adaptation_of
from freelunch.study.source_files import downloads_of, scratch_of
from freelunch.study.study import Study


class Misfit(NamedTuple):
    """A kind of job that does not fit into the memory of a machine.

    Attributes:
        name: The adaptation, or else the rule.
        model: The model.
        problem: What it needs, what the machine has, and what would fit.
    """

    name: str
    model: str
    problem: str

    def __str__(self) -> str:
        return f"{self.name} of {self.model} {self.problem}"


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
    if problem and job.rule in ADAPTING:
        return f"{problem}; {_way_out(plan, job, machine)}"
    return problem


def _misfit(cost: Cost, machine: Machine) -> str | None:
    host, device = cost.memory(machine.device_bytes is not None)
    for needs, owner, size in (
        (device, "the device", machine.device_bytes),
        (host, "this machine", machine.memory_bytes),
    ):
        if size is not None and needs > size:
            return f"does not fit: needs {amount(needs)}, {owner} has {amount(size)}"
    return None


def _way_out(plan: Plan, job: PlannedJob, machine: Machine) -> str:
    """Return in words what fits instead of an adaptation that does not fit into a machine."""
    model, adaptation = job.cell.model, job.cell.adaptation
    settings, shapes = plan.study.adaptation(adaptation), plan.shapes[model]
    sample = plan.study.samples(adaptation), plan.study.calibration_of(model).length
    ways, otherwise = dict[str, Cost](), "no window fits"
    if isinstance(settings, Retraining):
        change = f"`residency: {STREAMED}`"
        if plan.streamed(model, adaptation)[0]:
            change, settings = "`micro_batch: 1`", settings.model_copy(update={"micro_batch": 1})
        ways[change] = retraining.retrain(shapes, *sample, settings, streamed=True)
        otherwise = "shorten study.calibration.length"
    elif isinstance(settings, Reconstruction):
        ways = {
            f"`window: {window}`": Cost(memory_bytes=memory)
            for window, memory in windows_by_size(shapes, *sample, settings)
        }
    for change, cost in ways.items():
        if _misfit(cost, machine) is None:
            host, device = cost.memory(machine.device_bytes is not None)
            return f"{change} needs {amount(device or host)}"
    return otherwise


def lacking(plan: Plan, machine: Machine) -> list[str]:
    """Return what does not fit a machine: kinds of jobs, and the whole study on its disk."""
    disk = lacking_disk(plan)
    return [*map(str, misfits(plan, machine)), *([f"the study {disk}"] if disk else [])]


def lacking_disk(plan: Plan) -> str | None:
    """Return in words that a study does not fit on the disk; None if it fits.

    What the study made earlier counts as space that it already has, and what `freelunch tidy`
    removed is not made again.
    """
    study = plan.study
    models = [study.paths.model(name) for name in plan.shapes]
    downloads = [downloads_of(scratch_of(folder)) for folder in models]
    places = [study.paths.root, *models, *downloads]
    there = sum(map(_bytes_in, places))
    tidied = {cell for cell in study.cells if _is_tidied(study, cell)}
    needed, least = (_most_disk(plan, cells) - there for cells in (tidied, set(study.cells)))
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


def _most_disk(plan: Plan, tidied: Collection[Cell]) -> int:
    whole = whole_cost(plan, tidied)
    return whole.disk_bytes + whole.scratch_bytes


def whole_cost(plan: Plan, tidied: Collection[Cell] = ()) -> Cost:
    """Return the cost of all jobs of a study together; of tidied cells, as `jobs_of` says."""
    return together([plan.cost(job) or Cost() for job in jobs_of(plan.study, tidied)])


def _is_tidied(study: Study, cell: Cell) -> bool:
    """Return whether a cell has finished, and nothing that its candidates adapted is there."""
    folders = [study.paths.windows(each, "") for each in study.candidates(cell)]
    return study.paths.record(cell).is_file() and not any(map(Path.is_dir, folders))


def _bytes_in(folder: Path) -> int:
    """Return the bytes that a folder takes, hard links counted once."""
    return sum({status.st_ino: status.st_size for status in files_in(folder)}.values())


def files_in(folder: Path) -> Iterator[os.stat_result]:
    """Yield the status of each file below a folder, of a hard link once for each of its names."""
    for inside, _, names in os.walk(folder):
        for name in names:
            # A job that is at work may remove a file meanwhile.
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(inside, name))
