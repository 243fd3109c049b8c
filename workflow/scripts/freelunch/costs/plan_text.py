"""A plan as text for the terminal: whole, with tables of steps and adaptations, or in brief."""

import shlex
from collections.abc import Iterator, Mapping, Sequence

from freelunch.core.devices import BFLOAT16, FLOAT32
from freelunch.core.errors import first_of
from freelunch.core.units import amount, duration
from freelunch.costs.checks import misfit, misfits
from freelunch.costs.cost import Cost, together
from freelunch.costs.jobs import RULES, PlannedJob, adaptation_jobs, jobs_of
from freelunch.costs.known_inputs import text_windows
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.study.adaptations import Training
from freelunch.study.beginnings import decided_text
from freelunch.study.config import Part, claims_of, grids_in, models_of
from freelunch.study.paths import facts_at
from freelunch.study.retraining import Retraining
from freelunch.study.study import Study
from freelunch.study.windows import AUTO

# Units, the largest first, with how many operations or bytes they are.
_Units = Sequence[tuple[float, str]]
_FLOPS = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))
_BYTES = ((1e9, "GB"), (1e6, "MB"))
# Adaptations of more models than these are left to plans of single models.
_MOST_LINES = 60


def plan_text(plan: Plan, machine: Machine | None = None) -> str:
    """Return a plan for the terminal; without a machine, the rates of this one are measured."""
    lines = [_headline(plan)]
    lines += [f"  {each}" for each in first_of(plan.study.cells, 12)]
    lines += _conditions(plan)
    costs = _costs(plan, plan.study)
    if costs:
        machine = machine or Machine.of(device_bytes=plan.device_bytes)
        lines += _steps(costs, machine)
        lines += _parts(plan, machine)
        lines += _adaptations(plan, machine)
        lines += ["", *_notes(plan, costs, machine)]
    return "\n".join(lines)


def plan_brief(plan: Plan, machine: Machine, jobs: int, submitted: int | None = None) -> str:
    """Return what the user sees when a run begins: the whole cost, what does not fit, and how many
    jobs run now, and are submitted to a scheduler, if there is one.
    """
    lines = [_headline(plan), *_conditions(plan)]
    costs = list(_costs(plan, plan.study).values())
    if costs:
        whole = together(costs)
        (operations,) = _in_one_unit([whole.flops], _FLOPS)
        seconds = sum(cost.seconds(machine) for cost in costs)
        memory = max(cost.memory(machine.device_bytes is not None).host for cost in costs)
        lines += [
            f"  From scratch: {operations}, about {duration(seconds)} job after "
            f"job, besides fetching texts; memory up to {amount(memory)}, disk "
            f"{amount(whole.disk_bytes)}, downloads {amount(whole.downloaded_bytes)}.",
            *(f"  {each}" for each in misfits(plan, machine)),
        ]
    now = f"{jobs:,} {'job runs' if jobs == 1 else 'jobs run'} now"
    if submitted is not None:
        now += f"; the scheduler gets {submitted:,} {'job' if submitted == 1 else 'jobs'}"
    return "\n".join([*lines, f"  {now}. The whole plan: `{plan.study.command('plan')}`"])


def _costs(plan: Plan, study: Study) -> dict[PlannedJob, Cost]:
    costs = ((job, plan.cost(job)) for job in jobs_of(study))
    return {job: cost for job, cost in costs if cost is not None}


def _headline(plan: Plan) -> str:
    study = plan.study
    return f"The study `{study.name}` ({study.source}): {len(study.cells)} cells"


def _conditions(plan: Plan) -> Iterator[str]:
    if plan.device:
        yield f"  device: {plan.device}"
    unknown = sorted(set(plan.study.models) - plan.shapes.keys())
    if unknown:
        yield (
            f"  Cost is unknown until the model is fetched: {', '.join(unknown)} (give its "
            "`architecture` to see the cost now)"
        )


def _parts(plan: Plan, machine: Machine) -> Iterator[str]:
    """Yield a line for each model and for each claim, taken alone, if there are several. Claims
    share cells, so that their costs do not add up.
    """
    part = plan.study.block.part or Part()
    grids = grids_in(plan.study.block.grids, part)
    claims = [claim for claim in claims_of(grids) if part.claims is None or claim in part.claims]
    for head, key, names in (("model", "models", models_of(grids)), ("claim", "claims", claims)):
        rows, groups = [[head, "cells", "jobs"]], []
        for name in names:
            alone = plan.study.of_part(part.model_copy(update={key: [name]}))
            if costs := list(_costs(plan, alone).values()):
                rows.append([name, f"{len(alone.cells):,}", f"{len(costs):,}"])
                groups.append(costs)
        if len(groups) > 1:
            yield from _table(rows, groups, machine, "disk")


def _steps(costs: Mapping[PlannedJob, Cost], machine: Machine) -> Iterator[str]:
    groups = {rule: [cost for job, cost in costs.items() if job.rule == rule] for rule in RULES}
    groups = {rule: group for rule, group in groups.items() if group}
    groups["total"] = list(costs.values())
    rows = [["step", "jobs"], *([name, f"{len(group):,}"] for name, group in groups.items())]
    yield from _table(rows, list(groups.values()), machine, "disk")


def _adaptations(plan: Plan, machine: Machine) -> list[str]:
    found = adaptation_jobs(plan.study)
    costs = {key: cost for key, job in found.items() if (cost := plan.cost(job)) is not None}
    if len(costs) > _MOST_LINES:
        command = f"make plan STUDY={shlex.quote(plan.study.source)} MODELS=..."
        return ["", f"  {len(costs)} adaptations of models; `{command}` has a line for each."]
    if not costs:
        return []
    rows, reasons = [["model", "adaptation", "window"]], [""]
    for key in costs:
        window, why = _in_memory(plan, found[key])
        rows.append([*key, window])
        why = misfit(plan, found[key], machine) or why
        reasons.append(f"  {why}" if why else "")
    table = _table(rows, [[cost] for cost in costs.values()], machine, "scratch")
    return ["", *(f"{line}{why}" for line, why in zip(table[1:], reasons, strict=True))]


def _in_memory(plan: Plan, job: PlannedJob) -> tuple[str, str | None]:
    """Return the window of an adaptation, or `streamed`, and the reason if it says `auto`."""
    model, adaptation = job.cell.model, job.cell.adaptation
    window, why = plan.window(model, adaptation)
    if isinstance(plan.study.adaptation(adaptation), Retraining):
        streamed, why = plan.streamed(model, adaptation)
        window = "streamed" if streamed else window
    return str(window), why


def _notes(plan: Plan, costs: Mapping[PlannedJob, Cost], machine: Machine) -> Iterator[str]:
    # Adaptations have lines of their own.
    yield from (f"  {each}." for each in misfits(plan, machine) if each.name in RULES)
    for note in dict.fromkeys(text_windows(plan.study, model).note for model in plan.shapes):
        if note:
            yield f"  {note[0].upper()}{note[1:]}."
    begin: dict[str, list[str]] = {}
    for model in plan.study.models:
        setting, bos = plan.study.model(model).bos, facts_at(plan.study.paths.bos(model)).get("bos")
        decided = decided_text(bos) if bos and bos["setting"] == setting else None
        begin.setdefault(decided or f"begin as `bos: {setting}` decides", []).append(model)
    yield from (f"  Sequences of {', '.join(models)} {how}." for how, models in begin.items())
    yield from _precisions(plan)
    for model in plan.study.models:
        if terms := plan.study.model(model).terms_text:
            yield f"  {model} is {terms}."
    seconds = sum(cost.seconds(machine) for cost in costs.values())
    yield f"  About {duration(seconds)} from scratch, job after job, besides fetching texts:"
    yield from (f"    {rate}" for rate in machine.rates)
    yield (
        "  A run has more jobs: those for texts, samples, records, tables and figures take seconds."
    )
    whole = together(list(costs.values()))
    yield "  Memory is the peak of one job, disk is what remains at the end, and scratch is what"
    yield (
        f"  a job has on disk meanwhile: up to {amount(whole.scratch_bytes)}. Downloads: "
        f"{amount(whole.downloaded_bytes)}."
    )
    if any(map(plan.study.candidates, plan.study.cells)):
        yield f"  `{plan.study.command('tidy')}` removes the candidates of finished cells."


def _precisions(plan: Plan) -> Iterator[str]:
    """Yield which precision `auto` stands for, and what is slower than need be."""
    study, on_device = plan.study, plan.device_bytes is not None
    settings = [study.adaptation(cell.adaptation) for cell in study.cells]
    asked = {each.precision for each in settings if isinstance(each, Training)}
    if AUTO in asked:
        yield f"  `precision: auto` is {plan.fast}, in which training passes are fastest here."
    if BFLOAT16 in asked and plan.fast == FLOAT32 and not on_device:
        yield (
            "  Training passes in bfloat16 are slower than in float32 on this processor, which has "
            "no instructions for it: `precision: auto` avoids that."
        )


def _table(
    rows: Sequence[Sequence[str]], groups: Sequence[Sequence[Cost]], machine: Machine, space: str
) -> list[str]:
    """Return an empty line and the aligned lines of a table of groups of jobs: a head and a row for
    each group, which begin with `rows` and end with the column `disk` or `scratch`. Numbers are
    right-aligned. Memory is that of the largest job.
    """
    device = machine.device_bytes is not None
    sums = [together(group) for group in groups]
    memory = [[cost.memory(device) for cost in group] for group in groups]
    size, unit = _unit([cost.flops for cost in sums], _FLOPS)
    times = (sum(cost.seconds(machine) for cost in group) for group in groups)
    sizes = {"host" if device else "memory": [max(each.host for each in of) for of in memory]}
    if device:
        sizes["device"] = [max(each.device for each in of) for of in memory]
    sizes[space] = [getattr(cost, f"{space}_bytes") for cost in sums]
    columns = [
        *map(list, zip(*rows, strict=True)),
        [unit, *(f"{cost.flops / size:,.1f}" for cost in sums)],
        ["time", *map(duration, times)],
        *([head, *_in_one_unit(numbers, _BYTES)] for head, numbers in sizes.items()),
    ]
    widths = [max(map(len, column)) for column in columns]
    lefts = sum(not column[1][:1].isdigit() for column in columns[: len(rows[0])])
    lines = [
        "  ".join(
            f"{cell:<{width}}" if at < lefts else f"{cell:>{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in zip(*columns, strict=True)
    ]
    return ["", *(f"  {line}" for line in lines)]


def _unit(numbers: Sequence[float], units: _Units) -> tuple[float, str]:
    """Return the largest unit of which one of some numbers is at least a tenth, or the smallest;
    the largest if all numbers are 0.
    """
    most = max(numbers, default=0.0)
    return next((unit for unit in units if most >= unit[0] / 10 or most == 0), units[-1])


def _in_one_unit(numbers: Sequence[float], units: _Units) -> list[str]:
    size, unit = _unit(numbers, units)
    return [f"{number / size:,.1f} {unit}" for number in numbers]
