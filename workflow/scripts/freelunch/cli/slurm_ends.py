"""Why Slurm did not take jobs of a study, or ended them, and what to do.

Snakemake does not pass on why a job of several steps could not be submitted or ended early.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from freelunch.cli.commands import output_of
from freelunch.cli.slurm import refused
from freelunch.costs.jobs import RULES
from snakemake_logger_plugin_freelunch.job_log import written

_SUBMITTED = re.compile(r"Job (\S+) has been submitted with SLURM jobid (\d+) \(log: (.+?)\)\.")
_SUBMITTED_ARRAY = re.compile(
    r"Submitted array job with Snakemake IDs ([\d,]+) and SLURM job ID (\d+)\. "
    r"The individual task IDs are (\d+)-\d+\."
)
# What a job says that stops by an error of its own.
_OWN_ERROR = re.compile(r"^\[.+?\] error: .+(?:\n  \S.+)*", re.M)
_FULL = re.compile(r"Disk quota exceeded|No space left on device")
# Lines of Slurm's own about a job that it ended, as in `slurmstepd: error: *** STEP 1.0 ...`.
_OOM = re.compile(r"oom_kill event|Out Of Memory|Exceeded job memory limit")
_LATE = re.compile(r"DUE TO TIME LIMIT")
# What the executor says of a job that sbatch did not take: what sbatch said, then its command.
_NOT_TAKEN = re.compile(r"^SLURM sbatch failed\. The error message was '(.*?)'\.\n", re.S)


class Ended(NamedTuple):
    """A job as Slurm knows it after its end.

    Attributes:
        number: Slurm's number of the job.
        state: Its state, in Slurm's words.
        time: The time that it had asked for, in Slurm's format.
        memory: The memory that it had asked for, in Slurm's format.
        log: The file with what it said.
    """

    number: str
    state: str
    time: str
    memory: str
    log: Path


def tell_errors(executor: Any, tell: Callable[[str, list[int]], None]) -> None:
    """Have what Slurm did to a job told as the error of this job: that it did not take it, or ended
    it before its time.

    Args:
        executor: Snakemake's executor for Slurm, from now on.
        tell: Is called with the error, and Snakemake's numbers of the jobs that were to run as one.
    """
    report = executor.report_job_error

    def report_job_error(job_info: Any, msg: str | None = None, **more: Any) -> None:
        try:
            job = job_info.job
            steps = list(job.jobs) if job.is_group() else [job]
            numbers = [step.jobid for step in steps]
            if found := _NOT_TAKEN.match(msg or ""):
                largest = max(steps, key=lambda step: step.resources.get("mem_mb", 0))
                problem = "Slurm refused this job when it was submitted"
                asked = dict(job.resources.items())
                msg = str(refused(problem, largest.rule.name, asked, found[1]))
                tell(msg, numbers)
            elif job_info.external_jobid:
                log = Path(written(str(job_info.aux["slurm_logfile"])))
                for ended in _known([(str(job_info.external_jobid), log)]):
                    said = _said(ended)
                    early = _early_end(ended, said)
                    # A job's own error says more.
                    if early and not _OWN_ERROR.search(said):
                        tell(early[0], numbers)
        finally:
            # Otherwise Snakemake would wait for the job for ever.
            report(job_info, msg=msg, **more)

    executor.report_job_error = report_job_error


def endings(logs: Iterable[Path], folder: Path) -> str:
    """Return why jobs of a run ended before their time, and what to do; empty if none did.

    Args:
        logs: Snakemake's logs of the run.
        folder: The folder of all of Slurm's logs.
    """
    said = "".join(log.read_text(encoding="utf-8") for log in logs)
    ended = [_ending(job, folder) for job in _known(_submitted(said, folder))]
    return "\n\n".join(filter(None, ended))


def _submitted(said: str, folder: Path) -> list[tuple[str, Path]]:
    """Return Slurm's number and log of the last attempt at each job that a run submitted."""
    found = [(match.start(), match[1], match[2], match[3]) for match in _SUBMITTED.finditer(said)]
    logs = {path.stem: path for path in folder.rglob("*.log")}
    for match in _SUBMITTED_ARRAY.finditer(said):
        for task, number in enumerate(match[1].split(","), int(match[3])):
            name = f"{match[2]}_{task}"
            log = logs.get(name, folder / f"{name}.log")
            found.append((match.start(), number, name, str(log)))
    last = {number: (name, Path(log)) for _, number, name, log in sorted(found)}
    return list(last.values())


def _known(jobs: Sequence[tuple[str, Path]]) -> list[Ended]:
    """Return what Slurm still knows of jobs: from its accounting, or else from its queue."""
    if not jobs:
        return []
    numbers = ",".join(number for number, _ in jobs)
    queries = (
        ("sacct", "-X", "-n", "-P", f"--jobs={numbers}", "--format=JobID,State,Timelimit,ReqMem"),
        ("squeue", "-h", "--states=all", f"--jobs={numbers}", "--format=%i|%T|%l|%m"),
    )
    logs = dict(jobs)
    for query in queries:
        # A cluster without accounting may lack `sacct`.
        rows = [line.split("|") for line in (output_of(*query) or "").splitlines()]
        if rows:
            # sacct says who cancelled a job: `CANCELLED by 0`.
            return [
                Ended(number, state.partition(" ")[0], time, memory, logs[number])
                for number, state, time, memory in rows
                if number in logs
            ]
    return []


def _said(job: Ended) -> str:
    return job.log.read_text(encoding="utf-8", errors="replace") if job.log.is_file() else ""


def _ending(job: Ended, folder: Path) -> str | None:
    # Snakemake keeps the path of logs as the profile gives it, which may lead through a link. A job
    # whose log is missing has no folder of its own.
    parent = job.log.parent.resolve()
    name = os.path.relpath(parent, folder.resolve()).removeprefix(".")
    steps = " ".join(rule for rule in RULES if rule in name)
    why, todo = _why(job, _said(job), steps)
    if why is None:
        return None
    lines = [f"Slurm job {', '.join(filter(None, [job.number, name]))}: {why}"]
    lines += [f"  log:      {job.log}"]
    return "\n".join([*lines, *([f"  to do:    {todo}"] if todo else [])])


def _why(job: Ended, said: str, steps: str) -> tuple[str | None, str | None]:
    """Return why a job did not end well, and what to do about it."""
    if early := _early_end(job, said, steps):
        return early
    if own := _OWN_ERROR.search(said):
        return f"stopped by an error\n{own[0]}", None
    if job.state == "FAILED":
        return "ended as FAILED", "read its log"
    return None, None


def _early_end(job: Ended, said: str, steps: str = "") -> tuple[str, str] | None:
    """Return what ended a job from outside, and what to do about it; None if nothing did."""
    option = "Snakemake option, or a line of the profile"
    again = "run the same command again; finished files are kept"
    if job.state == "OUT_OF_MEMORY" or _OOM.search(said):
        return (
            f"killed for memory; it had asked for {job.memory}",
            f"ask for more: {_raise(steps, 'mem_mb=MB')} ({option})",
        )
    if job.state == "TIMEOUT" or _LATE.search(said):
        return (
            f"out of time; it had asked for {job.time}",
            f"ask for more: {_raise(steps, 'runtime=MINUTES')} ({option}); finished files are kept",
        )
    if _FULL.search(said):
        return "the disk or your quota is full", "make room, and run the same command again"
    states = {
        **{"NODE_FAIL": "its node failed", "BOOT_FAIL": "its node did not start"},
        **{"CANCELLED": "cancelled", "PREEMPTED": "preempted", "DEADLINE": "its deadline passed"},
    }
    return (states[job.state], again) if job.state in states else None


def _raise(steps: str, value: str) -> str:
    return " ".join(f"`--set-resources {step}:{value}`" for step in steps.split()) or value
