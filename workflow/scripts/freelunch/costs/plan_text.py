"""A plan as text for the terminal: whole, with tables of steps and adaptations, or in brief."""

import shlex
from collections.abc import Iterator, Sequence

from freelunch.core.errors import first_of
from freelunch.costs.fits import amount, misfit
from freelunch.costs.jobs import (
    RULES,
    Job,
    adaptation_jobs,
    chains_of,
    jobs_of,
    scheduled_jobs,
)
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.price import DEVICES, Price, prices_of_claims, prices_of_models
from freelunch.costs.room import misfits, way_out_of, whole_cost
from freelunch.costs.text_lengths import text_windows
from freelunch.costs.work import (
    ATTENTION,
    ELIMINATION,
    GRAM,
    PASSES,
    SINGLE_ON_GPU,
    SOLVING,
    SWAPS,
    Cost,
    together,
)
from freelunch.study.retraining import Retraining

# Units, the largest first, with how many operations or bytes they are.
_Units = Sequence[tuple[float, str]]
_FLOPS = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))
_BYTES = ((1e9, "GB"), (1e6, "MB"))
# Adaptations of more models than these are left to plans of single models.
_MOST_LINES = 60
# Seconds, 30 days: a plan that takes longer here has the prices of models and claims on a GPU.
_LONG_S = 30 * 86400
# That GPU: its GB, its TFLOP/s, and the GB/s of the disk beside it.
_GPU_GB, _GPU_TFLOPS, _GPU_DISK = 80, 400, 2
_KINDS = (PASSES, ATTENTION, GRAM, ELIMINATION, SOLVING, SWAPS)


def plan_text(plan: Plan, machine: Machine | None = None) -> str:
    """Return a plan as a few lines for the terminal.

    Args:
        plan: The plan.
        machine: The machine that will run the study; None to measure the rates of this one.
    """
    lines = [_headline(plan)]
    lines += [f"  {each}" for each in first_of(plan.study.cells, 12)]
    lines += _conditions(plan)
    jobs = [job for job in jobs_of(plan.study) if job.model in plan.shapes]
    if jobs:
        machine = machine or Machine.of(device_bytes=plan.device_bytes)
        lines += _costs(plan, jobs, machine)
    return "\n".join(lines)


def plan_brief(
    plan: Plan, machine: Machine, jobs: int, submitted: int | None = None, groups: int = 1
) -> str:
    """Return what the user sees when a run begins: the whole cost, and what does not fit.

    Args:
        plan: The plan.
        machine: The machine that runs the study.
        jobs: How many jobs run now, those that take seconds included.
        submitted: How many jobs a scheduler gets now; None if all run on this machine.
        groups: How many jobs share the windows of a reconstruction.
    """
    lines = [_headline(plan), *_conditions(plan)]
    # Jobs of several seeds are equal here, and each counts.
    known = [job for job in jobs_of(plan.study) if job.model in plan.shapes]
    if known:
        costs = [plan.step(*job) or Cost() for job in known]
        whole = together(costs)
        seconds = sum(cost.seconds(machine) for cost in costs)
        memory = max(cost.memory(machine.device_bytes is not None).host for cost in costs)
        lines += [
            f"  From scratch: {_operations(whole.flops)}, about {duration(seconds)} job after "
            f"job, besides fetching texts; memory up to {amount(memory)}, disk "
            f"{amount(whole.disk_bytes)}, downloads {amount(whole.downloaded_bytes)}.",
            *(f"  {each}" for each in misfits(plan, machine)),
        ]
        if submitted is not None:
            lines.append(_on_a_cluster(plan, known, machine, groups))
    now = f"{jobs:,} {'job runs' if jobs == 1 else 'jobs run'} now"
    if submitted is not None:
        now += f"; the scheduler gets {submitted:,} {'job' if submitted == 1 else 'jobs'}"
    return "\n".join([*lines, f"  {now}. The whole plan: `{plan.study.command('plan')}`"])


def _headline(plan: Plan) -> str:
    study = plan.study
    return f"The study `{study.name}` ({study.source}): {len(study.cells)} cells"


def _conditions(plan: Plan) -> Iterator[str]:
    """Yield what computes, and the models whose cost is not known."""
    if plan.device:
        yield f"  device: {plan.device}"
    unknown = sorted(set(plan.study.models) - plan.shapes.keys())
    if unknown:
        yield (
            f"  Cost is unknown until the model is fetched: {', '.join(unknown)} (give its "
            "`architecture` to see the cost now)"
        )


def _costs(plan: Plan, jobs: Sequence[Job], machine: Machine) -> list[str]:
    known = [plan.step(*job) or Cost() for job in jobs]
    by_rule: dict[str, list[Cost]] = {
        rule: [cost for job, cost in zip(jobs, known, strict=True) if job.rule == rule]
        for rule in RULES
    }
    by_rule = {rule: costs for rule, costs in by_rule.items() if costs}
    everything = [cost for costs in by_rule.values() for cost in costs]
    groups = {**by_rule, "total": everything}
    sums = [together(costs) for costs in groups.values()]
    columns = [
        ["step", *groups],
        ["jobs", *(f"{len(costs):,}" for costs in groups.values())],
        *_columns(list(groups.values()), machine),
        ["read", *_sizes([one.read_bytes for one in sums])],
        ["written", *_sizes([one.written_bytes for one in sums])],
        ["disk", *_sizes([one.disk_bytes for one in sums])],
    ]
    seconds = sum(cost.seconds(machine) for cost in everything)
    on_gpu = machine.device_bytes is None and seconds > _LONG_S
    return [
        "",
        *_aligned(columns, names=1),
        *(_prices_on_gpu(plan) if on_gpu else _prices(plan, machine)),
        *_adaptations(plan, jobs, machine),
        "",
        *_notes(plan, by_rule, seconds, machine),
        _on_a_cluster(plan, jobs, machine),
    ]


def _on_a_cluster(plan: Plan, jobs: Sequence[Job], machine: Machine, groups: int = 1) -> str:
    """Return how many jobs a scheduler gets, and how long it takes however many run at a time."""
    seconds = {job: (plan.step(*job, groups=groups) or Cost()).seconds(machine) for job in jobs}
    longest = max(
        sum(seconds[job] for job in chain) for chain in chains_of(plan.study) if chain[0] in seconds
    )
    number = f"{scheduled_jobs(plan.study, groups):,} jobs for the scheduler"
    return f"  From scratch on a cluster: {number}; the longest chain takes {duration(longest)}."


def _notes(
    plan: Plan, by_rule: dict[str, list[Cost]], seconds: float, machine: Machine
) -> Iterator[str]:
    everything = [cost for costs in by_rule.values() for cost in costs]
    # Adaptations have lines of their own.
    yield from (f"  {each}." for each in misfits(plan, machine) if each.name in by_rule)
    for note in dict.fromkeys(text_windows(plan.study, model).note for model in plan.shapes):
        if note:
            yield f"  {note[0].upper()}{note[1:]}."
    yield f"  About {duration(seconds)} from scratch, job after job, besides fetching texts:"
    yield from (f"    {rate}" for rate in machine.rates)
    shares = ", ".join(f"{kind.name} {_percent(kind.share)}" for kind in _KINDS)
    yield f"  Shares of the matrix product's rate: {shares}."
    if machine.device_bytes is not None:
        yield (
            "  On a device, all but the first two are in single precision, at "
            f"{_percent(SINGLE_ON_GPU)} of the rate."
        )
    yield "  Passes, windows and streamed retraining read and write while they compute."
    yield (
        "  A run has more jobs: those for texts, samples, records, tables and figures take seconds."
    )
    yield "  Memory is the peak of one job, disk is what remains at the end, and scratch is what"
    whole = together(everything)
    yield (
        f"  a job has on disk meanwhile: up to {amount(whole.scratch_bytes)}. Downloads: "
        f"{amount(whole.downloaded_bytes)}."
    )
    tidied = whole_cost(plan, set(plan.study.cells)).disk_bytes
    if tidied < whole.disk_bytes:
        yield f"  `{plan.study.command('tidy')}` removes the candidates of finished cells;"
        yield f"  {amount(tidied)} then remain at the end."


def _adaptations(plan: Plan, jobs: Sequence[Job], machine: Machine) -> list[str]:
    """Return a line for each adaptation of a model."""
    found = {key: job for key, job in adaptation_jobs(plan.study).items() if job in jobs}
    if not found:
        return []
    if len(found) > _MOST_LINES:
        command = f"make plan STUDY={shlex.quote(plan.study.source)} MODELS=..."
        return ["", f"  {len(found)} adaptations of models; `{command}` has a line for each."]
    windows, costs, reasons = list[str](), list[Cost](), [""]
    for (model, adaptation), job in found.items():
        window, why = plan.window(model, adaptation)
        cost = plan.step(*job) or Cost()
        if isinstance(plan.study.adaptation(adaptation), Retraining):
            streamed, why = plan.streamed(model, adaptation)
            window = "streamed" if streamed else window
        if problem := misfit(cost, machine):
            why = f"{problem}; {way_out_of(plan, job, machine)}"
        windows.append(str(window))
        costs.append(cost)
        reasons.append(f"  {why}" if why else "")
    columns = [
        ["model", *(model for model, _ in found)],
        ["adaptation", *(adaptation for _, adaptation in found)],
        ["window", *windows],
        *_columns([[cost] for cost in costs], machine),
        ["scratch", *_sizes([cost.scratch_bytes for cost in costs])],
    ]
    lines = [line + why for line, why in zip(_aligned(columns, names=2), reasons, strict=True)]
    return ["", *lines]


def _prices_on_gpu(plan: Plan) -> list[str]:
    """Return the prices on a GPU, and how to plan everything for it or for another one."""
    size = _GPU_GB * 10**9
    machine = Machine.of(_GPU_TFLOPS * 1e12, _GPU_DISK * 1e9, device_bytes=size)
    words = f"DEVICE_MEMORY={_GPU_GB} TFLOPS={_GPU_TFLOPS} DISK={_GPU_DISK}GB/s"
    return [
        "",
        f"  On a GPU of {_GPU_GB} GB and {_GPU_TFLOPS} TFLOP/s, with a disk of {_GPU_DISK} GB/s; "
        "the whole plan for it:",
        f"  `{plan.study.command('plan')} {words}`",
        *_prices(plan.on_device(size), machine),
    ]


def _prices(plan: Plan, machine: Machine) -> list[str]:
    return [
        *_price_lines("model", prices_of_models(plan, machine), machine),
        *_price_lines("claim", prices_of_claims(plan, machine), machine),
    ]


def _price_lines(head: str, prices: Sequence[Price], machine: Machine) -> list[str]:
    """Return a line for each model or claim, taken alone.

    A single line would repeat the total, unless there is a device: then it says on which it fits.
    """
    device = machine.device_bytes is not None
    if len(prices) < (1 if device else 2):
        return []
    columns = [
        [head, *(price.name for price in prices)],
        ["cells", *(f"{price.cells:,}" for price in prices)],
        ["jobs", *(f"{price.jobs:,}" for price in prices)],
        ["scheduled", *(f"{price.scheduled:,}" for price in prices)],
        ["GPU hours" if device else "hours", *(_hours(price.seconds) for price in prices)],
        ["host" if device else "memory", *_sizes([price.memory.host for price in prices])],
    ]
    if device:
        columns.append(["device", *_sizes([price.memory.device for price in prices])])
    columns.append(["disk", *_sizes([price.disk_bytes for price in prices])])
    for at, size in enumerate(DEVICES if device else ()):
        lacking = [price.unfitting[at] for price in prices]
        fits = [f"all but {count}" if count else "all" for count in lacking]
        columns.append([f"fits {size / 1e9:g} GB", *fits])
    return ["", *_aligned(columns, names=1)]


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.1f}" if hours < 100 else f"{hours:,.0f}"


def _columns(groups: Sequence[Sequence[Cost]], machine: Machine) -> list[list[str]]:
    """Return columns with operations, time and memory of groups of jobs, below their heads; memory
    is that of the largest job.
    """
    device = machine.device_bytes is not None
    flops = [sum(cost.flops for cost in costs) for costs in groups]
    seconds = [sum(cost.seconds(machine) for cost in costs) for costs in groups]
    memory = [[cost.memory(device) for cost in costs] for costs in groups]
    size, unit = _unit(flops, _FLOPS)
    columns = [
        [unit, *(f"{number / size:,.1f}" for number in flops)],
        ["time", *map(short, seconds)],
        ["host" if device else "memory", *_sizes([max(one.host for one in of) for of in memory])],
    ]
    if device:
        columns.append(["device", *_sizes([max(one.device for one in of) for of in memory])])
    return columns


def _unit(numbers: Sequence[float], units: _Units) -> tuple[float, str]:
    """Return the largest unit of which one of some numbers is at least a tenth, or the smallest;
    the largest if all numbers are 0.
    """
    most = max(numbers, default=0.0)
    return next((unit for unit in units if most >= unit[0] / 10 or most == 0), units[-1])


def _sizes(numbers: Sequence[float]) -> list[str]:
    """Return bytes in one unit, which suits the largest of them."""
    size, unit = _unit(numbers, _BYTES)
    return [f"{number / size:,.1f} {unit}" for number in numbers]


def _operations(flops: float) -> str:
    size, unit = _unit([flops], _FLOPS)
    return f"{flops / size:,.1f} {unit}"


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _aligned(columns: Sequence[Sequence[str]], names: int) -> list[str]:
    """Return columns as aligned lines: the first `names` columns left, the rest right."""
    widths = [max(map(len, column)) for column in columns]
    return [
        "  "
        + "  ".join(
            f"{cell:<{width}}" if at < names else f"{cell:>{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in zip(*columns, strict=True)
    ]


def duration(seconds: float) -> str:
    """Return a time in words."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    if seconds < 72 * 3600:
        return f"{seconds / 3600:.1f} hours"
    days = seconds / 86400
    return f"{days:,.0f} days" if days < 3650 else f"{days / 365.25:,.0f} years"


def short(seconds: float) -> str:
    """Return a time in words, with the unit's first letters."""
    number, _, unit = duration(seconds).partition(" ")
    return f"{number} {'min' if unit == 'minutes' else unit[0]}"
