"""What a user is told of Slurm, with stand-ins for its commands; tests/cluster has a real one."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from freelunch.cli.partitions import Partitions
from freelunch.cli.slurm import (
    check_accepted,
    check_requests,
    count_nodes,
    scheduled_jobs,
    status_command,
)
from freelunch.cli.slurm_ends import endings, tell_errors
from freelunch.core.errors import UserError
from freelunch.costs.job_requests import Limits

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
        ("Invalid feature specification", "correct `constraint`"),
        ("Requested time limit is invalid", "evaluate_cell:runtime=MINUTES"),
        ("Memory specification can not be satisfied", "evaluate_cell:mem_mb=MB"),
        ("Invalid generic resource (gres) specification", "device=cpu"),
        ("Requested node configuration is not available", "with GPUs, or say `device=cpu`"),
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
    stand_in(tmp_path, "sbatch", "")
    stand_in(tmp_path, "scontrol", "echo 'MinJobAge               = 300 sec'")
    assert status_command("sacct", 5) == status_command("squeue", 5) == "squeue"
    (tmp_path / "bin" / "sacct").unlink()
    assert status_command("squeue", 5) == "squeue"
    stand_in(tmp_path, "sacct", "")
    assert status_command("sacct", 5) == "sacct" and status_command("squeue", 5) == "squeue"


@pytest.mark.parametrize("said", ["MinJobAge = 100 sec", "MinJobAge = 300 sec", ""])
def test_a_slurm_that_forgets_ended_jobs_too_soon(tmp_path: Path, said: str) -> None:
    """Snakemake would wait for them for ever. It first asks after 110 seconds here."""
    stand_in(tmp_path, "sbatch", "")
    stand_in(tmp_path, "scontrol", f"echo '{said}'")
    with pytest.raises(UserError, match="MinJobAge is at least 330 s"):
        status_command("squeue", 110)


def test_nodes_of_a_partition_are_counted(tmp_path: Path) -> None:
    """`sinfo` prints a line for each state of nodes."""
    lines = "main* 3\\nmain* 2\\nlong 7\\nmain2 1"
    stand_in(tmp_path, "sinfo", f"printf '{lines}\\n'")
    assert count_nodes(None) == count_nodes("main") == 5
    assert (count_nodes("long"), count_nodes("main,long"), count_nodes("nope")) == (7, 12, 0)
    stand_in(tmp_path, "sinfo", "exit 1")
    assert count_nodes(None) == 0


def test_a_machine_without_slurm(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="on a login node"):
        status_command("sacct", 5)


def test_a_slurm_that_does_not_answer(tmp_path: Path) -> None:
    stand_in(tmp_path, "sbatch", "")
    stand_in(tmp_path, "scontrol", "exit 1")
    with pytest.raises(UserError, match="Slurm does not answer"):
        status_command("sacct", 5)


def test_jobs_of_a_group_are_one_job() -> None:
    """They run one after another: times add up, and memory is that of the largest."""
    jobs = [
        ("prune_model", None, {"_cores": 1, "mem_mb": 500, "runtime": 30}),
        ("retrain_model", "cell", {"_cores": 1, "mem_mb": 800, "runtime": 15, "gpu": 1}),
        ("evaluate_cell", "cell", {"_cores": 2, "mem_mb": 600, "runtime": 20, "gpu": 1}),
        ("collect_records", "cell", {"_cores": 1, "mem_mb": 700, "runtime": 10}),
    ]
    alone, whole = scheduled_jobs(jobs)
    assert (alone["rule"], alone["runtime"], alone["mem_mb"]) == ("prune_model", 30, 500)
    assert (whole["rule"], whole["slowest"]) == ("retrain_model", "evaluate_cell")
    assert (whole["_cores"], whole["mem_mb"], whole["runtime"], whole["gpu"]) == (2, 800, 45, 1)


# --- Limits of partitions


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A cluster that takes every job, whether it could start it or not."""
    partition = "PartitionName={} AllowAccounts=ALL Default={} MaxTime={} MaxMemPerNode={}"
    rows = [
        partition.format("main", "YES", "01:00:00", "UNLIMITED"),
        partition.format("long", "NO", "3-00:00:00", "9000"),
        partition.format("free", "NO", "UNLIMITED", "UNLIMITED"),
    ]
    stand_in(tmp_path, "scontrol", "".join(f"echo '{row}'\n" for row in rows))
    # `main` has nodes of two sizes, and `free` has none yet.
    stand_in(tmp_path, "sinfo", "printf 'main 2000\\nmain 4000\\nlong 16000\\nfree 0\\n'")
    stand_in(tmp_path, "sbatch", f'echo "$@" >> {tmp_path}/asked')
    # The executor looks for Slurm when it is imported.
    stand_in(tmp_path, "which", "")
    return tmp_path


def asks(runtime: int, mem_mb: int, **more: object) -> list[tuple[str, None, dict[str, object]]]:
    return [("prune_model", None, {"_cores": 1, "runtime": runtime, "mem_mb": mem_mb, **more})]


@pytest.mark.parametrize(
    ("asked", "todo"),
    [
        (asks(61, 900), "prune_model:runtime=MINUTES"),
        (asks(60, 4001), "prune_model:mem_mb=MB"),
        (asks(4321, 900, slurm_partition="main,long"), "prune_model:runtime=MINUTES"),
        (asks(60, 9001, slurm_partition="long"), "prune_model:mem_mb=MB"),
        # Each would do, but not one has both: no option helps.
        (asks(61, 9001, slurm_partition="main,long"), "prune_model:mem_mb=MB"),
    ],
)
def test_what_no_partition_has_is_refused_before_the_start(
    cluster: Path, asked: list[tuple[str, None, dict[str, object]]], todo: str
) -> None:
    """By default Slurm takes such a job, and leaves it in the queue for ever."""
    with pytest.raises(UserError, match="never start such a job") as error:
        check_requests(asked, Partitions.of_cluster())
    lines = str(error.value).splitlines()
    assert todo in lines[3] and "runtime: " in lines[2]
    # Only what runs out of time can go on in another job.
    assert ("`--retries N`" in lines[3]) == ("runtime=MINUTES" in todo)
    assert not (cluster / "asked").exists()


@pytest.mark.parametrize(
    "asked",
    [
        asks(60, 4000),
        asks(4320, 9000, slurm_partition="main,long"),
        asks(99999, 99999, slurm_partition="free"),
        # Slurm does not list every partition to everybody.
        asks(99999, 99999, slurm_partition="hidden"),
    ],
)
def test_what_a_partition_has_is_left_to_slurm(
    cluster: Path, asked: list[tuple[str, None, dict[str, object]]]
) -> None:
    check_requests(asked, Partitions.of_cluster())
    name = asked[0][2].get("slurm_partition", "main")
    assert f"--partition={name} " in (cluster / "asked").read_text()


def test_the_most_that_later_attempts_ask_for(cluster: Path) -> None:
    """Of the partitions that take the first attempt, the one with the longest time."""
    found = Partitions.of_cluster()
    asked = {"runtime": 50, "mem_mb": 3000}
    assert found.most(asked) == Limits(4000, 60)
    assert found.most(asked | {"slurm_partition": "main,long"}) == Limits(9000, 4320)
    assert found.most(asked | {"slurm_partition": "free"}) == Limits()
    assert found.most(asked | {"runtime": 61}) == Limits()


FILE = """
partitions:
  main: {max_runtime: 30, max_mem_mb: 4000}
  long: {max_runtime: 9000, max_mem_mb: 16000}
"""


def test_a_job_goes_where_the_file_of_partitions_sends_it(cluster: Path) -> None:
    """The executor takes the file's word for it; Slurm's own limits count."""
    (cluster / "file.yaml").write_text(FILE)
    found = Partitions.of_cluster(cluster / "file.yaml")
    check_requests(asks(20, 3000) + asks(31, 3000), found)
    assert [line.split()[3] for line in (cluster / "asked").read_text().splitlines()] == [
        "--partition=main",
        "--partition=long",
    ]
    for asked in (asks(4321, 900), asks(9001, 900), asks(20, 9001)):
        with pytest.raises(UserError, match="never start such a job") as error:
            check_requests(asked, found)
        assert "long (runtime: 4320, mem_mb: 9000)" in str(error.value)
    assert found.most({"runtime": 20, "mem_mb": 3000}) == Limits(9000, 4320)
    # What a job names counts for more than the file.
    check_requests(asks(99, 900, slurm_partition="free"), found)
    with pytest.raises(UserError, match="never start such a job"):
        check_requests(
            asks(31, 900, slurm_partition="main") + asks(61, 9, slurm_partition="main"), found
        )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("partitions:\n  mian: {max_runtime: 30}\n", "found:    mian\n  expected: main .nearest."),
        ("partitions: 3\n", "not a valid file of partitions"),
        ("partitions:\n  main: {max_time: 30}\n", "unexpected keyword argument 'max_time'"),
    ],
)
def test_a_wrong_file_of_partitions(cluster: Path, content: str, said: str) -> None:
    (cluster / "file.yaml").write_text(content)
    with pytest.raises(UserError, match=said):
        Partitions.of_cluster(cluster / "file.yaml")


# --- Jobs that ended


def test_a_job_that_is_refused_when_it_is_submitted_says_why() -> None:
    """Also of a group, of which Snakemake says nothing."""
    steps = [
        SimpleNamespace(jobid=at, rule=SimpleNamespace(name=rule), resources={"mem_mb": memory})
        for at, (rule, memory) in enumerate([("retrain_model", 900), ("evaluate_cell", 800)])
    ]
    asked = {"_cores": 1, "mem_mb": 900, "runtime": 40, "slurm_partition": "main"}
    group = SimpleNamespace(is_group=lambda: True, jobs=steps, resources=asked)
    passed_on: list[str | None] = []
    executor = SimpleNamespace(report_job_error=lambda info, msg=None: passed_on.append(msg))
    told: list[tuple[str, list[int]]] = []
    tell_errors(executor, lambda error, jobs: told.append((error, jobs)))
    said = "sbatch: error: Batch job submission failed: Requested time limit is invalid"
    msg = f"SLURM sbatch failed. The error message was '{said}'.\n    sbatch call:\n    x --wrap=y"
    info = SimpleNamespace(job=group, external_jobid=None)
    executor.report_job_error(info, msg=msg)
    executor.report_job_error(info, msg="its node failed")
    ((error, jobs),) = told
    assert jobs == [0, 1] and passed_on == [error, "its node failed"]
    assert error.splitlines() == [
        "retrain_model: Slurm refused this job when it was submitted",
        "  found:    Batch job submission failed: Requested time limit is invalid",
        "  expected: a request that it takes: --cpus-per-task=1 --partition=main --mem=900 "
        "--time=40",
        "  to do:    choose a partition with a longer limit, or ask for less time: "
        "`--set-resources retrain_model:runtime=MINUTES`",
    ]


@pytest.mark.parametrize(
    ("state", "said", "told"),
    [
        ("FAILED", "slurmstepd: error: Exceeded job memory limit", ["killed for memory"]),
        ("TIMEOUT", "", ["out of time"]),
        ("FAILED", "", []),
        ("FAILED", "[prune_model a] error: No space left on device", []),
    ],
)
def test_a_job_that_slurm_ended_says_why_at_once(
    tmp_path: Path, state: str, said: str, told: list[str]
) -> None:
    """Its own error, if it has one, says more."""
    log = tmp_path / "7.log"
    log.write_text(said)
    stand_in(tmp_path, "squeue", f"echo '7|{state}|10:00|900M'")
    job = SimpleNamespace(jobid=3, is_group=lambda: False)
    executor = SimpleNamespace(report_job_error=lambda info, msg=None, aux_logs=(): None)
    found: list[tuple[str, list[int]]] = []
    tell_errors(executor, lambda error, jobs: found.append((error, jobs)))
    info = SimpleNamespace(job=job, external_jobid="7", aux={"slurm_logfile": str(log)})
    executor.report_job_error(info, msg="SLURM-job '7' failed", aux_logs=[str(log)])
    assert [(error.partition(";")[0], jobs) for error, jobs in found] == [
        (why, [3]) for why in told
    ]


def ended(tmp_path: Path, state: str, said: str = "") -> str:
    """Return what is told of a job of two steps that ended in a state and left a log."""
    folder = tmp_path / "slurm logs" / "group_cell_evaluate_cell_retrain_model"
    folder.mkdir(parents=True)
    (folder / "8.log").write_text(said)
    run = tmp_path / "run.log"
    # As Snakemake tells them: by the path that the profile gives, which here leads through a link.
    (tmp_path / "link").symlink_to(folder.parent)
    told = tmp_path / "link" / folder.name
    run.write_text(
        f"Job 3 has been submitted with SLURM jobid 7 (log: {told / '7.log'}).\n"
        f"Job 3 has been submitted with SLURM jobid 8 (log: {told / '8.log'}).\n"
    )
    stand_in(tmp_path, "squeue", f"echo '7|TIMEOUT|10:00|900M'; echo '8|{state}|20:00|900M'")
    return endings([run], tmp_path / "slurm logs")


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


def test_a_task_of_an_array_says_why_it_ended(tmp_path: Path) -> None:
    """Its log is in the folder of its rule. Of two attempts, the last one counts here, too."""
    logs, run = tmp_path / "logs", tmp_path / "run.log"
    log = logs / "rule_reconstruct_window" / "7_2.log"
    log.parent.mkdir(parents=True)
    log.write_text("slurmstepd: error: Detected 1 oom_kill event in StepId=7_2.0")
    run.write_text(
        "Submitted array job with Snakemake IDs 12,3,4 and SLURM job ID 7. The "
        "individual task IDs are 1-3.\n"
        f"Job 12 has been submitted with SLURM jobid 8 (log: {log.parent}/x/8.log)."
    )
    rows = ("8|COMPLETED", "7_2|FAILED", "7_3|TIMEOUT")
    stand_in(
        tmp_path,
        "squeue",
        f'echo "$@" > {tmp_path}/asked; ' + "; ".join(f"echo '{row}|10:00|900M'" for row in rows),
    )
    text = endings([run], logs)
    assert "--jobs=8,7_2,7_3" in (tmp_path / "asked").read_text()
    killed, late = text.split("\n\n")
    assert killed.splitlines() == [
        "Slurm job 7_2, rule_reconstruct_window: killed for memory; it had asked for 900M",
        f"  log:      {log}",
        "  to do:    ask for more: `--set-resources reconstruct_window:mem_mb=MB` (Snakemake "
        "option, or a line of the profile)",
    ]
    # Slurm wrote no log of this one.
    assert late.startswith("Slurm job 7_3: out of time; it had asked for 10:00\n")


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
    assert endings([tmp_path / "run.log"], tmp_path) == ""
