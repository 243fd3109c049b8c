"""What jobs ask a scheduler for, and how many jobs it gets."""

from pathlib import Path

import pytest

from configs import ROOT, smoke
from freelunch.core.job import KEPT_BYTES
from freelunch.costs.jobs import Job, chains_of, jobs_of, scheduled_jobs
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.plan_text import plan_text
from freelunch.costs.requests import (
    LEAST_MINUTES,
    MORE_MEMORY,
    MORE_TIME,
    TIME_MARGIN,
    UNKNOWN_MB,
    request,
)
from freelunch.study.study import Study

MACHINE = Machine.of(1e12, 1e9, 1e8)


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


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
    plan, job = Plan.of(smoke()), Job("evaluate_cell", "tiny")
    first, second, third = (request(plan, MACHINE, job, attempt) for attempt in (1, 2, 3))
    assert second.mem_mb == pytest.approx(first.mem_mb * MORE_MEMORY, abs=2)
    assert third.mem_mb == pytest.approx(second.mem_mb * MORE_MEMORY, abs=2)
    assert (second.runtime, third.runtime) == (10 * MORE_TIME, 10 * MORE_TIME**2)
    assert first.disk_mb == third.disk_mb


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


def test_the_plan_says_what_a_cluster_gets() -> None:
    study = smoke()
    # The dense pass, two prunings, five cells.
    assert scheduled_jobs(study) == 8
    text = plan_text(Plan.of(study), MACHINE)
    assert "On a cluster: 8 jobs for the scheduler; the longest chain takes 20 seconds." in text
    assert "device: a GPU" in plan_text(Plan.of(study, device="a GPU"), MACHINE)
