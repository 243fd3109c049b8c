"""The jobs of a study that compute."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from freelunch.study import steps
from freelunch.study.adaptations import Windowed
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.search import adaptation_of, finds_rate
from freelunch.study.study import Study

ADAPTING = (steps.RECONSTRUCT_WINDOW, steps.RETRAIN_MODEL)
# Rules whose jobs compute, in the order of the data.
RULES = (
    *(steps.FETCH_MODEL, steps.DECIDE_BOS, steps.CAPTURE_DENSE, steps.PRUNE_MODEL),
    *(steps.FIND_RATE, *ADAPTING, steps.EVALUATE_CELL),
)
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
        if rule == steps.CAPTURE_DENSE:
            return cls(rule, replace(Cell.dense(cell.model), seed=cell.seed))
        if rule in (steps.FETCH_MODEL, steps.DECIDE_BOS):
            return cls(rule, Cell.dense(cell.model))
        return cls(rule, replace(cell, adaptation=NONE) if rule == steps.PRUNE_MODEL else cell)

    @classmethod
    def of_wildcards(cls, rule: str, wildcards: Mapping[str, str]) -> "PlannedJob | None":
        """Return the job that a rule has for wildcards; None if it is none that computes. Where
        another workflow imports the rule, its name may have a prefix.
        """
        own = next((own for own in RULES if rule == own or rule.endswith(f"_{own}")), None)
        if own is None:
            return None
        known = {"adaptation": NONE, "seed": "0", **wildcards}
        pruned = "criterion" in known
        known.setdefault("pruning", "{criterion}-{pattern}".format(**known) if pruned else DENSE)
        return cls.of(own, Cell.parse("{model}/{pruning}/{adaptation}/seed{seed}".format(**known)))


def evaluation(cell: Cell) -> PlannedJob:
    """Return the job that evaluates a cell or a candidate."""
    return PlannedJob(steps.EVALUATE_CELL, cell)


def adapting_jobs(study: Study, cell: Cell) -> list[PlannedJob]:
    """Return the jobs that find the learning rate of a cell or a candidate, adapt it and evaluate
    it, as far as it has them.
    """
    settings = study.adaptation(cell.adaptation)
    if settings is None or study.candidates(cell):
        return [evaluation(cell)]
    rules = [steps.FIND_RATE] if finds_rate(settings) else []
    return [*(PlannedJob(rule, cell) for rule in (*rules, settings.rule)), evaluation(cell)]


def jobs_of(study: Study) -> list[PlannedJob]:
    """Return every job that computes."""
    jobs: list[PlannedJob] = []
    for cell in study.cells:
        jobs += (PlannedJob.of(rule, cell) for rule in (steps.FETCH_MODEL, steps.DECIDE_BOS))
        if study.needs_dense_pass(cell):
            jobs.append(PlannedJob.of(steps.CAPTURE_DENSE, cell))
        if cell.is_pruned:
            jobs.append(PlannedJob.of(steps.PRUNE_MODEL, cell))
        for each in (*study.candidates(cell), cell):
            jobs += adapting_jobs(study, each)
    return list(dict.fromkeys(jobs))


def adaptation_jobs(study: Study) -> dict[tuple[str, str], PlannedJob]:
    """Return the first job of each adaptation of a model, sorted by their names; the others differ
    in what is pruned.
    """
    jobs: dict[tuple[str, str], PlannedJob] = {}
    for job in jobs_of(study):
        if job.rule in ADAPTING:
            jobs.setdefault((job.cell.model, adaptation_of(job.cell.adaptation)), job)
    return dict(sorted(jobs.items()))


def can_be_shared(study: Study, job: PlannedJob) -> bool:
    """Return whether several jobs can share what one does: windows that are independent."""
    settings = study.adaptation(job.cell.adaptation)
    return isinstance(settings, Windowed) and not (
        settings.is_sequential or job.rule != steps.RECONSTRUCT_WINDOW
    )


def sharers_of(wildcards: Mapping[str, str]) -> int:
    """Return how many jobs share the windows of the reconstruction that wildcards are of."""
    match = _PARTS.fullmatch(wildcards.get("scatteritem", ""))
    return int(match[1]) if match else 1
