"""What earlier jobs say of how fast a machine is."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from freelunch.core.digest import sealed
from freelunch.core.job import processor_name
from freelunch.costs.cost import PASSES
from freelunch.costs.machine import Learnt, Machine
from freelunch.records.rates import learnt_rate

HERE = {"processor": processor_name(), "cores": os.cpu_count(), "device": "cpu"}
GPU = {**HERE, "device": "cuda", "device_name": "NVIDIA H100 80GB HBM3"}


def note(
    results: Path,
    number: int,
    environment: dict[str, Any],
    others: dict[str, Any] | None = None,
    **cost: float,
) -> None:
    """Leave a record of a cell whose evaluation cost this much."""
    record = {
        "cost": {"evaluate_cell": {"flops": 2_000_000_000_000 + number, "wall_s": 20.0, **cost}},
        "provenance": {
            "environments": {"evaluate_cell": environment},
            "other_environments": others or {},
        },
    }
    path = results / "study" / "records" / f"{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(sealed(record)))


def test_jobs_of_this_machine_say_how_fast_it_is(tmp_path: Path) -> None:
    for number in range(3):
        note(tmp_path, number, HERE)
    learnt = learnt_rate(tmp_path)
    assert learnt is not None and learnt.jobs == 3
    assert learnt.flops_per_s == pytest.approx(1e11 / PASSES.share)
    machine = Machine.of(None, 1e9, 1e8, learnt=learnt)
    assert machine.flops_per_s == learnt.flops_per_s
    assert "estimated from the time of 3 earlier jobs" in machine.rates[0]
    assert Machine.of(5e12, 1e9, 1e8, learnt=learnt).flops_per_s == 5e12


@pytest.mark.parametrize(
    ("environment", "cost"),
    [
        ({**HERE, "processor": "another"}, {}),
        ({**HERE, "cores": 999}, {}),
        (GPU, {}),
        # What starting takes is most of such a job.
        (HERE, {"wall_s": 3.0}),
        (HERE, {"flops": 0}),
    ],
)
def test_jobs_that_say_nothing_of_it(
    tmp_path: Path, environment: dict[str, Any], cost: dict[str, float]
) -> None:
    for number in range(9):
        note(tmp_path, number, environment, **cost)
    assert learnt_rate(tmp_path) is None


def test_jobs_on_several_machines_say_nothing_of_one(tmp_path: Path) -> None:
    for number in range(9):
        note(tmp_path, number, HERE, {"evaluate_cell": [GPU]})
    assert learnt_rate(tmp_path) is None


def test_the_same_job_in_several_records_counts_once(tmp_path: Path) -> None:
    for number in range(9):
        note(tmp_path, number, HERE, flops=10**12)
    assert learnt_rate(tmp_path) is None


def test_gpus_are_told_apart(tmp_path: Path) -> None:
    for number in range(4):
        note(tmp_path, number, GPU if number else {**GPU, "device_name": "NVIDIA A100"})
    assert learnt_rate(tmp_path, on_gpu=True) == Learnt(pytest.approx(1e11 / PASSES.share), 4)
    found = learnt_rate(tmp_path, on_gpu=True, gpus=["NVIDIA H100 80GB HBM3"])
    assert found is not None and found.jobs == 3
    assert learnt_rate(tmp_path, on_gpu=True, gpus=["NVIDIA B200"]) is None


def test_damaged_records_are_no_obstacle(tmp_path: Path) -> None:
    note(tmp_path, 0, HERE)
    path = tmp_path / "study" / "records" / "0.json"
    path.write_text(path.read_text()[:-9])
    assert learnt_rate(tmp_path) is None
    assert learnt_rate(tmp_path / "missing") is None
