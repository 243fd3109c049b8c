"""What earlier jobs say: how fast a machine is, and in how many jobs windows are adapted."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from artifacts import write_at
from freelunch.core.digest import sealed
from freelunch.core.job import processor_name
from freelunch.costs.cost import PASSES
from freelunch.costs.machine import Learnt, Machine
from freelunch.records.earlier_jobs import finished_groups, learnt_rate
from freelunch.study.cell import Cell
from freelunch.study.config import Part
from freelunch.study.study import Study
from repository import ROOT

HERE = {"processor": processor_name(), "cores": os.cpu_count(), "device": "cpu", "threads": 2}
GPU = {**HERE, "device": "cuda", "device_name": "NVIDIA H100 80GB HBM3"}


def note(
    results: Path,
    number: int,
    environment: dict[str, Any],
    others: dict[str, Any] | None = None,
    study: str = "study",
    **cost: float,
) -> None:
    """Leave a record of a cell whose evaluation cost this much: 100 GFLOP/s, if nothing is said."""
    record = {
        "cost": {
            "evaluate_cell": {"flops": 2 * 10**12 + number, "cpu_s": 40.0, "wall_s": 20.0, **cost}
        },
        "provenance": {
            "environments": {"evaluate_cell": environment},
            "other_environments": others or {},
        },
    }
    path = results / study / "records" / f"{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(sealed(record)))


# Jobs that say nothing of this machine: environment, environments of other jobs, and cost.
OTHERS: list[tuple[dict[str, Any], dict[str, Any], dict[str, float]]] = [
    ({**HERE, "processor": "another"}, {}, {}),
    ({**HERE, "cores": 999}, {}, {}),
    (GPU, {}, {}),
    # What starting takes is most of such a job.
    (HERE, {}, {"flops": 9 * 10**11, "cpu_s": 18.0}),
    (GPU, {}, {"wall_s": 3.0}),
    # No processor and no GPU is so slow or so fast.
    (HERE, {}, {"cpu_s": 4000.0}),
    (HERE, {}, {"cpu_s": 0.1}),
    (HERE, {}, {"cpu_s": 0.0}),
    (GPU, {}, {"wall_s": 4000.0}),
    (HERE, {}, {"flops": 0}),
    # It ran on several machines.
    (HERE, {"evaluate_cell": [GPU]}, {}),
    # It is the same one in several records.
    (HERE, {}, {"flops": 10**12}),
]


def test_jobs_of_this_machine_say_how_fast_it_is(tmp_path: Path) -> None:
    for number in range(4):
        note(tmp_path, number, HERE)
    damaged = tmp_path / "study" / "records" / "3.json"
    damaged.write_text(damaged.read_text()[:-9])
    learnt = learnt_rate(tmp_path)
    assert learnt is not None and learnt.jobs == 3
    assert learnt.flops_per_s == pytest.approx(1e11 / PASSES.share)
    machine = Machine.of(None, 1e9, 1e8, learnt=learnt)
    assert machine.flops_per_s == learnt.flops_per_s
    assert "3 earlier jobs" in machine.rates[0]
    assert Machine.of(5e12, 1e9, 1e8, learnt=learnt).flops_per_s == 5e12
    assert learnt_rate(tmp_path / "missing") is None


@pytest.mark.parametrize(("environment", "others", "cost"), OTHERS)
def test_jobs_that_say_nothing_of_it(
    tmp_path: Path, environment: dict[str, Any], others: dict[str, Any], cost: dict[str, float]
) -> None:
    for number in range(9):
        note(tmp_path, number, environment, others, **cost)
    assert learnt_rate(tmp_path, on_gpu=environment is GPU and bool(cost)) is None


def test_a_study_on_a_busy_machine_does_not_spoil_the_plan_of_another(tmp_path: Path) -> None:
    """Ten seconds of it once made a year of half an hour; and its records are the latest."""
    for number in range(4):
        note(tmp_path, number, HERE)
    for number in range(99):
        note(tmp_path, number, HERE, study="tiny", flops=10**9 + number, wall_s=60.0, cpu_s=10.0)
    assert learnt_rate(tmp_path) == Learnt(pytest.approx(1e11 / PASSES.share), 4)
    # Jobs that waited for others, and some of small matrices, which are slower.
    for number in range(20):
        note(tmp_path, number, HERE, study="busy", wall_s=2000.0)
        work = {"flops": 10**12 + number, "cpu_s": 200.0}
        note(tmp_path, number, HERE, study="small", **work)
    learnt = learnt_rate(tmp_path)
    assert learnt is not None and learnt.flops_per_s == pytest.approx(1e11 / PASSES.share)


def test_gpus_are_told_apart(tmp_path: Path) -> None:
    for number in range(4):
        environment = GPU if number else {**GPU, "device_name": "NVIDIA A100"}
        note(tmp_path, number, environment, flops=2 * 10**15 + number)
    assert learnt_rate(tmp_path, on_gpu=True) == Learnt(pytest.approx(1e14 / PASSES.share), 4)
    found = learnt_rate(tmp_path, on_gpu=True, gpus=["NVIDIA H100 80GB HBM3"])
    assert found is not None and found.jobs == 3
    assert learnt_rate(tmp_path, on_gpu=True, gpus=["NVIDIA B200"]) is None


# --- How many jobs shared the windows: other GPUs or another rate must run no finished job again


def opened(monkeypatch: pytest.MonkeyPatch, folder: Path, file: str, adaptation: str) -> Any:
    """Return a study whose results are to be in a folder, and its first cell so adapted."""
    monkeypatch.chdir(ROOT)
    study = Study.load(Path(file))
    monkeypatch.chdir(folder)
    return study, next(cell for cell in study.cells if cell.adaptation == adaptation)


def record_of(study: Study, cell: Cell, jobs: int) -> None:
    record = sealed({"cost": {"reconstruct_window": {"jobs": jobs}}})
    write_at(study.paths.record(cell), 10, json.dumps(record))


def test_the_latest_complete_division_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, cell = opened(monkeypatch, tmp_path, "config.yaml", "recon_block")

    def finish(group: str, at: int) -> Path:
        return write_at(study.paths.windows(cell, group) / "manifest.json", at)

    assert finished_groups(study) is None
    # A record says it where the windows are not here, as after `dvc pull`.
    record_of(study, cell, 5)
    assert finished_groups(study) == 5
    write_at(study.paths.record(cell), 10, "damaged")
    assert finished_groups(study) is None
    finish("2-of-2", 10)
    finish("1-of-4", 90)
    assert finished_groups(study) is None, "none of these divisions is complete"
    finish("1-of-2", 20)
    assert finished_groups(study) == 2
    whole = finish("1-of-1", 30)
    assert finished_groups(study) == 1
    whole.unlink()
    assert finished_groups(study) == 2


def test_a_record_says_it_when_the_candidates_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`freelunch tidy` removes them."""
    study, cell = opened(monkeypatch, tmp_path, "studies/paper_tiny.yaml", "recon_block_rates")
    assert study.candidates(cell)
    record_of(study, cell, 3)
    assert finished_groups(study) == 3
    others = Part(models=[next(model for model in study.models if model != cell.model)])
    assert finished_groups(study.of_part(others)) == 3, "a part without this cell"
