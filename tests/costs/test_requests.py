"""What jobs ask a scheduler for, and how many jobs it gets."""

import re
from pathlib import Path

import pytest

from configs import smoke
from freelunch.core.job import KEPT_BYTES
from freelunch.costs.jobs import Job, chains_of, jobs_of, scheduled_jobs
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.plan_text import plan_brief, plan_text
from freelunch.costs.requests import (
    AROUND_BYTES,
    LEAST_MINUTES,
    MORE_MEMORY,
    MORE_TIME,
    RECORD,
    TIME_MARGIN,
    UNKNOWN_MB,
    Limits,
    Request,
    again,
    request,
    together,
)
from freelunch.study.study import Study
from repository import ROOT

MACHINE = Machine.of(1e12, 1e9, 1e8)


def test_a_request_is_more_than_the_prediction() -> None:
    """And more than what glibc keeps, which the prediction lacks."""
    plan = Plan.of(Study.load(Path("studies/full.yaml")))
    for job in jobs_of(plan.study):
        cost, asked = plan.step(*job), request(plan, MACHINE, job)
        assert cost is not None
        assert asked.mem_mb * 1e6 > cost.memory_bytes + KEPT_BYTES
        assert asked.runtime >= max(LEAST_MINUTES, TIME_MARGIN * cost.seconds(MACHINE) / 60)
        assert asked.disk_mb * 1e6 >= cost.disk_bytes + cost.scratch_bytes


def test_each_attempt_asks_for_more() -> None:
    first = Request(mem_mb=1000, runtime=10, disk_mb=5)
    second, third = (again(first, attempt, first, Limits()) for attempt in (2, 3))
    assert second == Request(int(1000 * MORE_MEMORY), int(10 * MORE_TIME), 5)
    assert third == Request(int(1000 * MORE_MEMORY**2), int(10 * MORE_TIME**2), 5)


def test_no_attempt_asks_for_more_than_a_partition_has() -> None:
    """Slurm would refuse it, or never start it. Jobs of a group share the time."""
    first, other = Request(1000, 25, 5), Request(700, 10, 0)
    whole, most = together([first, other, RECORD]), Limits(mem_mb=1200, runtime=60)
    assert whole == Request(1000, 45, 5)
    for attempt in (2, 3, 9):
        one, two = (again(each, attempt, whole, most) for each in (first, other))
        assert max(one.mem_mb, two.mem_mb) == 1200
        assert one.runtime > 25 and one.runtime + two.runtime + RECORD.runtime <= 60
    # Never less than the first attempt, which was checked before the start.
    assert again(first, 2, whole, Limits(900, 30)) == first


def test_a_model_whose_cost_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Study.load(ROOT / "config.yaml").as_json()
    del config["models"]["smollm2-135m"]["architecture"]
    monkeypatch.chdir(tmp_path)
    plan = Plan.of(Study.check(config, "config.yaml"))
    assert request(plan, MACHINE, Job("capture_dense", "smollm2-135m")).mem_mb == UNKNOWN_MB


@pytest.mark.parametrize("name", ["full", "tuning", "criteria", "smoke"])
def test_the_chains_of_a_study_are_of_its_jobs(name: str) -> None:
    """Also of a search, in which candidates come before the cell."""
    study = Study.load(Path(f"studies/{name}.yaml"))
    jobs = set(jobs_of(study))
    chains = list(chains_of(study))
    assert {job for chain in chains for job in chain} <= jobs
    adapting = {job for job in jobs if job.rule in ("reconstruct_window", "retrain_model")}
    assert adapting <= {job for chain in chains for job in chain}


def chain_s(text: str) -> float:
    """Return how many seconds the longest chain takes, as a plan tells it."""
    (told,) = re.findall(r"longest chain takes ([\d.]+) (\w+)", text)
    seconds = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}
    return float(told[0]) * seconds[told[1]]


def test_the_plan_says_what_a_cluster_gets() -> None:
    study = smoke()
    # The dense pass, two prunings, five cells.
    assert scheduled_jobs(study) == 8
    # Two of these cells are reconstructions, each of whose windows two jobs share.
    assert scheduled_jobs(study, groups=2) == 12
    text = plan_brief(Plan.of(study), MACHINE, 11, submitted=2, groups=2)
    assert "From scratch on a cluster: 12 jobs for the scheduler" in text
    assert "  11 jobs run now; the scheduler gets 2 jobs. " in text
    assert "scheduler" not in plan_brief(Plan.of(study), MACHINE, 11)
    slow = Machine.of(1e6, 1e9, 1e8)
    one, two = (plan_brief(Plan.of(study), slow, 11, 2, groups) for groups in (1, 2))
    assert chain_s(one) > chain_s(two)
    text = plan_text(Plan.of(study), MACHINE)
    assert (
        "From scratch on a cluster: 8 jobs for the scheduler; the longest chain takes 20 seconds."
        in text
    )
    assert "device: a GPU" in plan_text(Plan.of(study, device="a GPU"), MACHINE)


def test_a_request_has_room_for_a_prediction_that_is_too_low() -> None:
    """By a tenth of the memory, and by half of the time."""
    plan, slow = Plan.of(smoke()), Machine.of(1e6, 1e9, 1e8)
    for job in jobs_of(plan.study):
        cost, asked = plan.step(*job), request(plan, slow, job)
        assert asked.mem_mb * 1e6 >= 1.1 * cost.memory_bytes + KEPT_BYTES + AROUND_BYTES
        assert asked.runtime >= 1.5 * cost.seconds(slow) / 60
