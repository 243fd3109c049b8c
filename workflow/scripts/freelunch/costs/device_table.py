"""A table of what a study's adaptations take on GPUs of several sizes, in Markdown."""

from collections.abc import Sequence
from dataclasses import replace

from freelunch.costs.fits import amount, misfit
from freelunch.costs.jobs import Job, adaptation_jobs
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.plan_text import short
from freelunch.costs.work import Cost
from freelunch.study.retraining import Retraining
from freelunch.study.study import Study


def device_table(study: Study, machine: Machine, devices: Sequence[int]) -> str:
    """Return a row for each adaptation of a model, with a column for each size of a GPU.

    A column says what is in the GPU's memory, how much of it a job needs, and how long it takes.

    Args:
        study: The study, whose models have known shapes.
        machine: The machine, whatever its GPU.
        devices: Sizes of the GPUs, in bytes.
    """
    plans = [Plan.of(study, size) for size in devices]
    heads = ["model", "adaptation", *(f"{size / 1e9:g} GB" for size in devices)]
    lines = [heads, ["---"] * len(heads)]
    for (model, adaptation), job in adaptation_jobs(study).items():
        cells = [
            _cell(plan, job, replace(machine, device_bytes=plan.device_bytes)) for plan in plans
        ]
        lines.append([model, f"`{adaptation}`", *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(plan: Plan, job: Job, machine: Machine) -> str:
    cost = plan.step(*job) or Cost()
    needs = amount(cost.memory(device=True).device)
    if misfit(cost, machine):
        return f"does not fit: {needs}"
    window = str(plan.window(job.model, job.adaptation)[0])
    what = f"window {window}"
    if isinstance(plan.study.adaptation(job.adaptation), Retraining):
        what = "streamed" if plan.streamed(job.model, job.adaptation)[0] else "whole model"
    return f"{what}, {needs}, {short(cost.seconds(machine))}"
