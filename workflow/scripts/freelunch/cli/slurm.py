"""What Slurm has, and what it would refuse or never start.

Snakemake's executor submits and watches the jobs. This module asks Slurm's own commands.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Self

from freelunch.core.errors import UserError
from freelunch.costs.job_requests import Limits
from freelunch.costs.jobs import RULES

# Options of sbatch by the resource that sets them, if it is set.
_OPTIONS = {
    "slurm_account": "account",
    "slurm_partition": "partition",
    "qos": "qos",
    "constraint": "constraint",
    "mem_mb": "mem",
    "runtime": "time",
}
# Without accounting, Slurm must know of an ended job for longer than Snakemake's executor pauses.
_LEAST_AGE_S = 210
_TIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)$")
_WORKING = {"idle", "mix", "alloc"}


_SUBMITTED = re.compile(r"Job (\S+) has been submitted with SLURM jobid (\d+) \(log: (.+?)\)\.")
# What Slurm says of a job: its number, its state, the time and the memory that it had asked for.
_ENDED = (
    ("sacct", "-X", "-n", "-P", "--format=JobID,State,Timelimit,ReqMem"),
    ("squeue", "-h", "--states=all", "--format=%i|%T|%l|%m"),
)
_AGAIN = "run the same command again; finished files are kept"
_MORE = "ask for more: {} (Snakemake option, or a line of the profile)"


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


def status_command(asked: str) -> str:
    """Return the command by which Snakemake should learn how jobs are: the one that was asked for,
    or `squeue` where Slurm has no accounting: Snakemake would wait for `sacct` for ever.

    Raises:
        UserError: Slurm is not here or does not answer; or there is no accounting, and Slurm
            forgets jobs before Snakemake asks.
    """
    config = output_of("scontrol", "show", "config")
    if shutil.which("sbatch") is None or config is None:
        found = "`sbatch` is not here, or `scontrol show config` fails"
        todo = "start the study on a login node, where `sinfo` answers, or by the local profile"
        raise UserError("Slurm does not answer", found=found, todo=todo)
    if output_of("sacct", "-X", "--noheader", "--format=JobID", "--starttime=now") is not None:
        return asked
    age = re.search(r"^MinJobAge\s*=\s*(\d+)", config, re.M)
    if age is None or int(age[1]) < _LEAST_AGE_S:
        raise UserError(
            "Slurm has no accounting here, and forgets jobs before Snakemake learns of their end",
            where="slurm.conf",
            found=f"`sacct` fails, MinJobAge is {f'{age[1]} s' if age else 'unknown'}",
            expected=f"`sacct` answers, or MinJobAge is at least {_LEAST_AGE_S} s",
            todo="ask the administrators for either, or run the local profile in one job",
        )
    return "squeue"


def check_requests(jobs: Iterable[SlurmJob], cluster: Cluster) -> None:
    """Check that Slurm would take each job and could start it; nothing is submitted.

    Raises:
        UserError: A job asks for what no partition has (with its default settings, Slurm would take
            it and never start it), or Slurm refuses a job.
    """
    largest: dict[tuple[str, ...], SlurmJob] = {}
    for job in jobs:
        limits = cluster.limits_for(job.resources)
        if limits and not any(each.take(job.resources) for each in limits.values()):
            raise UserError(
                "Slurm would never start such a job; nothing was started",
                where=" ".join(job.rules),
                found=", ".join(f"{key}={job.resources.get(key) or 0}" for key in Limits._fields),
                expected="; ".join(
                    f"{name}: at most {each.mem_mb:.0f} MB, {each.runtime:.0f} minutes"
                    for name, each in limits.items()
                ),
                todo="choose another `slurm_partition` in the profile, or ask for less: "
                f"{_set_resources(job.rules, 'KEY=VALUE')}; with `--retries N`, what runs out of "
                "time goes on",
            )
        largest[job.rules] = max(largest.get(job.rules, job), job, key=_size)
    for job in largest.values():
        _check_accepted(job)


def _size(job: SlurmJob) -> tuple[int, int]:
    return job.resources["mem_mb"], job.resources["runtime"]


def _check_accepted(job: SlurmJob) -> None:
    asked = job.resources
    options = [f"--cpus-per-task={asked['_cores']}"]
    options += [f"--{option}={asked[key]}" for key, option in _OPTIONS.items() if asked.get(key)]
    if asked["gpu"]:
        model = asked.get("gpu_model")
        options.append(f"--gpus={f'{model}:' if model else ''}{asked['gpu']}")
    command = ["sbatch", "--test-only", "--wrap=true", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line.partition("error: ")[2] or line for line in done.stderr.splitlines() if line]
        raise UserError(
            "Slurm refuses such a job; nothing was started",
            where=" ".join(job.rules),
            found="; ".join(dict.fromkeys(lines)),
            expected=f"a request that it takes: {' '.join(options)}",
            todo="correct what it names in the profile's default-resources (`sinfo` and `sacctmgr "
            "show associations user=$USER` list partitions and accounts), or "
            f"{_set_resources(job.rules, 'KEY=VALUE')}",
        )


def endings(logs: Iterable[Path]) -> str:
    """Return which jobs of a run Slurm ended before their time, why, and what to do; empty if it
    ended none.

    Args:
        logs: Snakemake's logs of the run.
    """
    said = "".join(log.read_text(encoding="utf-8") for log in logs)
    # The last of several attempts at a job counts.
    last = {match[1]: (match[2], Path(match[3])) for match in _SUBMITTED.finditer(said)}
    jobs = dict(last.values())
    rows = _rows(list(jobs))
    told = (_ending(row, jobs[row[0]]) for row in rows if row[0] in jobs)
    return "\n\n".join(filter(None, told))


def _rows(numbers: list[str]) -> list[list[str]]:
    """Return what Slurm still knows of jobs: from its accounting, or else from its queue."""
    for query in _ENDED if numbers else ():
        if listed := output_of(*query, f"--jobs={','.join(numbers)}"):
            return [line.split("|") for line in listed.splitlines()]
    return []


def _ending(row: list[str], log: Path) -> str | None:
    number, state, time, memory = row
    said = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    name = log.parent.name
    rules = tuple(rule for rule in RULES if rule in name)
    # sacct also says who cancelled a job: `CANCELLED by 0`.
    why, todo = _early_end(state.partition(" ")[0], said, time, memory, rules)
    if not why:
        return None
    return f"Slurm job {number}, {name}: {why}\n  log:      {log}\n  to do:    {todo}"


def _early_end(
    state: str, said: str, time: str, memory: str, rules: tuple[str, ...]
) -> tuple[str, str]:
    """Return what ended a job from outside, and what to do; both are empty if nothing did."""
    if state == "OUT_OF_MEMORY" or re.search(r"oom_kill event|Exceeded job memory limit", said):
        more = _MORE.format(_set_resources(rules, "mem_mb=MB"))
        return f"killed for memory; it had asked for {memory}", more
    if state == "TIMEOUT" or "DUE TO TIME LIMIT" in said:
        more = _MORE.format(_set_resources(rules, "runtime=MINUTES"))
        return f"out of time; it had asked for {time}", f"{more}; finished files are kept"
    if state in ("NODE_FAIL", "BOOT_FAIL", "CANCELLED", "PREEMPTED", "DEADLINE"):
        return f"ended as {state}", _AGAIN
    return "", ""


def _set_resources(rules: tuple[str, ...], value: str) -> str:
    return " ".join(f"`--set-resources {rule}:{value}`" for rule in rules) or f"`{value}`"
