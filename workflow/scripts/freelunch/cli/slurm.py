"""What Slurm has, and what it would refuse or never start.

Snakemake's executor submits and watches the jobs. This module asks Slurm's own commands.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Self

from freelunch.core.errors import UserError
from freelunch.costs.job_requests import Limits
from snakemake_logger_plugin_freelunch.story import INTERRUPTED

# Options of sbatch by the resource that sets them, if it is set.
_OPTIONS = {
    "slurm_account": "account",
    "slurm_partition": "partition",
    "qos": "qos",
    "constraint": "constraint",
    "mem_mb": "mem",
    "runtime": "time",
}
# Seconds until a Slurm that did not answer is asked again, and between two looks at what waits.
_ASK_AGAIN_S, _WATCH_S = 10.0, 60.0
# Parts of the reasons for which Slurm never starts a job as things are, and what to do.
_HELD = re.compile("[Hh]eld")
_NEVER = re.compile(
    f"{_HELD.pattern}|PartitionDown|PartitionInactive|TimeLimit|WallDuration|PerJob|NodeLimit"
    "|BadConstraints|NotAllowed|Invalid"
)
_RELEASE = "see why (`scontrol show job`), then `scontrol release` them"
_CHOOSE = (
    "interrupt this run; then ask for less, such as `--set-resources RULE:runtime=MINUTES`, or "
    "name another `qos` or `slurm_partition` in the profile"
)
# How sbatch refuses a job because too many of the user's are there already.
_TOO_MANY = re.compile("MaxSubmitJob|job submit limit")
_FEWER = "give Slurm fewer jobs at a time: `--jobs N`, or `jobs` in the profile"
_TIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)$")
_WORKING = {"idle", "mix", "alloc"}
_SUBMITTED = re.compile(r"Job (\S+) has been submitted with SLURM jobid (\d+) \(log: (.+?)\)\.")
# What Slurm says of a job: its number, its state, the time and the memory that it had asked for.
_ENDED = (
    ("sacct", "-X", "-n", "-P", "--format=JobID,State,Timelimit,ReqMem"),
    ("squeue", "-h", "--states=all", "--format=%i|%T|%l|%m"),
)
_EARLY = {
    *("OUT_OF_MEMORY", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "CANCELLED", "PREEMPTED", "DEADLINE"),
}
# What Slurm writes into the log of a job that it may then say has failed.
_OUT_OF_MEMORY = re.compile("oom_kill event|Exceeded job memory limit")
_MORE = """  to do:    run the same command again; finished files are kept. After OUT_OF_MEMORY or
            TIMEOUT, ask for more: `--set-resources RULE:mem_mb=MB` or `RULE:runtime=MINUTES`"""


def output_of(*command: str) -> str | None:
    """Return what a command writes; None if it fails, is not here, or takes more than a minute."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


@dataclass(frozen=True)
class SlurmJob:
    """What Slurm gets as one job: one job of Snakemake, or those of a group one after another."""

    rules: tuple[str, ...]
    resources: Mapping[str, Any]
    group: str | None = None


def slurm_jobs(steps: Iterable[SlurmJob]) -> list[SlurmJob]:
    """Return the jobs that Slurm gets, one for each group: it asks for the sum of their times, and
    for the most of everything else.
    """
    groups: dict[object, list[SlurmJob]] = {}
    for number, step in enumerate(steps):
        groups.setdefault(step.group or number, []).append(step)
    jobs = []
    for group in groups.values():
        asked: dict[str, Any] = {}
        for step in group:
            asked |= step.resources
        for key in ("_cores", "gpu", "mem_mb"):
            asked[key] = max(step.resources.get(key) or 0 for step in group)
        asked["runtime"] = sum(step.resources.get("runtime") or 0 for step in group)
        jobs.append(SlurmJob(tuple(rule for step in group for rule in step.rules), asked))
    return jobs


@dataclass(frozen=True)
class Cluster:
    """A cluster's partitions: the most that a job may ask for in each, how many of its nodes work,
    and the partition of jobs that name none.
    """

    limits: Mapping[str, Limits]
    nodes: Mapping[str, int]
    default: str | None

    @classmethod
    def here(cls) -> Self:
        """Ask Slurm; without it, there are no partitions."""
        limits: dict[str, Limits] = {}
        nodes: dict[str, int] = {}
        default = None
        # One line for each partition, size of nodes and state of nodes.
        listed = output_of("sinfo", "--all", "--exact", "--noheader", "--format=%P|%l|%m|%D|%t")
        for line in (listed or "").splitlines():
            name, time, memory, count, state = line.split("|")
            default = name[:-1] if name.endswith("*") else default
            name = name.rstrip("*")
            before = limits.get(name, Limits(0.0, 0.0))
            # A partition without nodes shows 0 MB.
            limits[name] = Limits(max(before.mem_mb, float(memory) or inf), minutes_in(time))
            works = state.rstrip("*~#!%$@^-+") in _WORKING
            nodes[name] = nodes.get(name, 0) + int(count) * works
        return cls(limits, nodes, default)

    def limits_for(self, resources: Mapping[str, Any]) -> dict[str, Limits]:
        """Return the partitions among which Slurm chooses for a job, with their limits."""
        names = str(resources.get("slurm_partition") or self.default or "").split(",")
        # Slurm does not list every partition to everybody.
        return {name: self.limits.get(name, Limits()) for name in names if name}

    def most(self, resources: Mapping[str, Any]) -> Limits:
        """Return the most that later attempts at a job may ask for: the limits of the partition
        with the longest time among those that take its first attempt.
        """
        taking = [each for each in self.limits_for(resources).values() if each.take(resources)]
        return max(taking, key=lambda limits: (limits.runtime, limits.mem_mb), default=Limits())

    def count_nodes(self, resources: Mapping[str, Any]) -> int:
        """Return how many nodes work in the partitions of a job."""
        return sum(self.nodes.get(name, 0) for name in self.limits_for(resources))


def minutes_in(time: str) -> float:
    """Return the minutes of a time as Slurm writes it, such as `1-12:00:00` or `infinite`."""
    if (match := _TIME.match(time)) is None:
        return inf
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60


def check_answers(status_command: str) -> None:
    """Refuse, by UserError, a Slurm that does not answer, or not by the command with which
    Snakemake asks how jobs are: it would wait for ever.
    """
    if shutil.which("sbatch") is None or output_of("scontrol", "show", "config") is None:
        found = "`sbatch` is not here, or `scontrol show config` fails"
        todo = "start the study on a login node, where `sinfo` answers, or by the local profile"
        raise UserError("Slurm does not answer", found=found, todo=todo)
    asked = ("sacct", "-X", "--noheader", "--format=JobID", "--starttime=now")
    if status_command == asked[0] and output_of(*asked) is None:
        raise UserError(
            "Slurm has no accounting here, so that Snakemake would never learn how jobs are",
            where="slurm-status-command",
            found="`sacct` fails",
            expected="squeue",
            todo="add `slurm-status-command: squeue` to the profile; Slurm must know of an ended "
            "job for at least 210 s (MinJobAge in slurm.conf)",
        )


def jobs_of_folder(folder: Path, pause: Callable[[float], object] = time.sleep) -> dict[str, str]:
    """Return the jobs that Snakemake submitted in a folder and that have not ended: by number, why
    each waits. This pauses for as long as Slurm does not answer.
    """
    while (listed := output_of("squeue", "--me", "--noheader", "--format=%i|%r|%k|%Z")) is None:
        pause(_ASK_AGAIN_S)
    jobs = [line.split("|", 3) for line in listed.splitlines()]
    return {
        number: reason
        for number, reason, comment, place in jobs
        if comment.startswith("rule_") and Path(place).resolve() == folder.resolve()
    }


def check_requests(jobs: Iterable[SlurmJob], cluster: Cluster) -> None:
    """Refuse, by UserError, jobs that Slurm would refuse, or that ask for what no partition has:
    with its default settings, Slurm would take them and never start them. Nothing is submitted.
    """
    largest: dict[tuple[str, ...], SlurmJob] = {}
    refusals: dict[object, UserError] = {}
    for job in jobs:
        limits = cluster.limits_for(job.resources)
        if limits and not any(each.take(job.resources) for each in limits.values()):
            refusals[job.rules] = UserError(
                "Slurm would never start such a job; nothing was started",
                where=" ".join(job.rules),
                found=", ".join(f"{key}={job.resources.get(key) or 0}" for key in Limits._fields),
                expected="; ".join(
                    f"{name}: at most {each.mem_mb:.0f} MB, {each.runtime:.0f} minutes"
                    for name, each in limits.items()
                ),
                todo="choose another `slurm_partition` in the profile, or ask for less: "
                f"{_set_resources(job.rules)}; with `--retries N`, what runs out of time goes on",
            )
        largest[job.rules] = max(largest.get(job.rules, job), job, key=_size)
    for job in largest.values():
        if job.rules not in refusals and (refusal := _refusal(job)):
            refusals.setdefault(refusal.found, refusal)
    if refusals:
        first, *others = refusals.values()
        raise UserError("\n".join(map(str, [first, *others]))) if others else first


def _size(job: SlurmJob) -> tuple[int, int]:
    return job.resources["mem_mb"], job.resources["runtime"]


def _refusal(job: SlurmJob) -> UserError | None:
    asked = job.resources
    options = [f"--cpus-per-task={asked['_cores']}"]
    options += [f"--{option}={asked[key]}" for key, option in _OPTIONS.items() if asked.get(key)]
    if asked["gpu"]:
        model = asked.get("gpu_model")
        options.append(f"--gpus={f'{model}:' if model else ''}{asked['gpu']}")
    command = ["sbatch", "--test-only", "--wrap=true", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    lines = [line.partition("error: ")[2] or line for line in done.stderr.splitlines() if line]
    correct = (
        "correct what it names in the profile's default-resources (`sinfo` and `sacctmgr "
        "show associations user=$USER` list partitions and accounts)"
    )
    return UserError(
        "Slurm refuses such a job; nothing was started",
        where=" ".join(job.rules),
        found="; ".join(dict.fromkeys(lines)),
        expected=f"a request that it takes: {' '.join(options)}",
        todo=f"{_FEWER if _TOO_MANY.search(done.stderr) else correct}, or "
        f"{_set_resources(job.rules)}",
    )


def watch(
    tell: Callable[[str], object], folder: Path, pause: Callable[[float], object] = time.sleep
) -> None:
    """Tell, once for each reason, which jobs of a folder Slurm never starts as things are, for as
    long as this process lives.
    """
    told: set[str] = set()
    while True:
        pause(_WATCH_S)
        waiting = jobs_of_folder(folder, pause)
        for reason in set(waiting.values()) - told:
            if _NEVER.search(reason):
                numbers = " ".join(each for each in waiting if waiting[each] == reason)
                todo = _RELEASE if _HELD.search(reason) else _CHOOSE
                tell(f"Slurm does not start {numbers}: {reason}\n  to do:    {todo}")
                told.add(reason)


def cancel_waiting(logs: Iterable[Path]) -> None:
    """Cancel the jobs that wait in the queue, of those in Snakemake's logs of a run."""
    if numbers := _submitted("".join(map(_text, logs))):
        output_of("scancel", "--state=PENDING", *numbers)


def _submitted(said: str) -> dict[str, Path]:
    """Return the logs of a run's jobs by their number; the last of several attempts counts."""
    last = {match[1]: (match[2], Path(match[3])) for match in _SUBMITTED.finditer(said)}
    return dict(last.values())


def endings(logs: Iterable[Path]) -> str:
    """Return which jobs Slurm ended before their time, by Snakemake's logs of a run, and what to
    do; empty if it ended none.
    """
    said = "".join(map(_text, logs))
    jobs, listed = _submitted(said), None
    # An interrupted run cancels its jobs itself.
    early = _EARLY - ({"CANCELLED"} if any(words in said for words in INTERRUPTED) else set())
    for query in _ENDED if jobs else ():
        listed = listed or output_of(*query, f"--jobs={','.join(jobs)}")
    told = []
    for line in (listed or "").splitlines():
        number, state, time, memory = line.split("|")
        # sacct also says who cancelled a job: `CANCELLED by 0`.
        state = state.partition(" ")[0]
        if number in jobs and _OUT_OF_MEMORY.search(_text(jobs[number])):
            state = "OUT_OF_MEMORY"
        if number in jobs and state in early:
            asked = f"it had asked for {memory} and {time}"
            told += [f"Slurm ended job {number} as {state}; {asked}", f"  log:      {jobs[number]}"]
    told += [_MORE] if told else []
    if _TOO_MANY.search(said):
        told.append(f"Slurm refused jobs beyond the most that you may submit\n  to do:    {_FEWER}")
    return "\n".join(told)


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""


def _set_resources(rules: tuple[str, ...]) -> str:
    return " ".join(f"`--set-resources {rule}:KEY=VALUE`" for rule in rules)
