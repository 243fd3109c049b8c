"""Studies on a real Slurm: equal numbers, early ends, other requests, and what a user is told."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from hub_standin import serving
from real_slurm import Slurm
from slurm_folder import STUDY, OnSlurm
from study_folder import Folder, digests

RESULTS = Path("results/smoke")
CELL = "tiny/wanda-u50/{}/seed0"
RESUME = "Run the same command again to resume."
REQUESTS = "workflow/scripts/freelunch/costs/job_requests.py"
# For a module that imports `time`: what takes ten minutes when a study first comes to it.
WAIT_ONCE = "import os; os.path.exists('waited') or (open('waited', 'w').close(), time.sleep(600))"


def wait_for(condition: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"this took more than {seconds} s"
        time.sleep(0.2)


def submitted(output: str) -> list[str]:
    """Return Slurm's numbers of the jobs that a run submitted."""
    return re.findall(r"submitted with SLURM jobid (\d+)", output)


def queued(study: OnSlurm, *options: str) -> list[str]:
    """Return the numbers of the jobs that Slurm knows and that have not ended."""
    return study.slurm.run("squeue", "--noheader", "--format=%i", *options).split()


def running(study: OnSlurm) -> list[str]:
    return queued(study, "--states=running")


@contextlib.contextmanager
def silent(slurm: Slurm) -> Iterator[None]:
    """Have the command by which Snakemake asks how jobs are fail."""
    command = slurm.folder / "bin" / "squeue"
    aside = command.rename(command.with_suffix(".aside"))
    command.symlink_to("/bin/false")
    try:
        yield
    finally:
        aside.replace(command)


def interrupt(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C, and again if nothing came of it; return what the process said."""
    for _ in range(3):
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=40)[0]
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError(f"three interrupts did not end it:\n{process.communicate()[0]}")


def without_windows(study: OnSlurm, adaptation: str = "recon_block") -> str:
    """Remove one cell's adapted windows; return the target that makes them again."""
    folder = study.path / RESULTS / "windows" / CELL.format(adaptation) / "1-of-1"
    for path in folder.iterdir():
        path.unlink()
    return str((folder / "manifest.json").relative_to(study.path))


def made_in(study: Folder, target: str) -> dict[str, str]:
    """Return the digests of what the job of a target made."""
    return digests((study.path / target).parent)


def add_retraining(study: OnSlurm, epochs: int) -> str:
    """Add a retraining that saves its state at every step; return the target that makes it."""
    library = "workflow/scripts/freelunch/"
    study.edit(library + "study/steps.py", "SAVE_S = 300.0", "SAVE_S = 1e-6")
    path = study.path / STUDY
    config = yaml.safe_load(path.read_text())
    config["adaptations"]["full"] = {"method": "full", "epochs": epochs}
    grid = config["study"]["grids"][0]
    config["study"]["grids"].append({**grid, "criteria": ["wanda"], "adaptations": ["full"]})
    path.write_text(yaml.safe_dump(config))
    return str(RESULTS / "windows" / CELL.format("full") / "model" / "manifest.json")


# --- Equal to the local profile


def test_results_equal_those_of_the_local_profile(finished, local):
    """Also of a study that is not config.yaml, in a folder whose name has a space."""
    assert digests(finished.path / RESULTS) == digests(local.path / RESULTS)
    records = sorted((local.path / RESULTS / "records").glob("*.json"))
    assert len(records) == 5
    for record in records:
        one, other = (
            json.loads((folder.path / RESULTS / "records" / record.name).read_text())
            for folder in (finished, local)
        )
        for part in ("spec", "metrics", "identity", "pruning", "adaptation"):
            assert one[part] == other[part], f"{record.name}: {part}"
    # One job each for how sequences begin, the dense pass, each pruning and each cell.
    said = finished.said.read_text()
    assert len(submitted(said)) == 1 + 1 + 2 + 5
    assert "the scheduler gets 9 jobs" in said
    assert "device: cpu, as the profile says" in said
    assert len(re.findall(r"^localrule (?:fetch|sample|cut)_", said, re.M)) == 4
    assert "Nothing to be done" in finished.run_study()


@pytest.mark.long
def test_make_takes_the_profile(study):
    """As shipped; without accounting, as here, it would wait for ever for answers of `sacct`."""
    record = study.path / RESULTS / "records" / "tiny__wanda-u50__recon_block__seed0.json"
    record.unlink()
    output = study.run_study("--slurm-status-command=sacct", status=1)
    assert "Slurm has no accounting here" in output and not submitted(output)
    profile = "workflow/profiles/slurm/profile.yaml"
    study.edit(profile, "# slurm-status-command", "slurm-status-command")
    done = study.make("study", "PROFILE=slurm", f"STUDY={STUDY}")
    said = done.stdout + done.stderr
    assert len(submitted(said)) == 1, said
    assert "the scheduler gets 1 job." in said and record.is_file()


# --- Ended early


@pytest.mark.long
def test_a_preempted_retraining_ends_bit_equal(study, tmp_path):
    """A job of a partition with precedence takes the nodes; Slurm requeues ours."""
    target = add_retraining(study, epochs=150)
    whole = study.copy(tmp_path / "whole")
    whole.run_study("--", target)
    process = study.cold().start_study("--", target)
    state = (study.path / target).parent.with_name(".model.state")
    wait_for(state.exists)
    (number,) = running(study)
    script = "sbatch --parsable --partition=urgent --nodes=2 --exclusive --output=/dev/null"
    urgent = study.slurm.run(*script.split(), "--wrap=sleep 3")
    wait_for(lambda: urgent.strip() in running(study))
    assert not (study.path / target).exists(), "it was over before it was preempted"
    wait_for(lambda: urgent.strip() not in running(study))
    # Slurm waits two minutes before it starts a preempted job again.
    study.slurm.run("scontrol", "update", f"jobid={number}", "starttime=now")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert submitted(output) == [number], "the job was submitted again"
    logs = (study.path / RESULTS / "logs" / "retrain_model").rglob("*.log")
    assert any("resuming from step" in log.read_text() for log in logs)
    assert made_in(study, target) == made_in(whole, target)


@pytest.mark.long
def test_a_job_that_ran_out_of_time_gets_more(study):
    """The second attempt has two minutes, and goes on where the first stopped."""
    target = add_retraining(study, epochs=5)
    study.edit(REQUESTS, "LEAST_MINUTES = 3", "LEAST_MINUTES = 1")
    # The first attempt never goes on from its first state, however fast the machine is; the second
    # does not wait, however slow it is.
    driver = "workflow/scripts/freelunch/adaptation/retraining/training_run.py"
    study.edit(driver, "self.state.save(facts)", f"self.state.save(facts); {WAIT_ONCE}")
    # As on a fast machine; a slow or busy one would ask for more than a minute.
    output = study.cold().run("--config", f"study={STUDY}", "tflops=1", "--", target)
    assert len(submitted(output)) == 2, output
    assert "runtime=1" in output and "runtime=2" in output
    logs = (study.path / RESULTS / "logs" / "retrain_model").rglob("*.log")
    assert any("resuming from step" in log.read_text() for log in logs)


@pytest.mark.long
def test_a_job_killed_for_memory_says_what_to_raise_and_gets_more(study):
    target = without_windows(study)
    study.edit(REQUESTS, "AROUND_BYTES = 400_000_000", "AROUND_BYTES = -450_000_000")
    # With its evaluation and record, the whole hour that a job may take.
    study.edit(REQUESTS, "LEAST_MINUTES = 3", "LEAST_MINUTES = 20")
    study.verbose = False
    output = study.cold().run_study("--retries", "0", "--", target, status=1)
    assert "FAILED" in output and " as OUT_OF_MEMORY; it had asked for " in output, output
    study.verbose = True
    output = study.run_study("--", target)
    assert len(submitted(output)) > 1 and (study.path / target).exists()
    # More time than the first attempt's could not be had.
    assert set(re.findall(r"runtime=(\d+)", output)) == {"20"}


@pytest.mark.long
def test_a_study_outlives_an_outage_of_slurm(study, finished):
    """For a while, Slurm says nothing of jobs, and one ends; by the profile as shipped."""
    target = without_windows(study)
    study.options = (*study.options[:2], study.options[-1])
    process = study.cold().start_study("--", target)
    wait_for(lambda: running(study))
    with silent(study.slurm):
        wait_for((study.path / target).exists)
        # Longer than the pause between two questions.
        time.sleep(15)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert made_in(study, target) == made_in(finished, target)


@pytest.mark.long
def test_an_interrupted_master_cancels_its_jobs(study, finished):
    """As by Ctrl-C; the next run makes the rest."""
    target = without_windows(study)
    process = study.cold().start_study("--", target)
    wait_for(lambda: running(study))
    interrupt(process)
    wait_for(lambda: not running(study), 30)
    assert not (study.path / target).exists(), "the job was over before it was cancelled"
    study.warm().run_study("--", target)
    assert made_in(study, target) == made_in(finished, target)


@pytest.mark.long
def test_scancel_of_a_master_that_is_a_job_loses_nothing(study, finished):
    """Slurm kills it, and its jobs run to their end; the next run takes what they made.

    By `exec`, it takes the place of the batch script, which alone gets Slurm's SIGTERM, and says
    what to do.
    """
    target = without_windows(study)
    study.verbose = False
    command = " ".join(
        [f"'{option}'" for option in ("snakemake", *study.options, "--config", f"study={STUDY}")]
    )
    master = subprocess.run(
        ["sbatch", "--parsable", "--output=master.log", f"--wrap=exec {command} -- '{target}'"],
        cwd=study.path,
        env=study.cold().environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    wait_for(lambda: len(running(study)) == 2)
    study.slurm.run("scancel", master)
    wait_for(lambda: not running(study))
    assert RESUME in (study.path / "master.log").read_text()
    study.warm().run_study("--", target)
    assert made_in(study, target) == made_in(finished, target)


@pytest.mark.long
def test_jobs_that_outlive_their_killed_master_are_waited_for(study, finished):
    """One that still runs, and one that is in the queue; nothing is made twice."""
    target = without_windows(study)
    study.edit(STUDY, "method: reconstruction", "method: reconstruction\n    epochs: 40")
    process = study.cold().start_study("--", target)
    wait_for(lambda: running(study))
    process.kill()
    process.wait()
    output = study.warm().run_study("--", target)
    assert "lived on" in output and not queued(study), output
    logs = [*(study.path / RESULTS / "logs" / "reconstruct_window").rglob("*.log")]
    assert len(submitted(output)) == 1 and logs
    spent = json.loads((study.path / target).with_name("run.json").read_text())["cost"]
    assert spent["attempts"] == 1


# --- What Slurm refuses


@pytest.mark.parametrize(
    ("resource", "said"),
    [
        ("slurm_partition=nope", "invalid partition specified: nope"),
        ("device=cuda", "Requested node configuration"),
    ],
)
def test_a_request_that_slurm_refuses_stops_the_study_at_once(study, resource, said):
    target = without_windows(study)
    resources = dict.fromkeys(("device=cpu", resource))
    output = study.run_study("--default-resources", *resources, "--", target, status=1)
    assert output.count("Slurm refuses such a job; nothing was started") == 1
    assert re.search(f"found: .*{said}", output) and not submitted(output), output


@pytest.mark.parametrize("more", ["runtime=61", "mem_mb=4001"])
def test_a_request_beyond_the_limits_stops_the_study_at_once(study, more):
    """The partition ends jobs after 60 minutes, and its nodes have 4000 MB."""
    target = without_windows(study)
    arguments = ["--set-resources", f"reconstruct_window:{more}", "--", target]
    output = study.run_study(*arguments, status=1)
    assert "expected: main: at most 4000 MB, 60 minutes" in output and not submitted(output)


# --- Without a network


# What a job that reaches for the hub would do.
PROBE = """
import os
from pathlib import Path
from huggingface_hub import HfApi
try:
    HfApi().model_info("team/tiny")
    found = "reached"
except Exception as error:
    found = type(error).__name__
Path("probe.txt").write_text(found + " " + os.environ.get("FREELUNCH_SCHEDULED", ""))
"""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with the model of the smoke study."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
        yield hub


def test_a_job_on_a_node_cannot_reach_a_hub(study, hub):
    """Also one whose libraries try to; and it takes the GPU that the scheduler gives it."""
    hub.add("team/tiny", {"config.json": b"{}"})
    target = without_windows(study)
    script = study.path / "workflow" / "scripts" / "reconstruct_window.py"
    script.write_text(script.read_text() + PROBE)
    # Libraries read when they are imported whether they may reach for a hub.
    study.cold().run_study("--", target)
    assert (study.path / "probe.txt").read_text() == "OfflineModeIsEnabled 1"
    assert not hub.requests


def test_what_was_fetched_needs_no_network(local, hub, tmp_path):
    """After `make fetch`, a study whose model is on a hub runs where there is no network at all."""
    folder = type(local).new(tmp_path / "study")
    model = folder.path / "tests" / "fixtures" / "tiny-llama"
    commit = hub.add("team/tiny", {path.name: path.read_bytes() for path in model.iterdir()})
    source = f"source: hub\n    repository: team/tiny\n    revision: {commit}"
    path = "source: path\n    path: tests/fixtures/tiny-llama"
    folder.edit("config.yaml", path, source)
    shutil.rmtree(model)
    folder.run("--", "fetch")
    assert hub.requests and not (folder.path / "results" / "smoke" / "calibration").exists()
    folder.warm("unshare", "--net")
    names = "import socket; print(*(name for _, name in socket.if_nameindex()))"
    there = subprocess.run(["python", "-c", names], env=folder.environment, capture_output=True)
    assert there.stdout == b"lo\n"
    folder.run()
    assert digests(folder.path / RESULTS) == digests(local.path / RESULTS)
