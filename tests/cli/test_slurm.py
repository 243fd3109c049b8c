"""What a user is told of Slurm, with stand-ins for its commands; tests/cluster has a real one."""

from pathlib import Path

import pytest

from freelunch.cli.slurm import check_accepted, count_nodes, largest_requests, status_command
from freelunch.cli.slurm_ends import endings
from freelunch.core.errors import UserError

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


@pytest.mark.parametrize(
    ("said", "todo"),
    [
        ("Invalid account or account/partition combination specified", "slurm_account"),
        ("invalid partition specified: nope", "slurm_partition"),
        ("Invalid qos specification", "correct `qos`"),
        ("Requested time limit is invalid", "evaluate_cell:runtime=MINUTES"),
        ("Memory specification can not be satisfied", "evaluate_cell:mem_mb=MB"),
        ("Invalid generic resource (gres) specification", "device=cpu"),
        ("Requested node configuration is not available", "device=cpu"),
        ("Unable to contact slurm controller (connect failure)", "`sinfo`"),
        ("the site has a rule of its own", "ask for something else"),
    ],
)
def test_a_refusal_says_what_to_do(tmp_path: Path, said: str, todo: str) -> None:
    stand_in(tmp_path, "sbatch", f"echo 'sbatch: error: {said}' >&2; exit 1")
    with pytest.raises(UserError) as error:
        check_accepted("evaluate_cell", ASKED)
    lines = str(error.value).splitlines()
    assert lines[1] == f"  found:    {said}"
    assert todo in lines[3]


def test_what_slurm_takes(tmp_path: Path) -> None:
    stand_in(tmp_path, "sbatch", f'echo "$@" > {tmp_path}/asked')
    check_accepted("evaluate_cell", ASKED)
    assert (tmp_path / "asked").read_text().split() == [
        *("--test-only", "--wrap=true", "--cpus-per-task=2", "--account=mine"),
        *("--mem=900", "--time=10", "--gpus=1"),
    ]


def test_without_accounting_squeue_tells_how_jobs_are(tmp_path: Path) -> None:
    """`sacct` fails, and Snakemake would ask it again and again."""
    stand_in(tmp_path, "scontrol", "echo 'MinJobAge               = 300 sec'")
    assert status_command("sacct", 5) == status_command("squeue", 5) == "squeue"
    (tmp_path / "bin" / "sacct").unlink()
    assert status_command("squeue", 5) == "squeue"
    stand_in(tmp_path, "sacct", "")
    assert status_command("sacct", 5) == "sacct" and status_command("squeue", 5) == "squeue"


@pytest.mark.parametrize("said", ["MinJobAge = 100 sec", "MinJobAge = 300 sec", ""])
def test_a_slurm_that_forgets_ended_jobs_too_soon(tmp_path: Path, said: str) -> None:
    """Snakemake would wait for them for ever. It first asks after 110 seconds here."""
    stand_in(tmp_path, "scontrol", f"echo '{said}'")
    with pytest.raises(UserError, match="MinJobAge is at least 330 s"):
        status_command("squeue", 110)


def test_nodes_of_a_partition_are_counted(tmp_path: Path) -> None:
    """`sinfo` prints a line for each state of nodes."""
    lines = "main* 3\\nmain* 2\\nlong 7\\nmain2 1"
    stand_in(tmp_path, "sinfo", f"printf '{lines}\\n'")
    assert count_nodes(None) == count_nodes("main") == 5
    assert (count_nodes("long"), count_nodes("nope")) == (7, 0)
    stand_in(tmp_path, "sinfo", "exit 1")
    assert count_nodes(None) == 0


def test_a_machine_without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="on a login node"):
        check_accepted("evaluate_cell", ASKED)


def test_the_largest_requests() -> None:
    """Jobs of a group run one after another: times add up, and memory is that of the largest."""
    jobs = [
        ("prune_model", None, {"_cores": 1, "mem_mb": 500, "runtime": 30}),
        ("prune_model", None, {"_cores": 1, "mem_mb": 900, "runtime": 10}),
        ("retrain_model", "cell", {"_cores": 1, "mem_mb": 800, "runtime": 60, "gpu": 1}),
        ("evaluate_cell", "cell", {"_cores": 2, "mem_mb": 600, "runtime": 20, "gpu": 1}),
    ]
    found = largest_requests(jobs)
    assert found.keys() == {"prune_model", "retrain_model"}
    assert (found["prune_model"]["mem_mb"], found["prune_model"]["runtime"]) == (900, 30)
    whole = found["retrain_model"]
    assert (whole["_cores"], whole["mem_mb"], whole["runtime"], whole["gpu"]) == (2, 800, 80, 1)


def ended(tmp_path: Path, state: str, said: str = "") -> str:
    """Return what is told of a job of two steps that ended in a state and left a log."""
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
    ("state", "said", "why", "todo"),
    [
        ("TIMEOUT", "", "out of time; it had asked for 20:00", "retrain_model:runtime=MINUTES"),
        ("FAILED", "x CANCELLED DUE TO TIME LIMIT x", "out of time", "evaluate_cell:runtime="),
        ("OUT_OF_MEMORY", "", "killed for memory; it had asked for 900M", "retrain_model:mem_mb="),
        ("FAILED", "Detected 1 oom_kill event in StepId=8.0", "killed for memory", "mem_mb=MB"),
        ("FAILED", "slurmstepd: error: Exceeded job memory limit", "killed for memory", "mem_mb="),
        ("NODE_FAIL", "", "its node failed", "run the same command again"),
        ("CANCELLED", "", "cancelled", "run the same command again"),
        ("FAILED", "OSError: [Errno 122] Disk quota exceeded", "your quota is full", "make room"),
        ("FAILED", "", "ended as FAILED", "read its log"),
    ],
)
def test_an_early_end_says_why(tmp_path: Path, state: str, said: str, why: str, todo: str) -> None:
    """Of two attempts, the last one counts."""
    text = ended(tmp_path, state, said)
    assert text.startswith("Slurm job 8, group_cell_evaluate_cell_retrain_model: ")
    assert why in text and todo in text and "8.log" in text


def test_an_error_of_the_job_itself_is_repeated(tmp_path: Path) -> None:
    error = "[retrain_model a/b] error: file: damaged\n  found:    x\n  to do:    make room\n"
    text = ended(tmp_path, "FAILED", f"noise\n{error}noise\n")
    assert "stopped by an error" in text and error in text
    assert "noise" not in text


def test_what_ended_well_is_not_told_of(tmp_path: Path) -> None:
    assert ended(tmp_path, "COMPLETED") == ""


def test_accounting_is_asked_first(tmp_path: Path) -> None:
    stand_in(tmp_path, "sacct", "echo '8|CANCELLED by 0|20:00|900M'")
    assert "cancelled" in ended(tmp_path, "COMPLETED")


def test_a_cluster_may_lack_the_command_of_accounting(tmp_path: Path) -> None:
    (tmp_path / "bin" / "sacct").unlink()
    assert "its node failed" in ended(tmp_path, "NODE_FAIL")


def test_a_run_without_slurm(tmp_path: Path) -> None:
    (tmp_path / "run.log").write_text("Error in rule evaluate_cell:\n")
    assert endings([tmp_path / "run.log"]) == ""
