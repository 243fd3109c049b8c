"""Whether a study fits a machine: the memory of each job, and the disk space of all of them."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from freelunch.costs.fits import amount, misfit, way_out
from freelunch.costs.jobs import Job, adaptation_jobs, jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.work import Cost, together
from freelunch.study.adaptations import Windowed
from freelunch.study.cell import Cell
from freelunch.study.retraining import Retraining
from freelunch.study.source_files import downloads_of, scratch_of
from freelunch.study.steps import RECONSTRUCT_WINDOW, RETRAIN_MODEL
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
    found = []
    for (model, adaptation), job in adaptation_jobs(plan.study).items():
        cost = plan.step(*job)
        if cost is not None and (problem := misfit(cost, machine)):
            problem = f"{problem}; {way_out_of(plan, job, machine)}"
            found.append(Misfit(adaptation, model, problem))
    for job in jobs_of(plan.study):
        cost = plan.step(*job)
        adapts = job.rule in (RECONSTRUCT_WINDOW, RETRAIN_MODEL)
        if not adapts and cost is not None and (problem := misfit(cost, machine)):
            found.append(Misfit(job.rule, job.model, problem))
    return list(dict.fromkeys(found))


def lacking(plan: Plan, machine: Machine) -> list[str]:
    """Return what does not fit a machine: kinds of jobs, and the whole study on its disk."""
    disk = lacking_disk(plan)
    return [*map(str, misfits(plan, machine)), *([f"the study {disk}"] if disk else [])]


def way_out_of(plan: Plan, job: Job, machine: Machine) -> str:
    """Return in words what fits instead of an adaptation that does not fit into a machine."""
    settings = plan.study.adaptation(job.adaptation)
    assert isinstance(settings, Windowed | Retraining)
    streamed = isinstance(settings, Retraining) and plan.streamed(job.model, job.adaptation)[0]
    sample = plan.study.samples(job.adaptation), plan.study.calibration_of(job.model).length
    return way_out(plan.shapes[job.model], *sample, settings, streamed, machine)


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

    def needed_if(tidied: Collection[Cell]) -> int:
        whole = whole_cost(plan, tidied)
        return whole.disk_bytes + whole.scratch_bytes - there

    needed = needed_if({cell for cell in study.cells if _is_tidied(study, cell)})
    folder = study.paths.root.absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed <= free:
        return None
    lacks = f"needs {amount(needed)} more on disk, but {folder} has only {amount(free)} free"
    if (least := needed_if(set(study.cells))) < needed:
        lacks += f" (at least {amount(max(0, least))} if `{study.command('tidy')}` removes the"
        lacks += " candidates of finished cells meanwhile)"
    return lacks


def whole_cost(plan: Plan, tidied: Collection[Cell] = ()) -> Cost:
    """Return the cost of all jobs of a study together; of tidied cells, as `jobs_of` says."""
    return together([plan.step(*job) or Cost() for job in jobs_of(plan.study, tidied)])


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
