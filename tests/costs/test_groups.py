"""In how many jobs windows are adapted, where nobody says how many."""

from pathlib import Path

import pytest

from configs import ROOT
from freelunch.costs.groups import WORTH_S, window_groups
from freelunch.costs.jobs import jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.study import Study


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(ROOT)
    return Plan.of(Study.load(Path("config.yaml")))


def longest_s(plan: Plan, machine: Machine) -> float:
    """Return how long the longest reconstruction takes."""
    jobs = [job for job in jobs_of(plan.study) if job.rule == RECONSTRUCT_WINDOW]
    return max(cost.seconds(machine) for job in jobs if (cost := plan.step(*job)))


def test_cells_come_first(plan: Plan) -> None:
    """The study has several reconstructions that can run side by side."""
    cells = [job for job in jobs_of(plan.study) if job.rule == RECONSTRUCT_WINDOW]
    slow = Machine.of(1e6, 1e9, 1e9)
    assert longest_s(plan, slow) > 7 * WORTH_S
    for workers in (0, 1, len(cells), 2 * len(cells) - 1):
        assert window_groups(plan, slow, workers) == 1
    assert window_groups(plan, slow, 2 * len(cells)) == 2
    assert window_groups(plan, slow, 7 * len(cells) + 1) == 7


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
