"""What Slurm would refuse, before a study starts."""

import re
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from freelunch.core.errors import UserError

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

# Snakemake's executor asks how jobs are at most this many seconds apart. Slurm must know of a job's
# end for longer, with room for a query that fails.
_LONGEST_PAUSE_S, _ROOM_S = 180, 30


def status_command(asked: str, first_s: int) -> str:
    """Return the command by which Snakemake should learn how jobs are: `squeue` where Slurm has no
    accounting, since Snakemake would wait for the answers of `sacct` for ever.

    Args:
        asked: The command that the profile or the executor chose, `sacct` or `squeue`.
        first_s: Seconds after which the executor first asks.

    Raises:
        UserError: There is no accounting, and Slurm forgets jobs before Snakemake asks.
    """
    if _said("sacct", "-X", "--noheader", "--format=JobID", "--starttime=now") is not None:
        return asked
    found = re.search(r"^MinJobAge\s*=\s*(\d+)", _said("scontrol", "show", "config") or "", re.M)
    # Below three times the first pause, the executor asks `sacct` whatever the profile says.
    least_s = max(3 * first_s, _LONGEST_PAUSE_S + _ROOM_S)
    if found is None or int(found[1]) < least_s:
        raise UserError(
            "Slurm has no accounting here, and forgets jobs before Snakemake learns of their end",
            where="slurm.conf",
            found=f"`sacct` fails, MinJobAge is {f'{found[1]} s' if found else 'unknown'}",
            expected=f"`sacct` answers, or MinJobAge is at least {least_s} s",
            todo="ask the administrators for either, or run the study in one job of the cluster "
            "with the local profile",
        )
    return "squeue"


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
    states = "--states=idle,mixed,allocated"
    # A line for each partition and state of nodes; Slurm marks the default partition by a star.
    said = _said("sinfo", "--noheader", states, "--format=%P %D") or ""
    rows = (line.split() for line in said.splitlines())
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


def _said(*command: str) -> str | None:
    """Return what one of Slurm's commands writes; None if it fails or is not here."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
