"""The measure of the memory that a planned adaptation takes."""

from pathlib import Path

from freelunch.audit.evidence import Evidence
from freelunch.audit.measures.measure import (
    Asked,
    Measure,
    Measurement,
    Settings,
    constant,
)
from freelunch.core.errors import UserError, nearest
from freelunch.costs.plan import Plan
from freelunch.study.base import REPOSITORY
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.study import Study


def planned_memory(evidence: Evidence, settings: Settings) -> Asked:
    """The peak memory that the plan predicts for the job of an `adaptation` in another `study`,
    which does not have to be run.
    """
    plan = Plan.of(Study.load(Path(settings["study"]), REPOSITORY))
    name = settings["adaptation"]
    if name not in plan.study.config.adaptations:
        raise UserError(
            "a claim names an adaptation that its study does not have",
            where=settings["study"],
            found=name,
            expected=nearest(name, plan.study.config.adaptations),
            todo="correct the claim",
        )
    for cell in plan.study.cells:
        cost = None
        if cell.adaptation == name:
            job = (cell.model, cell.criterion, name, cell.pattern)
            cost = plan.step(RECONSTRUCT_WINDOW, *job)
        if cost is not None:
            gigabytes = cost.memory_bytes / 1e9
            yield Measurement(
                f"{cell.model}, {name}",
                [constant(gigabytes)],
                [],
                [],
                command=f"make plan STUDY={settings['study']}",
            )


MEASURES = (
    Measure(
        planned_memory,
        "planned memory",
        {"study": {"type": "string"}, "adaptation": {"type": "string"}},
        unit="GB",
        metrics=(),
    ),
)
