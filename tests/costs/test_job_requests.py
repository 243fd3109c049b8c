"""What jobs ask a scheduler for, how they share work, and how the terminal's bar weights them."""

import math
from itertools import chain
from pathlib import Path

import pytest

from configs import smoke
from freelunch.core.job import KEPT_BYTES
from freelunch.costs.cost import START_S
from freelunch.costs.job_requests import (
    AROUND_BYTES,
    LEAST_MINUTES,
    MORE_MEMORY,
    MORE_TIME,
    RECORD,
    WORTH_S,
    JobRequest,
    Limits,
    again,
    mask_groups,
    planned_s,
    request,
    together,
    window_groups,
)
from freelunch.costs.jobs import PlannedJob, jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.study.cell import Cell
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.study import Study
from freelunch.study.windows import split_windows
from planned import CELL, MACHINE, cost_of

SLOW = Machine.of(1e6, 1e9, 1e9)
MODEL = "smollm2-135m"
SWEEP = [
    f"{criterion}-{pattern}"
    for criterion in ("magnitude", "wanda", "ria", "sparsegpt")
    for pattern in ("u50", "u60", "2of4", "4of8")
]


@pytest.fixture
def plan() -> Plan:
    return Plan.of(Study.load(Path("config.yaml")))


@pytest.fixture
def sweep() -> Plan:
    return Plan.of(Study.load(Path("studies/anchors.yaml")))


def reconstructions(plan: Plan) -> list[PlannedJob]:
    return [job for job in jobs_of(plan.study) if job.rule == RECONSTRUCT_WINDOW]


# --- Requests


def test_a_request_has_room_for_a_prediction_that_is_too_low() -> None:
    """By a tenth of the memory, and by half of the time; and for what glibc keeps."""
    plan = Plan.of(Study.load(Path("studies/full.yaml")))
    for machine in (MACHINE, SLOW):
        for job in jobs_of(plan.study):
            cost, asked = plan.cost(job), request(plan, machine, job)
            assert cost is not None
            assert asked.mem_mb * 1e6 >= 1.1 * cost.memory_bytes + KEPT_BYTES + AROUND_BYTES
            assert asked.runtime >= max(LEAST_MINUTES, 1.5 * cost.seconds(machine) / 60)
            assert asked.disk_mb * 1e6 >= cost.disk_bytes + cost.scratch_bytes


def test_a_job_on_a_device_requests_the_hosts_memory() -> None:
    study = Study.load(Path("studies/large.yaml"))
    job = PlannedJob("retrain_model", Cell.parse("qwen2.5-72b/wanda-u50/masklora/seed0"))
    machine = Machine.of(400e12, 2e9)
    asked = [request(plan, machine, job) for plan in (Plan.of(study, 400 * 10**9), Plan.of(study))]
    assert asked[0].mem_mb < asked[1].mem_mb


def test_each_attempt_asks_for_more_but_not_for_more_than_a_partition_has() -> None:
    """Slurm would refuse it, or never start it. Jobs of a group share the time."""
    first, other = JobRequest(1000, 25, 5), JobRequest(700, 10, 0)
    for attempt in (2, 3):
        memory, time = 1000 * MORE_MEMORY ** (attempt - 1), 25 * MORE_TIME ** (attempt - 1)
        assert again(first, attempt, first, Limits()) == JobRequest(int(memory), int(time), 5)
    whole, most = together([first, other, RECORD]), Limits(mem_mb=1200, runtime=60)
    assert whole == JobRequest(1000, 35 + RECORD.runtime, 5)
    for attempt in (2, 3, 9):
        one, two = (again(each, attempt, whole, most) for each in (first, other))
        assert max(one.mem_mb, two.mem_mb) == 1200
        assert one.runtime > 25 and one.runtime + two.runtime + RECORD.runtime <= 60
    # A deadline of time takes no more memory; before or after it, another attempt may lack some.
    for attempt, in_time, memory in ((2, 0, 1000), (3, 0, 1000), (3, 1, 1500)):
        late = again(first, attempt, first, Limits(), in_time)
        assert late == JobRequest(memory, 25 * 2 ** (attempt - 1), 5)
    # Never less than the first attempt, which was checked before the start.
    assert again(first, 2, whole, Limits(900, 30)) == first


# --- Windows that several jobs share


def longest_s(plan: Plan, machine: Machine) -> float:
    """Return how long the longest reconstruction takes."""
    costs = (plan.cost(job) for job in reconstructions(plan))
    return max(cost.seconds(machine) for cost in costs if cost)


def test_cells_come_first(plan: Plan) -> None:
    """The study has several reconstructions that can run side by side."""
    cells = len(reconstructions(plan))
    assert longest_s(plan, SLOW) > 7 * WORTH_S
    for workers in (0, 1, cells, 2 * cells - 1):
        assert window_groups(plan, SLOW, workers) == 1
    assert window_groups(plan, SLOW, 2 * cells) == 2
    assert window_groups(plan, SLOW, 7 * cells + 1) == 7


@pytest.mark.parametrize("flops_per_s", [1e13, 1e10, 3e9])
def test_short_jobs_are_not_divided(plan: Plan, flops_per_s: float) -> None:
    """Each group has ten minutes of work; without windows there is one."""
    machine = Machine.of(flops_per_s, 1e9, 1e9)
    expected = max(1, int(longest_s(plan, machine) / WORTH_S))
    assert window_groups(plan, machine, 1000) == expected
    assert expected == 1 or flops_per_s < 1e13
    assert window_groups(Plan.of(smoke({"study.grids.0.adaptations": ["none"]})), SLOW, 1000) == 1


def test_jobs_that_share_windows_ask_for_their_part_of_the_time(plan: Plan) -> None:
    """The largest group decides, and what cannot be divided is not."""
    shared = 0
    for job in jobs_of(plan.study):
        whole, part = (request(plan, SLOW, job, groups) for groups in (1, 7))
        share = 1.0
        if job.rule == RECONSTRUCT_WINDOW:
            window, _ = plan.window(job.cell.model, job.cell.adaptation)
            assert window is not None
            windows = len(split_windows(plan.shapes[job.cell.model].blocks, window))
            share = math.ceil(windows / 7) / windows
            shared += windows > 1
        assert part.runtime == pytest.approx(whole.runtime * share, abs=1)
        assert part.mem_mb == whole.mem_mb and part.disk_mb <= whole.disk_mb
    assert shared


def test_sequential_windows_are_not_shared() -> None:
    plan = Plan.of(Study.load(Path("studies/budgets.yaml")))
    for name in ("recon_131k_sparse", "recon_all_131k"):
        job = PlannedJob(RECONSTRUCT_WINDOW, Cell.parse(f"{MODEL}/wanda-u50/{name}/seed0"))
        assert plan.cost(job, groups=7) == plan.cost(job)


# --- Masks that are chosen together


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 16, 100])
def test_workers_get_about_the_same_work(sweep: Plan, workers: int) -> None:
    groups = mask_groups(sweep, SLOW, MODEL, reversed(SWEEP), workers)
    assert len(groups) == min(workers, len(SWEEP))
    assert sorted(chain(*groups)) == sorted(SWEEP)
    assert groups == mask_groups(sweep, SLOW, MODEL, SWEEP, workers)
    costs = {
        name: cost_of(sweep, "prune_model", f"{MODEL}/{name}/none/seed0").seconds(SLOW)
        for name in SWEEP
    }
    loads = [sum(map(costs.__getitem__, group)) for group in groups]
    assert max(loads) - min(loads) <= max(costs.values())


def test_only_masks_of_weights_from_dense_statistics_are_chosen_together(sweep: Plan) -> None:
    names = {cell.criterion for cell in sweep.study.cells}
    sparse = [f"{name}-u50" for name in names if name.endswith("_sparse")]
    assert sparse
    assert mask_groups(sweep, SLOW, MODEL, [*sparse, "ria-u50"], 4) == [["ria-u50"]]
    assert mask_groups(sweep, SLOW, MODEL, sparse, 4) == []


# --- The terminal's bar


def test_a_job_counts_as_much_as_in_the_plan() -> None:
    plan = Plan.of(Study.load(Path("studies/full.yaml")))
    for job in jobs_of(plan.study):
        cell, cost = job.cell, plan.cost(job)
        names = ("model", "criterion", "pattern", "pruning", "adaptation", "seed")
        wildcards = {name: str(getattr(cell, name)) for name in names}
        assert cost is not None
        # Where another workflow imports the rules, their names have a prefix.
        for rule in (job.rule, f"lunch_{job.rule}"):
            assert planned_s(plan, MACHINE, rule, wildcards) == cost.seconds(MACHINE) > START_S
    assert planned_s(plan, MACHINE, "build_tables", {}) == START_S
    assert planned_s(plan, MACHINE, "fetch_model", {"model": "not-here-yet"}) == START_S


def test_jobs_that_share_windows_share_the_weight() -> None:
    """But each of them starts."""
    plan, cell = Plan.of(smoke()), Cell.parse(CELL)
    wildcards = {"model": cell.model, "pruning": cell.pruning, "adaptation": cell.adaptation}
    one, *four = (
        planned_s(plan, MACHINE, RECONSTRUCT_WINDOW, {**wildcards, "scatteritem": part})
        for part in ("1-of-1", "1-of-4", "2-of-4", "3-of-4", "4-of-4")
    )
    assert sum(four) - 4 * START_S == pytest.approx(one - START_S)
