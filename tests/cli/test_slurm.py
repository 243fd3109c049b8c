"""What is asked of Slurm, with stand-ins for its commands; tests/cluster has a real one."""

from math import inf
from pathlib import Path
from typing import Any

import pytest

from freelunch.cli.run import wait_for_earlier_jobs
from freelunch.cli.slurm import (
    Cluster,
    SlurmJob,
    cancel_waiting,
    check_answers,
    check_requests,
    endings,
    jobs_of_folder,
    slurm_jobs,
    watch,
)
from freelunch.core.errors import UserError
from freelunch.costs.job_requests import Limits
from refusals import refused

SINFO = """
main*|1:00:00|2000|3|idle
main*|1:00:00|4000|2|mix*
main*|1:00:00|4000|9|down*
long|3-00:00:00|9000|7|alloc
free|infinite|0|0|n/a
"""
ASKED = {"_cores": 2, "mem_mb": 900, "runtime": 10, "slurm_account": "mine", "gpu": 1}


@pytest.fixture(autouse=True)
def _no_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    stand_in(tmp_path, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")


def stand_in(tmp_path: Path, name: str, script: str) -> None:
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A cluster whose Slurm takes every job, whether it could start it or not."""
    stand_in(tmp_path, "sinfo", "".join(f"echo '{line}'\n" for line in SINFO.split()))
    stand_in(tmp_path, "sbatch", f'echo "$@" >> {tmp_path}/asked')
    return Cluster.here()


def job(**asked: Any) -> SlurmJob:
    return SlurmJob(("prune_model",), {"_cores": 1, "runtime": 10, "mem_mb": 900, "gpu": 0} | asked)


# --- How jobs are


@pytest.mark.parametrize(
    ("commands", "found"),
    [
        ({}, "`sbatch` is not here"),
        ({"sbatch": "", "scontrol": "exit 1"}, "`scontrol show config` fails"),
        # Snakemake would ask it again and again.
        ({"sbatch": "", "scontrol": ""}, "`sacct` fails"),
    ],
)
def test_a_slurm_that_cannot_say_how_jobs_are(
    tmp_path: Path, commands: dict[str, str], found: str
) -> None:
    for name, script in commands.items():
        stand_in(tmp_path, name, script)
    with refused(found=found):
        check_answers("sacct")
    if "sacct" in found:
        check_answers("squeue")
        stand_in(tmp_path, "sacct", "")
        check_answers("sacct")


# --- Partitions and requests


def test_partitions_are_read(cluster: Cluster, tmp_path: Path) -> None:
    assert cluster.default == "main"
    assert cluster.limits == {
        "main": Limits(4000, 60),
        "long": Limits(9000, 4320),
        "free": Limits(inf, inf),
    }
    counts = {name: cluster.count_nodes({"slurm_partition": name}) for name in ("main,long", "no")}
    assert counts == {"main,long": 12, "no": 0} and cluster.count_nodes({}) == 5
    stand_in(tmp_path, "sinfo", "exit 1")
    assert Cluster.here().count_nodes({}) == 0


def test_jobs_of_a_group_are_one_job() -> None:
    """They run one after another: times add up, and memory is that of the largest."""
    steps = [
        ("prune_model", {"_cores": 1, "mem_mb": 500, "runtime": 30}, None),
        ("retrain_model", {"_cores": 1, "mem_mb": 800, "runtime": 15, "gpu": 1}, "cell"),
        ("evaluate_cell", {"_cores": 2, "mem_mb": 600, "runtime": 20, "gpu": 1}, "cell"),
    ]
    alone, whole = slurm_jobs(
        SlurmJob((rule,), resources, group) for rule, resources, group in steps
    )
    assert alone.rules == ("prune_model",) and alone.resources["runtime"] == 30
    assert whole.rules == ("retrain_model", "evaluate_cell")
    assert whole.resources == {"_cores": 2, "mem_mb": 800, "runtime": 35, "gpu": 1}


@pytest.mark.parametrize(
    "asked",
    [
        {"runtime": 61},
        {"mem_mb": 4001},
        {"runtime": 4321, "slurm_partition": "main,long"},
        # Each would do, but not one has both.
        {"runtime": 61, "mem_mb": 9001, "slurm_partition": "main,long"},
    ],
)
def test_what_no_partition_has_is_refused_before_the_start(
    cluster: Cluster, tmp_path: Path, asked: dict[str, Any]
) -> None:
    """By default Slurm takes such a job, and leaves it in the queue for ever."""
    with refused(
        where="prune_model", expected="main: at most 4000 MB", todo="--set-resources prune_model:"
    ):
        check_requests([job(), job(**asked)], cluster)
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    "asked",
    [
        {"runtime": 60, "mem_mb": 4000},
        {"runtime": 4320, "mem_mb": 9000, "slurm_partition": "main,long"},
        {"runtime": 99999, "mem_mb": 99999, "slurm_partition": "free"},
        # Slurm does not list every partition to everybody.
        {"runtime": 99999, "mem_mb": 99999, "slurm_partition": "hidden"},
    ],
)
def test_what_a_partition_has_is_left_to_slurm(
    cluster: Cluster, tmp_path: Path, asked: dict[str, Any]
) -> None:
    """It is asked of the largest job of each kind."""
    check_requests([job(runtime=1), job(**asked), job(runtime=2)], cluster)
    (line,) = (tmp_path / "asked").read_text().splitlines()
    assert f"--time={asked['runtime']}" in line and f"--mem={asked['mem_mb']}" in line


def test_what_slurm_refuses(cluster: Cluster, tmp_path: Path) -> None:
    check_requests([SlurmJob(("evaluate_cell",), ASKED | {"gpu_model": "a100"})], cluster)
    options = "--cpus-per-task=2 --account=mine --mem=900 --time=10 --gpus=a100:1"
    assert (tmp_path / "asked").read_text() == f"--test-only --wrap=true {options}\n"
    stand_in(tmp_path, "sbatch", "echo 'sbatch: error: Invalid qos specification' >&2; exit 1")
    with refused(
        where="evaluate_cell",
        found="Invalid qos specification",
        expected="--account=mine --mem=900 --time=10 --gpus=1",
        todo="--set-resources evaluate_cell:",
    ):
        check_requests([SlurmJob(("evaluate_cell",), ASKED)], cluster)


def test_all_refusals_are_told_at_once(cluster: Cluster, tmp_path: Path) -> None:
    """What Slurm refuses of several kinds of jobs for one reason, once."""
    stand_in(tmp_path, "sbatch", "echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1")
    jobs = [job(), job(mem_mb=4001), *(SlurmJob((rule,), ASKED) for rule in ("one", "two"))]
    with pytest.raises(UserError) as error:
        check_requests(jobs, cluster)
    said = str(error.value)
    assert said.count("nothing was started") == 2 and "mem_mb=4001" in said
    assert said.count("--jobs N") == 1 and "accounts" not in said


def test_the_most_that_later_attempts_ask_for(cluster: Cluster) -> None:
    """Of the partitions that take the first attempt, the one with the longest time."""
    asked = {"runtime": 50, "mem_mb": 3000}
    assert cluster.most(asked) == Limits(4000, 60)
    assert cluster.most(asked | {"slurm_partition": "main,long"}) == Limits(9000, 4320)
    assert cluster.most(asked | {"slurm_partition": "free"}) == Limits()
    assert cluster.most(asked | {"runtime": 61}) == Limits()


# --- Jobs that ended


def ended(tmp_path: Path, state: str, said: str = "") -> str:
    """Return what is told of a job of two steps that ended in a state and left a log. An earlier
    attempt at it was late.
    """
    folder = tmp_path / "slurm logs" / "group_cell_evaluate_cell_retrain_model"
    folder.mkdir(parents=True)
    (folder / "8.log").write_text(said)
    run = tmp_path / "run.log"
    run.write_text(
        f"Job 3 has been submitted with SLURM jobid 7 (log: {folder / '7.log'}).\n"
        f"Job 3 has been submitted with SLURM jobid 8 (log: {folder / '8.log'}).\n"
    )
    stand_in(tmp_path, "squeue", f"echo '7|TIMEOUT|10:00|900M'; echo '8|{state}|20:00|900M'")
    return endings([run])


@pytest.mark.parametrize(
    ("state", "said", "why"),
    [
        ("TIMEOUT", "", "TIMEOUT"),
        ("FAILED", "Detected 1 oom_kill event in StepId=8.0", "OUT_OF_MEMORY"),
        ("NODE_FAIL", "", "NODE_FAIL"),
        # The error of a job that ended by itself is in its own log.
        ("COMPLETED", "", None),
        ("FAILED", "", None),
    ],
)
def test_an_early_end_says_why(tmp_path: Path, state: str, said: str, why: str | None) -> None:
    text = ended(tmp_path, state, said)
    assert text.startswith(f"Slurm ended job 8 as {why}; it had asked for 900M and 20:00\n") or (
        not why and not text
    )
    assert ("8.log" in text) == ("--set-resources" in text) == bool(why)
    if not said:
        # Accounting is asked first.
        stand_in(tmp_path, "sacct", "echo '8|CANCELLED by 0|20:00|900M'")
        assert endings([tmp_path / "run.log"]).startswith("Slurm ended job 8 as CANCELLED;")


# --- Jobs that outlived their run


def test_jobs_of_an_earlier_run_are_those_of_the_folder(tmp_path: Path) -> None:
    """Not the job in which Snakemake itself runs; while Slurm does not answer, nothing is known."""
    here, asked = tmp_path / "a | b", tmp_path / "asked"
    here.mkdir()
    (tmp_path / "link").symlink_to(here)
    lines = [
        f"1|None|rule_cell_evaluate_cell|{here}",
        f"2|None|make study|{here}",
        f"3|None|rule_cell_evaluate_cell|{tmp_path}",
        f"4_[1-2]|PartitionDown|rule_x|{tmp_path / 'link'}",
    ]
    listed = "".join(f"echo '{line}'\n" for line in lines)
    stand_in(tmp_path, "squeue", f"[ -e {asked} ] || {{ : > {asked}; exit 1; }}\n{listed}")
    pauses: list[float] = []
    found = jobs_of_folder(here, pauses.append)
    assert found == {"1": "None", "4_[1-2]": "PartitionDown"} and len(pauses) == 1


def test_jobs_of_an_earlier_run_are_waited_for() -> None:
    left, told = [["8", "9"], ["9"], ["7", "9"], []], list[str]()
    wait_for_earlier_jobs(lambda: left.pop(0), "scancel", told.append, lambda seconds: None)
    assert [text.rpartition("scancel ")[2] for text in told] == ["8 9", "7 9"]


# --- Jobs that wait


@pytest.mark.parametrize(
    ("reason", "todo"),
    [
        ("QOSMaxWallDurationPerJobLimit", "runtime=MINUTES"),
        ("PartitionTimeLimit", "runtime=MINUTES"),
        ("PartitionDown", "slurm_partition"),
        ("launch failed requeued held", "scontrol release"),
        ("JobHeldAdmin", "scontrol release"),
        # These end by themselves.
        ("Priority", None),
        ("Resources", None),
        ("BeginTime", None),
        ("QOSMaxJobsPerUserLimit", None),
    ],
)
def test_reasons_that_never_end_are_told_once(
    tmp_path: Path, reason: str, todo: str | None
) -> None:
    stand_in(
        tmp_path, "squeue", "".join(f"echo '{n}|{reason}|rule_x|{tmp_path}'\n" for n in (8, 9))
    )
    told, pauses = list[str](), iter([None, None])
    with pytest.raises(StopIteration):
        watch(told.append, tmp_path, lambda seconds: next(pauses))
    assert len(told) == (todo is not None)
    assert todo is None or ("8 9" in told[0] and todo in told[0])


def test_what_waits_is_cancelled(tmp_path: Path) -> None:
    stand_in(tmp_path, "scancel", f'echo "$@" > {tmp_path}/cancelled')
    ended(tmp_path, "PENDING")
    cancel_waiting([tmp_path / "missing.log"])
    assert not (tmp_path / "cancelled").exists()
    cancel_waiting([tmp_path / "run.log"])
    assert (tmp_path / "cancelled").read_text() == "--state=PENDING 8\n"
