"""What Slurm would refuse, before a study starts, and why its jobs ended, after it stopped.

Snakemake does not pass on why a job of several steps could not be submitted or ended early.
"""

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from freelunch.core.errors import UserError
from freelunch.costs.jobs import RULES

# Options of sbatch by the resource that sets them.
_OPTIONS = {
    **{"slurm_account": "--account", "slurm_partition": "--partition", "qos": "--qos"},
    **{"constraint": "--constraint", "mem_mb": "--mem", "runtime": "--time"},
}
# Parts of what sbatch says when it refuses a job, and what to do.
_REFUSALS = {
    "configuration source": "check that Slurm can be reached from here: `sinfo`",
    "contact": "check that Slurm can be reached from here: `sinfo`",
    # It may also mention the partition.
    "account": "correct `slurm_account` in the profile's default-resources (`sacctmgr show "
    "associations user=$USER` lists yours)",
    "partition": "correct `slurm_partition` in the profile's default-resources (`sinfo -s` lists "
    "the partitions)",
    "qos": "correct `qos` in the profile's default-resources (`sacctmgr show associations "
    "user=$USER format=qos` lists yours)",
    "time limit": "choose a partition with a longer limit, or ask for less time: "
    "`--set-resources {rule}:runtime=MINUTES`",
    "memory": "choose a partition with larger nodes, or ask for less: "
    "`--set-resources {rule}:mem_mb=MB`",
    "gres": "choose a partition with GPUs, or say `device=cpu` in the profile's default-resources",
    "node configuration": "no node of the partition has this: choose another partition, or ask for "
    "less (`device=cpu`, `--set-resources {rule}:mem_mb=MB`)",
}
_SUBMITTED = re.compile(r"submitted with SLURM jobid (\d+) \(log: (.+?)\)\.")
# What a job says that stops by an error of its own.
_OWN_ERROR = re.compile(r"^\[.+?\] error: .+(?:\n  \S.+)*", re.M)
_FULL = re.compile(r"Disk quota exceeded|No space left on device")
# Lines of Slurm's own about a job that it ended, as in `slurmstepd: error: *** STEP 1.0 ...`.
_OOM = re.compile(r"oom_kill event|Out Of Memory|Exceeded job memory limit")
_LATE = re.compile(r"DUE TO TIME LIMIT")


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


def check_accepted(name: str, asked: Mapping[str, Any]) -> None:
    """Ask Slurm whether it would take a job; nothing is submitted.

    Args:
        name: The job's rule.
        asked: The job's resources.

    Raises:
        UserError: Slurm refuses the job.
    """
    command = ["sbatch", "--test-only", "--wrap=true", f"--cpus-per-task={asked['_cores']}"]
    command += [f"{_OPTIONS[key]}={asked[key]}" for key in _OPTIONS if asked.get(key)]
    if asked.get("gpu"):
        model = asked.get("gpu_model")
        command.append(f"--gpus={model}:{asked['gpu']}" if model else f"--gpus={asked['gpu']}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(
            "Slurm's command `sbatch` is not here",
            todo="start the study on a login node of the cluster, or with the local profile",
        ) from None
    if done.returncode == 0:
        return
    said = [line.partition("error: ")[2] or line for line in done.stderr.splitlines() if line]
    lower = " ".join(said).lower()
    remedies = (todo for part, todo in _REFUSALS.items() if part in lower)
    raise UserError(
        "Slurm refuses such a job; nothing was started",
        where=name,
        found="; ".join(dict.fromkeys(said)),
        expected=f"a request that it takes: {' '.join(command[3:])}",
        todo=next(remedies, "ask for something else in the profile").format(rule=name),
    )


def count_nodes(partition: str | None) -> int:
    """Return how many nodes of a partition work, by default the default one; 0 without Slurm."""
    command = ["sinfo", "--noheader", "--states=idle,mixed,allocated", "--format=%P %D"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 0
    # A line for each partition and state of nodes; Slurm marks the default partition by a star.
    rows = (line.split() for line in done.stdout.splitlines())
    return sum(
        int(nodes)
        for name, nodes in rows
        if (name.rstrip("*") == partition if partition else name.endswith("*"))
    )


def largest_requests(jobs: Iterable[tuple[str, str | None, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the largest request among the jobs of each rule, as Slurm will get it.

    Args:
        jobs: Rule, group and resources of each job. Jobs of a group run one after another as one
            job: their times add up.
    """
    groups: dict[str, dict[str, Any]] = {}
    for number, (rule, group, asked) in enumerate(jobs):
        whole = groups.setdefault(group or str(number), {"rule": rule, "runtime": 0, "mem_mb": 0})
        time, memory = (asked.get(key) or 0 for key in ("runtime", "mem_mb"))
        rule = whole["rule"] if memory < whole["mem_mb"] else rule
        cores = max(whole.get("_cores", 1), asked.get("_cores", 1))
        gpus = max(whole.get("gpu", 0), asked.get("gpu") or 0)
        whole |= {
            **asked,
            "rule": rule,
            "_cores": cores,
            "gpu": gpus,
            "runtime": whole["runtime"] + time,
            "mem_mb": max(whole["mem_mb"], memory),
        }
    largest: dict[str, Any] = {}
    for whole in groups.values():
        one = largest.setdefault(whole["rule"], whole)
        for key in ("runtime", "mem_mb", "_cores", "gpu"):
            one[key] = max(one[key], whole[key])
    return largest


def endings(logs: Iterable[Path]) -> str:
    """Return why jobs of a run ended before their time, and what to do; empty if none did.

    Args:
        logs: Snakemake's logs of the run.
    """
    said = "".join(log.read_text(encoding="utf-8") for log in logs)
    # Of several attempts at a job, which share a folder of logs, the last one counts.
    last = {Path(path).parent: (number, Path(path)) for number, path in _SUBMITTED.findall(said)}
    ended = [_ending(job) for job in _known(list(last.values()))]
    return "\n\n".join(filter(None, ended))


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
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        rows = [line.split("|") for line in done.stdout.splitlines()]
        if done.returncode == 0 and rows:
            # sacct says who cancelled a job: `CANCELLED by 0`.
            return [
                Ended(number, state.partition(" ")[0], time, memory, logs[number])
                for number, state, time, memory in rows
                if number in logs
            ]
    return []


def _ending(job: Ended) -> str | None:
    said = job.log.read_text(encoding="utf-8", errors="replace") if job.log.is_file() else ""
    folder = job.log.parent.relative_to(_logs_of(job.log))
    steps = [rule for rule in RULES if rule in str(folder)]
    why, todo = _why(job, said, " ".join(steps))
    if why is None:
        return None
    lines = [f"Slurm job {job.number}, {folder}: {why}", f"  log:      {job.log}"]
    return "\n".join([*lines, *([f"  to do:    {todo}"] if todo else [])])


def _why(job: Ended, said: str, steps: str) -> tuple[str | None, str | None]:
    """Return why a job ended, and what to do about it."""
    again = "Snakemake option, or a line of the profile"
    if job.state == "OUT_OF_MEMORY" or _OOM.search(said):
        return (
            f"killed for memory; it had asked for {job.memory}",
            f"ask for more: {_raise(steps, 'mem_mb=MB')} ({again})",
        )
    if job.state == "TIMEOUT" or _LATE.search(said):
        return (
            f"out of time; it had asked for {job.time}",
            f"ask for more: {_raise(steps, 'runtime=MINUTES')} ({again}); finished files are kept",
        )
    if _FULL.search(said):
        return "the disk or your quota is full", "make room, and run the same command again"
    if own := _OWN_ERROR.search(said):
        return f"stopped by an error\n{own[0]}", None
    if job.state == "NODE_FAIL":
        return "its node failed", "run the same command again; finished files are kept"
    if job.state in ("CANCELLED", "PREEMPTED"):
        return (
            "cancelled" if job.state == "CANCELLED" else "preempted",
            "run the same command again; finished files are kept",
        )
    if job.state in ("FAILED", "BOOT_FAIL", "DEADLINE"):
        return f"ended as {job.state}", "read its log"
    return None, None


def _raise(steps: str, value: str) -> str:
    return " ".join(f"`--set-resources {step}:{value}`" for step in steps.split()) or value


def _logs_of(log: Path) -> Path:
    """Return the folder of all of Slurm's logs, which one folder for each rule or group is in."""
    groups = [each for each in log.parents if each.name.startswith(("rule_", "group_"))]
    return groups[-1].parent if groups else log.parent
