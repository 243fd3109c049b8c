"""The jobs of a study that compute."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

from freelunch.study.adaptations import Windowed
from freelunch.study.cell import NONE, Cell
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
ADAPTING = (RECONSTRUCT_WINDOW, RETRAIN_MODEL)
_PARTS = re.compile(r"\d+-of-(\d+)")


class PlannedJob(NamedTuple):
    """A job that computes.

    Attributes:
        rule: Its rule, one of RULES.
        cell: The cell or candidate that it is a job of. Cells share jobs: that of a fetched model
            and of a dense pass is the dense one, and that of masks is not adapted.
    """

    rule: str
    cell: Cell

    @classmethod
    def of(cls, rule: str, cell: Cell) -> "PlannedJob":
        """Return a cell's job of a rule."""
        if rule in (CAPTURE_DENSE, CAPTURE_REFERENCE):
            return cls(rule, replace(Cell.dense(cell.model), seed=cell.seed))
        if rule == FETCH_MODEL:
            return cls(rule, Cell.dense(cell.model))
        return cls(rule, replace(cell, adaptation=NONE) if rule == PRUNE_MODEL else cell)

    @classmethod
    def of_wildcards(cls, rule: str, wildcards: Mapping[str, str]) -> "PlannedJob | None":
        """Return the job that a rule has for wildcards; None if it is none that computes.

        Args:
            rule: The rule. Where another workflow imports it, its name may have a prefix.
            wildcards: The wildcards of Snakemake's job.
        """
        own = next((own for own in RULES if rule == own or rule.endswith(f"_{own}")), None)
        if own is None:
            return None
        if own in (FETCH_MODEL, CAPTURE_DENSE, CAPTURE_REFERENCE):
            cell = replace(Cell.dense(wildcards["model"]), seed=int(wildcards.get("seed", 0)))
        elif own == PRUNE_MODEL:
            cell = Cell.parse("{model}/{criterion}-{pattern}/none/seed{seed}".format(**wildcards))
        else:
            cell = Cell.parse("{model}/{pruning}/{adaptation}/seed{seed}".format(**wildcards))
        return cls.of(own, cell)


def evaluation(cell: Cell) -> PlannedJob:
    """Return the job that evaluates a cell or a candidate."""
    return PlannedJob(EVALUATE_CELL, cell)


def adapting_jobs(study: Study, cell: Cell) -> list[PlannedJob]:
    """Return the jobs that adapt and evaluate a cell or a candidate."""
    settings = study.adaptation(cell.adaptation)
    if settings is None or study.candidates(cell):
        return [evaluation(cell)]
    return [PlannedJob(settings.rule, cell), evaluation(cell)]


def jobs_of(study: Study, tidied: Collection[Cell] = ()) -> list[PlannedJob]:
    """Return every job that computes.

    Args:
        study: The study.
        tidied: Cells of which `freelunch tidy` has removed the candidates, and whose jobs are only
            those with results that stay. The adapted blocks of one candidate do: the cell shares
            them.
    """
    jobs: list[PlannedJob] = []
    for cell in study.cells:
        jobs.append(PlannedJob.of(FETCH_MODEL, cell))
        if not cell.is_dense:
            jobs += [PlannedJob.of(CAPTURE_DENSE, cell), PlannedJob.of(PRUNE_MODEL, cell)]
        if study.measures_drift(cell):
            jobs.append(PlannedJob.of(CAPTURE_REFERENCE, cell))
        candidates = adapted = study.candidates(cell)
        if cell in tidied:
            candidates, adapted = [], candidates[:1]
        settings = study.adaptation(cell.adaptation)
        if settings is not None:
            jobs += [PlannedJob(settings.rule, each) for each in adapted or [cell]]
        jobs += map(evaluation, [*candidates, cell])
    return list(dict.fromkeys(jobs))


def can_be_shared(study: Study, job: PlannedJob) -> bool:
    """Return whether several jobs can share what one does: windows that are independent."""
    settings = study.adaptation(job.cell.adaptation)
    if job.rule != RECONSTRUCT_WINDOW or not isinstance(settings, Windowed):
        return False
    return not settings.is_sequential


def sharers_of(wildcards: Mapping[str, str]) -> int:
    """Return how many jobs share the windows of the reconstruction that wildcards are of."""
    match = _PARTS.fullmatch(wildcards.get("scatteritem", ""))
    return int(match[1]) if match else 1


def adaptation_jobs(study: Study) -> dict[tuple[str, str], PlannedJob]:
    """Return the first job of each adaptation of a model, sorted by their names; the others differ
    in what is pruned.
    """
    jobs: dict[tuple[str, str], PlannedJob] = {}
    for job in jobs_of(study):
        if job.rule in ADAPTING:
            jobs.setdefault((job.cell.model, adaptation_of(job.cell.adaptation)), job)
    return dict(sorted(jobs.items()))
