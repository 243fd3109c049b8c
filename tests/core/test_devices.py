"""GPUs of a machine, made up: which are visible, what a profile chooses, which one a job takes."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from freelunch.core import devices
from freelunch.core.code_digest import SCRIPTS
from freelunch.core.devices import (
    check_device_memory,
    chosen_devices,
    claim_device,
    device_text,
    memory_bytes,
    visible_devices,
)
from made_up_gpus import make_up_gpus
from refusals import refused

# A process that takes a GPU and keeps it until its input ends.
TAKES = """
import os, sys
from freelunch.core.devices import claim_device
claim_device()
print(claim_device().number, os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three GPUs."""
    folder = make_up_gpus(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for name in (devices.VISIBLE, devices.SCHEDULED):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (None, "0 1 2"),
        ("", ""),
        ("-1", ""),
        ("1", "1"),
        ("2,0", "2 0"),
        ("GPU-11,GPU-000", "1 0"),
        # As CUDA does: what follows a wrong name is not visible.
        ("0,7,1", "0"),
    ],
)
def test_visible_devices(
    gpus: None, monkeypatch: pytest.MonkeyPatch, named: str | None, expected: str
) -> None:
    if named is not None:
        monkeypatch.setenv(devices.VISIBLE, named)
    assert " ".join(device.number for device in visible_devices()) == expected


def test_a_machine_without_a_gpu_of_its_own(
    gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_up_gpus(tmp_path / "bin", ("0, GPU-000, NVIDIA GB10, [N/A]",))
    (device,) = visible_devices()
    assert device.memory_bytes > 2**28, "it shares the machine's"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_devices() == [] and claim_device() is None
    # A driver that does not answer is no GPU, and the plan says why.
    script = make_up_gpus(tmp_path) / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 'No devices were found' >&2; exit 6\n")
    assert visible_devices() == []
    assert "No devices were found" in device_text([])


def test_a_part_of_a_gpu_is_not_taken_for_none(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.VISIBLE, "MIG-00000000-0000-0000-0000-000000000000")
    assert "MIG" in device_text(visible_devices())


@pytest.mark.parametrize(
    ("said", "limits"),
    [
        # Slurm's own group has a limit, and so has the group that it is in.
        ("0::/slurm/job_3/step_0\n", {"slurm/job_3/memory.max": "3000"}),
        ("0::/slurm/job_3\n", {"slurm/memory.max": "3000", "slurm/job_3/memory.max": "max"}),
        # The first version; other trees come before.
        (
            "9:cpu,cpuacct:/\n8:memory:/slurm/job_3\n0::/\n",
            {"memory/slurm/job_3/memory.limit_in_bytes": "3000"},
        ),
        # A container, which sees its own group alone.
        ("0::/docker/abc\n", {"memory.max": "3000"}),
    ],
)
def test_the_memory_that_a_control_group_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, limits: dict[str, str]
) -> None:
    (tmp_path / "cgroup").write_text(said)
    monkeypatch.setattr(devices, "_OF_PROCESS", tmp_path / "cgroup")
    monkeypatch.setattr(devices, "_GROUPS", tmp_path / "groups")
    assert memory_bytes() > 3000
    for name, limit in limits.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{limit}\n")
    assert memory_bytes() == 3000


def test_the_profile_chooses(gpus: None) -> None:
    found = chosen_devices(None)
    assert [device.memory_bytes for device in found] == [81559 * 2**20] * 3
    assert chosen_devices("cuda") == found and chosen_devices("cpu") == []
    with refused(where="device", found="gpu", expected="cpu or cuda"):
        chosen_devices("gpu")
    assert device_text(found) == "NVIDIA H100 80GB HBM3 (3)"
    assert device_text([]) == "cpu, no GPU found"
    assert device_text([], "cpu") == "cpu, as the profile says"
    assert device_text([], "cuda") == "a GPU for each job, from the scheduler"


def test_the_memory_of_a_gpu_is_given_only_if_one_computes(gpus: None) -> None:
    for found, asked in ((visible_devices(), None), ([], "cuda")):
        check_device_memory(found, asked, 80)
    for asked in (None, "cpu"):
        check_device_memory([], asked, None)
        with refused(where="device_memory"):
            check_device_memory([], asked, 80)


@contextmanager
def started(count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Start jobs that take a GPU each; more may be added to the list."""
    jobs = [start() for _ in range(count)]
    try:
        yield jobs
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


def start() -> subprocess.Popen[str]:
    """Start a job with a folder for temporary files of its own, as a scheduler does."""
    return subprocess.Popen(
        [sys.executable, "-c", TAKES],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS), "TMPDIR": tempfile.mkdtemp()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def taken(job: subprocess.Popen[str]) -> str:
    assert job.stdout is not None
    return job.stdout.readline().strip()


def test_jobs_side_by_side_take_a_gpu_each(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within CUDA_VISIBLE_DEVICES; when one is killed, the job that waits takes its GPU."""
    monkeypatch.setenv(devices.VISIBLE, "2,1")
    with started(2) as jobs:
        by_gpu = {taken(job): job for job in jobs}
        assert sorted(by_gpu) == ["1 GPU-111", "2 GPU-222"]
        jobs.append(start())
        with pytest.raises(subprocess.TimeoutExpired):
            jobs[-1].wait(2)
        by_gpu["2 GPU-222"].kill()
        assert taken(jobs[-1]) == "2 GPU-222"
