"""How much work each job of a run is. The bar at the terminal weights jobs by it."""

import re
from collections.abc import Mapping

from freelunch.costs.jobs import Job, evaluation
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.work import START_S
from freelunch.study.cell import NONE, Cell
from freelunch.study.steps import (
    CAPTURE_DENSE,
    CAPTURE_REFERENCE,
    EVALUATE_CELL,
    FETCH_MODEL,
    PRUNE_MODEL,
    RECONSTRUCT_WINDOW,
    RETRAIN_MODEL,
    RULES,
)

_PARTS = re.compile(r"\d+-of-(\d+)")


def planned_s(plan: Plan, machine: Machine, rule: str, wildcards: Mapping[str, str]) -> float:
    """Return the seconds that the plan gives one job of a run.

    A job whose cost the plan does not know gets the time that any job takes to start.

    Args:
        plan: The plan.
        machine: The machine whose rates the plan takes.
        rule: The job's rule. Where another workflow imports it, its name may have a prefix.
        wildcards: The job's wildcards. Several jobs may share the windows of a reconstruction.
    """
    job = _job_of(_own_name(rule), wildcards)
    parts = _PARTS.fullmatch(wildcards.get("scatteritem", ""))
    groups = int(parts[1]) if parts else 1
    cost = plan.step(*job, groups=groups) if job is not None else None
    return START_S if cost is None else cost.seconds(machine)


def _own_name(rule: str) -> str:
    return next((own for own in RULES if rule == own or rule.endswith(f"_{own}")), rule)


def _job_of(rule: str, wildcards: Mapping[str, str]) -> Job | None:
    """Return a job of the workflow as the plan knows it; None if the plan has no cost for it."""
    if rule in (FETCH_MODEL, CAPTURE_DENSE, CAPTURE_REFERENCE):
        return Job(rule, wildcards["model"])
    if rule == PRUNE_MODEL:
        model, criterion, pattern = (wildcards[key] for key in ("model", "criterion", "pattern"))
        return Job(rule, model, criterion, NONE, pattern)
    if rule not in (RECONSTRUCT_WINDOW, RETRAIN_MODEL, EVALUATE_CELL):
        return None
    cell = Cell.parse("{model}/{pruning}/{adaptation}/seed{seed}".format(**wildcards))
    if rule == EVALUATE_CELL:
        return evaluation(cell)
    return Job(rule, cell.model, cell.criterion, cell.adaptation, cell.pattern)
