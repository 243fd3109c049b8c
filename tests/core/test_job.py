"""What surrounds a job: its log, its errors, its run facts, and what importing the library sets."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from freelunch.core.code_digest import SCRIPTS
from freelunch.core.digest import unsealed
from freelunch.core.job import was_told_to_stop

# A job as a script of the workflow is one.
JOB = """
import logging, os, sys
from pathlib import Path
from types import SimpleNamespace
from snakemake_job import running

class Named(dict):
    __getattr__ = dict.get

log, run, raised = sys.argv[1:]
resources = Named(mem_mb=300, runtime=2)
snakemake = SimpleNamespace(
    log=[log], rule="test", wildcards=["m"], resources=resources, threads=1, output=Named(run=run)
)
libraries = bytearray(b"1") * 200_000_000
with running(snakemake) as job:
    work = bytearray(b"1") * 50_000_000
    del work
    for _ in range(3):
        job.say("working")
    logging.getLogger("elsewhere").info("a line")
    if raised != "0":
        raise OSError(int(raised), os.strerror(int(raised)), "results/x.safetensors")
print("done")
"""


def run_job(
    log: Path, run: Path, raised: int = 0, code: str = JOB
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, str(log), str(run), str(raised)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_job_leaves_a_log_and_run_facts(tmp_path: Path) -> None:
    peak = bytearray(b"1") * 500_000_000
    del peak
    done = run_job(tmp_path / "logs" / "job.log", tmp_path / "run.json")
    assert done.returncode == 0 and "done" in done.stdout
    assert (tmp_path / "logs" / "job.log").read_text().count("working") == 3
    facts = unsealed((tmp_path / "run.json").read_bytes())
    assert facts is not None and facts["rule"] == "logs"
    # The parent's peak is in neither number; what the process held before is not the work's.
    cost = facts["cost"]
    assert 250_000_000 < cost["peak_bytes"] < 400_000_000
    assert 49_000_000 < cost["peak_work_bytes"] < 70_000_000
    assert (cost["peak_requested_bytes"], cost["requested_s"]) == (300_000_000, 120)
    altered = json.dumps({**facts, "rule": "other"}).encode()
    assert unsealed(altered) is None


def test_what_a_job_did_for_others_or_imported_late_is_not_its_own(tmp_path: Path) -> None:
    code = JOB.replace(
        "    for _ in range(3):",
        "    import time\n"
        "    from freelunch.core.job_cost import Clock\n"
        "    time.sleep(1.0)  # an import\n"
        "    job.begin()\n"
        "    clock = Clock()\n"
        "    time.sleep(0.5)\n"
        "    job.lend(clock.lap())\n"
        "    time.sleep(0.2)\n"
        "    for _ in range(3):",
    )
    assert code != JOB
    done = run_job(tmp_path / "logs" / "job.log", tmp_path / "run.json", code=code)
    assert done.returncode == 0, done.stderr
    facts = unsealed((tmp_path / "run.json").read_bytes())
    assert facts is not None and 0.2 <= facts["cost"]["wall_s"] < 0.45


@pytest.mark.parametrize(("signal", "told"), [("SIGTERM", True), ("SIGKILL", False)])
def test_a_log_says_whether_its_job_was_told_to_stop(
    tmp_path: Path, signal: str, told: bool
) -> None:
    """As at the end of its time. A job that takes too much memory is killed without a word."""
    log = tmp_path / "logs" / "job.log"
    kill = f"    import signal\n    os.kill(os.getpid(), signal.{signal})\n    for _ in"
    done = run_job(log, tmp_path / "run.json", code=JOB.replace("    for _ in", kill))
    assert done.returncode and was_told_to_stop(log) is told
    assert not was_told_to_stop(tmp_path / "missing.log")


@pytest.mark.parametrize("place", ["/dev/full", "/proc/job.log", "/dev/null/job.log"])
def test_a_log_that_cannot_be_written_stops_no_job(tmp_path: Path, place: str) -> None:
    done = run_job(Path(place), tmp_path / "run.json")
    assert done.returncode == 0 and "done" in done.stdout
    # A log that can be opened but is full says nothing; the disk's error is the job's own.
    assert done.stderr.count("cannot be written") == (place != "/dev/full"), done.stderr
    assert "Logging error" not in done.stderr and "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stderr.count("[test m] working") == 3


@pytest.mark.parametrize(
    ("number", "run", "said"),
    [
        (errno.ENOSPC, "run.json", "results/x.safetensors: no space left on device\n"),
        (errno.EACCES, "run.json", "results/x.safetensors: permission denied\n"),
        (0, "/proc/run.json", ""),
    ],
)
def test_what_a_disk_refuses_anywhere_in_a_job(
    tmp_path: Path, number: int, run: str, said: str
) -> None:
    done = run_job(tmp_path / "job.log", tmp_path / run, number)
    assert done.returncode == 1 and not (tmp_path / run).exists()
    assert f"error: {said}" in done.stderr and "Traceback" not in done.stderr
    assert ("finished files are kept" in done.stderr) or not said
    assert "Traceback" in (tmp_path / "job.log").read_text()


@pytest.mark.parametrize(("chosen", "found"), [(None, "AUTO"), ("COMPATIBLE", "COMPATIBLE")])
def test_sums_are_reproducible_unless_the_user_chose_otherwise(
    chosen: str | None, found: str
) -> None:
    """MKL reads its mode once, when torch loads it, so the library's import sets it before."""
    environment = {key: value for key, value in os.environ.items() if key != "MKL_CBWR"}
    environment |= {"PYTHONPATH": str(SCRIPTS)} | ({"MKL_CBWR": chosen} if chosen else {})
    code = "import freelunch, os, sys; print(os.environ['MKL_CBWR'], 'torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, env=environment, text=True).split() == [found, "False"]
