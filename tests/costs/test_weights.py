"""How much each job of a run counts at the terminal's bar."""

from pathlib import Path

import pytest

from configs import smoke
from freelunch.costs.jobs import evaluation, jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.plan_text import plan_brief, plan_text
from freelunch.costs.weights import planned_s
from freelunch.costs.work import START_S
from freelunch.study.cell import Cell
from freelunch.study.study import Study

MACHINE = Machine.of(1e9, 1e9, 1e8)


def wildcards(cell: Cell) -> dict[str, str]:
    model, pruning, adaptation, seed = cell.model, cell.pruning, cell.adaptation, str(cell.seed)
    return {"model": model, "pruning": pruning, "adaptation": adaptation, "seed": seed}


def test_a_job_counts_as_much_as_its_step_in_the_plan() -> None:
    plan = Plan.of(Study.load(Path("studies/full.yaml")))
    costs = {job: plan.step(*job) for job in jobs_of(plan.study)}
    for cell in plan.study.cells:
        found = planned_s(plan, MACHINE, "evaluate_cell", wildcards(cell))
        cost = costs[evaluation(cell)]
        assert cost is not None and found == cost.seconds(MACHINE) > START_S
    for job, cost in costs.items():
        given = {"model": job.model, "seed": "0"}
        if job.rule == "prune_model":
            given |= {"criterion": job.criterion, "pattern": job.pattern}
        if job.rule in ("reconstruct_window", "retrain_model"):
            given |= {"pruning": f"{job.criterion}-{job.pattern}", "adaptation": job.adaptation}
        if job.rule != "evaluate_cell":
            assert cost is not None
            assert planned_s(plan, MACHINE, f"lunch_{job.rule}", given) == cost.seconds(MACHINE)


def test_jobs_that_share_windows_share_the_weight() -> None:
    """But each of them starts."""
    plan = Plan.of(smoke())
    cell = wildcards(Cell.parse("tiny/wanda-u50/recon_block/seed0"))
    one, *four = (
        planned_s(plan, MACHINE, "reconstruct_window", cell | {"scatteritem": part})
        for part in ("1-of-1", "1-of-4", "2-of-4", "3-of-4", "4-of-4")
    )
    assert sum(four) - 4 * START_S == pytest.approx(one - START_S)


def test_a_job_without_a_planned_cost_counts_as_its_start() -> None:
    plan = Plan.of(smoke())
    assert planned_s(plan, MACHINE, "build_tables", {}) == START_S
    assert planned_s(plan, MACHINE, "fetch_model", {"model": "not here yet"}) == START_S


def test_the_plan_in_brief_has_the_sums_of_the_plan_and_what_does_not_fit() -> None:
    plan = Plan.of(Study.load(Path("studies/qwen72b.yaml")), 8 * 10**9)
    machine = Machine.of(400e12, 2e9, None, 8 * 10**9)
    brief, whole = plan_brief(plan, machine, 23, submitted=7), plan_text(plan, machine)
    (cluster,) = (line for line in whole.splitlines() if "on a cluster" in line)
    assert cluster in brief and brief.splitlines()[0] == whole.splitlines()[0]
    assert "  23 jobs run now; the scheduler gets 7 jobs. The whole plan: `make plan" in brief
    assert "  1 job runs now. " in plan_brief(plan, machine, 1)
    assert "on a cluster" not in plan_brief(plan, machine, 23)
    flops = whole[whole.index("  total ") :].split()[2]
    assert f"From scratch: {flops} TFLOP, about " in brief
    assert "recon_block of qwen2.5-72b does not fit: needs 23.6 GB, the device has 8 GB;" in brief


def test_the_plan_in_brief_counts_each_seed() -> None:
    plan = Plan.of(Study.load(Path("studies/full.yaml")))
    whole = plan_text(plan, MACHINE)
    flops = whole[whole.index("  total ") :].split()[2]
    assert f"From scratch: {flops} TFLOP, about " in plan_brief(plan, MACHINE, 1)
