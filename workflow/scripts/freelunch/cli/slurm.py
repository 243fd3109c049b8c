"""What Slurm would refuse or never start, before a study starts."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from freelunch.cli.commands import output_of
from freelunch.cli.partitions import Partition, Partitions
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
    "feature": "correct `constraint` in the profile's default-resources (`sinfo --format='%P %f'` "
    "lists what nodes have)",
    "node configuration": "no node of the partition has this: choose another partition, or ask for "
    "less: `--set-resources {rule}:mem_mb=MB`",
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
        UserError: Slurm is not here or does not answer; or there is no accounting, and Slurm
            forgets jobs before Snakemake asks.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "Slurm's command `sbatch` is not here",
            todo="start the study on a login node of the cluster, or with the local profile",
        )
    config = output_of("scontrol", "show", "config")
    if config is None:
        raise UserError(
            "Slurm does not answer",
            found="`scontrol show config` fails",
            todo="check that Slurm can be reached from here: `sinfo`",
        )
    if output_of("sacct", "-X", "--noheader", "--format=JobID", "--starttime=now") is not None:
        return asked
    found = re.search(r"^MinJobAge\s*=\s*(\d+)", config, re.M)
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


def check_requests(
    jobs: Iterable[tuple[str, str | None, Mapping[str, Any]]], partitions: Partitions
) -> None:
    """Check that Slurm would take each job and could start it; nothing is submitted.

    Args:
        jobs: Rule, group and resources of each job. Jobs of a group run one after another as one
            job.
        partitions: The partitions of the cluster.

    Raises:
        UserError: A job asks for what no partition has, or Slurm refuses a job.
    """
    largest: dict[tuple[str, str], dict[str, Any]] = {}
    for whole in scheduled_jobs(jobs):
        open_to = partitions.open_to(whole)
        if partitions.lists_all(whole) and not any(each.limits.take(whole) for each in open_to):
            raise _beyond_limits(whole, open_to or partitions.of_file())
        # sbatch itself chooses among several.
        name = ",".join(each.name for each in open_to)
        one = largest.setdefault((whole["rule"], name), whole | {"slurm_partition": name})
        for key in ("runtime", "mem_mb", "_cores", "gpu"):
            one[key] = max(one[key], whole[key])
    for (rule, _), asked in largest.items():
        check_accepted(rule, asked)


def scheduled_jobs(
    jobs: Iterable[tuple[str, str | None, Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    """Return the resources of each job as Slurm will get it: of a group, one job whose time is
    that of all its jobs, and whose memory is that of the largest.

    Besides resources, `rule` names the job with the most memory, and `slowest` that with the
    longest time.
    """
    groups: dict[str, dict[str, Any]] = {}
    longest: dict[str, float] = {}
    for number, (rule, group, asked) in enumerate(jobs):
        key = group or str(number)
        whole = groups.setdefault(key, {"rule": rule, "slowest": rule, "runtime": 0, "mem_mb": 0})
        time, memory = (asked.get(key) or 0 for key in ("runtime", "mem_mb"))
        groups[key] = {
            **whole,
            **asked,
            "rule": rule if memory >= whole["mem_mb"] else whole["rule"],
            "slowest": rule if time >= longest.get(key, 0) else whole["slowest"],
            "_cores": max(whole.get("_cores", 1), asked.get("_cores", 1)),
            "gpu": max(whole.get("gpu", 0), asked.get("gpu") or 0),
            "runtime": whole["runtime"] + time,
            "mem_mb": max(whole["mem_mb"], memory),
        }
        longest[key] = max(longest.get(key, 0), time)
    return list(groups.values())


def _beyond_limits(asked: Mapping[str, Any], partitions: Sequence[Partition]) -> UserError:
    """Return the error of a job that asks for more than any partition has."""
    units = {"runtime": ("slowest", "MINUTES"), "mem_mb": ("rule", "MB")}
    beyond = [
        name
        for name in units
        if not any(asked[name] <= getattr(each.limits, name) for each in partitions)
    ]
    todo = "choose a partition with higher limits (`slurm_partition` in the profile)"
    if beyond:
        less = (f"`--set-resources {asked[units[it][0]]}:{it}={units[it][1]}`" for it in beyond)
        todo += f", or ask for less: {' '.join(less)}"
    if "runtime" in beyond:
        todo += "; with `--retries N`, what runs out of time goes on in up to N further jobs"
    also = f", gpu={asked['gpu']}" if asked["gpu"] else ""
    return UserError(
        "Slurm would never start such a job; nothing was started",
        where=asked["rule"],
        found=f"runtime={asked['runtime']} (minutes), mem_mb={asked['mem_mb']}{also}",
        expected=f"what a partition has: {', '.join(map(str, partitions))}",
        todo=todo,
    )


def check_accepted(name: str, asked: Mapping[str, Any]) -> None:
    """Ask Slurm whether it would take a job; nothing is submitted.

    Args:
        name: The job's rule.
        asked: The job's resources.

    Raises:
        UserError: Slurm refuses the job.
    """
    command = ["sbatch", "--test-only", "--wrap=true", *_options(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        problem = "Slurm refuses such a job; nothing was started"
        raise refused(problem, name, asked, done.stderr)


def refused(problem: str, name: str, asked: Mapping[str, Any], said: str) -> UserError:
    """Return the error of a job that Slurm refused.

    Args:
        problem: What is wrong, as one sentence.
        name: The job's rule.
        asked: The job's resources.
        said: What sbatch said.
    """
    lines = [line.partition("error: ")[2] or line for line in said.splitlines() if line]
    lower = " ".join(lines).lower()
    reason = next((part for part in _REFUSALS if part in lower), None)
    # Memory has been compared with that of the nodes before.
    if reason == "node configuration" and asked.get("gpu"):
        reason = "gres"
    return UserError(
        problem,
        where=name,
        found="; ".join(dict.fromkeys(lines)),
        expected=f"a request that it takes: {' '.join(_options(asked))}",
        todo=_REFUSALS[reason].format(rule=name)
        if reason
        else "ask for something else in the profile",
    )


def _options(asked: Mapping[str, Any]) -> list[str]:
    """Return the options of sbatch for a job's resources."""
    options = [f"--cpus-per-task={asked['_cores']}"]
    options += [f"{_OPTIONS[key]}={asked[key]}" for key in _OPTIONS if asked.get(key)]
    if asked.get("gpu"):
        model = asked.get("gpu_model")
        options.append(f"--gpus={model}:{asked['gpu']}" if model else f"--gpus={asked['gpu']}")
    return options


def count_nodes(partition: str | None) -> int:
    """Return how many nodes of partitions work, by default of the default one; 0 without Slurm.

    Args:
        partition: One or several, with commas between them, as `sbatch` takes them.
    """
    states = "--states=idle,mixed,allocated"
    # A line for each partition and state of nodes; Slurm marks the default partition by a star.
    listed = output_of("sinfo", "--noheader", states, "--format=%P %D") or ""
    rows = (line.split() for line in listed.splitlines())
    return sum(
        int(nodes)
        for name, nodes in rows
        if (name.rstrip("*") in partition.split(",") if partition else name.endswith("*"))
    )
