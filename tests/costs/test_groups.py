"""In how many jobs windows are adapted, where nobody says how many; masks chosen together."""

import math
from itertools import chain
from pathlib import Path

import pytest

from freelunch.costs.groups import WORTH_S, mask_groups, window_groups
from freelunch.costs.jobs import Job, jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.requests import request
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.study import Study
from freelunch.study.windows import split_windows

SLOW = Machine.of(1e6, 1e9, 1e9)


@pytest.fixture
def plan() -> Plan:
    return Plan.of(Study.load(Path("config.yaml")))


def longest_s(plan: Plan, machine: Machine) -> float:
    """Return how long the longest reconstruction takes."""
    jobs = [job for job in jobs_of(plan.study) if job.rule == RECONSTRUCT_WINDOW]
    return max(cost.seconds(machine) for job in jobs if (cost := plan.step(*job)))


def test_cells_come_first(plan: Plan) -> None:
    """The study has several reconstructions that can run side by side."""
    cells = [job for job in jobs_of(plan.study) if job.rule == RECONSTRUCT_WINDOW]
    assert longest_s(plan, SLOW) > 7 * WORTH_S
    for workers in (0, 1, len(cells), 2 * len(cells) - 1):
        assert window_groups(plan, SLOW, workers) == 1
    assert window_groups(plan, SLOW, 2 * len(cells)) == 2
    assert window_groups(plan, SLOW, 7 * len(cells) + 1) == 7


@pytest.mark.parametrize("flops_per_s", [1e13, 1e10, 3e9])
def test_short_jobs_are_not_divided(plan: Plan, flops_per_s: float) -> None:
    """Each group has ten minutes of work."""
    machine = Machine.of(flops_per_s, 1e9, 1e9)
    expected = max(1, int(longest_s(plan, machine) / WORTH_S))
    assert window_groups(plan, machine, 1000) == expected
    assert expected == 1 or flops_per_s < 1e13


def test_without_windows_there_is_one_group(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freelunch.costs.groups.jobs_of", lambda study: [])
    assert window_groups(plan, Machine.of(1e9), 1000) == 1


def test_jobs_that_share_windows_ask_for_their_part_of_the_time(plan: Plan) -> None:
    """The largest group decides, and what cannot be divided is not."""
    shared = 0
    for job in jobs_of(plan.study):
        whole, part = (request(plan, SLOW, job, groups) for groups in (1, 7))
        share = 1.0
        if job.rule == RECONSTRUCT_WINDOW:
            window, _ = plan.window(job.model, job.adaptation)
            windows = len(split_windows(plan.shapes[job.model].blocks, window))
            share = math.ceil(windows / 7) / windows
            shared += windows > 1
        assert part.runtime == pytest.approx(whole.runtime * share, abs=1)
        assert part.mem_mb == whole.mem_mb and part.disk_mb <= whole.disk_mb
    assert shared


def test_sequential_windows_are_not_shared() -> None:
    plan = Plan.of(Study.load(Path("studies/budgets.yaml")))
    for name in ("recon_131k_sparse", "recon_all_131k"):
        job = Job(RECONSTRUCT_WINDOW, "smollm2-135m", "wanda", name)
        assert plan.step(*job, groups=7) == plan.step(*job)


@pytest.mark.parametrize(("keep", "passed"), [("all", 0), ("every_4", 3), ("none", 30)])
def test_each_job_recomputes_what_is_not_kept(keep: str, passed: int) -> None:
    """The last of thirty jobs passes all blocks if nothing is kept, and that is not divided."""
    config = Study.load(Path("config.yaml")).as_json()
    config["study"]["keep_hidden_states"] = keep
    plan = Plan.of(Study.check(config, "changed.yaml"))
    job = Job(RECONSTRUCT_WINDOW, "smollm2-135m", "wanda", "recon_block")
    kept = Plan.of(Study.load(Path("config.yaml"))).step(*job)
    one = plan.step(*job, groups=30)
    assert one is not None and kept is not None
    shapes, tokens, length = plan.shapes["smollm2-135m"], 8192, 256
    more = one.flops - kept.flops // 30
    assert more == pytest.approx(shapes.forward_flops(tokens, length, passed), rel=0.01, abs=100)


SWEEP = [
    f"{criterion}-{pattern}"
    for criterion in ("magnitude", "wanda", "ria", "sparsegpt")
    for pattern in ("u50", "u60", "2of4", "4of8")
]


@pytest.fixture
def sweep() -> Plan:
    return Plan.of(Study.load(Path("studies/anchors.yaml")))


def test_one_worker_chooses_all_masks_in_one_pass(sweep: Plan) -> None:
    (group,) = mask_groups(sweep, SLOW, "smollm2-135m", SWEEP, 1)
    assert sorted(group) == sorted(SWEEP)


@pytest.mark.parametrize("workers", [2, 3, 4, 16, 100])
def test_workers_get_about_the_same_work(sweep: Plan, workers: int) -> None:
    groups = mask_groups(sweep, SLOW, "smollm2-135m", reversed(SWEEP), workers)
    assert len(groups) == min(workers, len(SWEEP))
    assert sorted(chain(*groups)) == sorted(SWEEP)
    assert groups == mask_groups(sweep, SLOW, "smollm2-135m", SWEEP, workers)

    def seconds(pruning: str) -> float:
        criterion, pattern = pruning.split("-")
        cost = sweep.step("prune_model", "smollm2-135m", criterion, "none", pattern)
        assert cost is not None
        return cost.seconds(SLOW)

    loads = [sum(map(seconds, group)) for group in groups]
    assert max(loads) - min(loads) <= max(map(seconds, SWEEP))


def test_only_masks_of_weights_from_dense_statistics_are_chosen_together() -> None:
    plan = Plan.of(Study.load(Path("studies/anchors.yaml")))
    names = {cell.criterion for cell in plan.study.cells}
    sparse = [f"{name}-u50" for name in names if name.endswith("_sparse")]
    assert sparse
    assert mask_groups(plan, SLOW, "smollm2-135m", [*sparse, "ria-u50"], 4) == [["ria-u50"]]
    assert mask_groups(plan, SLOW, "smollm2-135m", sparse, 4) == []
