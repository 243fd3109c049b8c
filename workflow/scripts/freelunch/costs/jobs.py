"""The jobs of a study that compute, and what decides the cost of each."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from freelunch.study.adaptations import Windowed
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.search import adaptation_of
from freelunch.study.steps import (
    CAPTURE_DENSE,
    CAPTURE_REFERENCE,
    EVALUATE_CELL,
    FETCH_MODEL,
    PRUNE_MODEL,
    RECONSTRUCT_WINDOW,
    RETRAIN_MODEL,
)
from freelunch.study.study import Study

# Rules whose jobs compute, in the order of the data.
RULES = (
    FETCH_MODEL,
    CAPTURE_DENSE,
    CAPTURE_REFERENCE,
    PRUNE_MODEL,
    RECONSTRUCT_WINDOW,
    RETRAIN_MODEL,
    EVALUATE_CELL,
)


class Job(NamedTuple):
    """A job that computes, identified by what decides its cost: its rule and its cell."""

    rule: str
    model: str
    criterion: str = DENSE
    adaptation: str = NONE
    pattern: str = "u50"
    seed: int = 0


def evaluation(cell: Cell) -> Job:
    """Return the job that evaluates a cell or a candidate."""
    return Job(EVALUATE_CELL, cell.model, cell.criterion, cell.adaptation, cell.pattern, cell.seed)


def adapting_jobs(study: Study, cell: Cell) -> list[Job]:
    """Return the jobs that adapt and evaluate a cell or a candidate."""
    settings = study.adaptation(cell.adaptation)
    if settings is None or study.candidates(cell):
        return [evaluation(cell)]
    adapting = Job(settings.rule, cell.model, cell.criterion, cell.adaptation, cell.pattern)
    return [adapting, evaluation(cell)]


def jobs_of(study: Study, tidied: Collection[Cell] = ()) -> list[Job]:
    """Return every job that computes.

    Args:
        study: The study.
        tidied: Cells of which `freelunch tidy` has removed the candidates, and whose jobs are only
            those with results that stay. The adapted blocks of one candidate do: the cell shares
            them.
    """
    jobs: dict[tuple[object, ...], Job] = {}
    for cell in study.cells:
        model, criterion, pattern, seed = cell.model, cell.criterion, cell.pattern, cell.seed
        jobs[FETCH_MODEL, model] = Job(FETCH_MODEL, model)
        if not cell.is_dense:
            jobs[CAPTURE_DENSE, model, seed] = Job(CAPTURE_DENSE, model)
            pruning = PRUNE_MODEL, model, cell.pruning, seed
            jobs[pruning] = Job(PRUNE_MODEL, model, criterion, NONE, pattern)
        if study.measures_drift(cell):
            jobs[CAPTURE_REFERENCE, model, seed] = Job(CAPTURE_REFERENCE, model)
        candidates = adapted = study.candidates(cell)
        if cell in tidied:
            candidates, adapted = [], candidates[:1]
        settings = study.adaptation(cell.adaptation)
        if settings is not None:
            rule = settings.rule
            for each in adapted or [cell]:
                jobs[rule, each] = Job(rule, model, criterion, each.adaptation, pattern)
        for each in [*candidates, cell]:
            jobs[EVALUATE_CELL, each] = evaluation(each)
    return list(jobs.values())


def chains_of(study: Study) -> Iterator[list[Job]]:
    """Yield the jobs of each cell that run one after another; of a search, for each candidate."""
    for cell in study.cells:
        model, last = cell.model, evaluation(cell)
        if cell.is_dense:
            yield [Job(FETCH_MODEL, model), last]
            continue
        before = [
            Job(FETCH_MODEL, model),
            Job(CAPTURE_DENSE, model),
            Job(PRUNE_MODEL, model, cell.criterion, NONE, cell.pattern),
        ]
        settings, candidates = study.adaptation(cell.adaptation), study.candidates(cell)
        for each in candidates or [cell]:
            chain = [*before, last]
            if settings is not None:
                adapting = Job(settings.rule, model, cell.criterion, each.adaptation, cell.pattern)
                chain += [adapting, *([evaluation(each)] if candidates else [])]
            yield chain


def can_be_shared(study: Study, job: Job) -> bool:
    """Return whether several jobs can share what one does: windows that are independent."""
    settings = study.adaptation(job.adaptation)
    return (
        job.rule == RECONSTRUCT_WINDOW
        and isinstance(settings, Windowed)
        and not settings.is_sequential
    )


def scheduled_jobs(study: Study, groups: int = 1) -> int:
    """Return how many jobs a scheduler gets.

    Fetching runs where the study is started. A cell's adaptation, evaluation and record are one
    job, unless several jobs share the windows of a reconstruction.

    Args:
        study: The study.
        groups: How many jobs share the windows of each reconstruction whose windows are
            independent.
    """
    alone = (CAPTURE_DENSE, CAPTURE_REFERENCE, PRUNE_MODEL, EVALUATE_CELL)
    jobs = jobs_of(study)
    number = sum(job.rule in alone for job in jobs)
    if groups > 1:
        windows = (job for job in jobs if job.rule == RECONSTRUCT_WINDOW)
        number += sum(groups if can_be_shared(study, job) else 1 for job in windows)
    return number


def adaptation_jobs(study: Study) -> dict[tuple[str, str], Job]:
    """Return the first job of each adaptation of a model, sorted by their names; the others differ
    in what is pruned.
    """
    found: dict[tuple[str, str], Job] = {}
    for job in jobs_of(study):
        if job.rule in (RECONSTRUCT_WINDOW, RETRAIN_MODEL):
            found.setdefault((job.model, adaptation_of(job.adaptation)), job)
    return dict(sorted(found.items()))
