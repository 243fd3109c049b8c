"""Partitions of a Slurm cluster: which ones a job may go to, and the most it may ask for there.

A cluster with Slurm's default settings takes a job that asks for more, and never starts it.
"""

import re
from collections.abc import Mapping
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from freelunch.cli.commands import output_of
from freelunch.core.errors import UserError, nearest
from freelunch.costs.job_requests import Limits

if TYPE_CHECKING:
    from snakemake_executor_plugin_slurm.partitions import Partition as InFile

_TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d+):(\d+)$")


class Partition(NamedTuple):
    """A partition.

    Attributes:
        name: Its name.
        limits: The most that a job may ask for.
    """

    name: str
    limits: Limits

    def __str__(self) -> str:
        time, memory = (
            "no limit" if limit == inf else f"{limit:.0f}"
            for limit in (self.limits.runtime, self.limits.mem_mb)
        )
        return f"{self.name} (runtime: {time}, mem_mb: {memory})"


class Partitions:
    """The partitions of the cluster, and those of a file among which Snakemake's executor chooses.

    Args:
        known: The partitions of the cluster, by name.
        default: The name of the one that Slurm chooses by itself, if any.
        in_config: What the file says of each of its partitions; None without a file.
    """

    def __init__(
        self,
        known: Mapping[str, Partition],
        default: str | None,
        in_config: list["InFile"] | None = None,
    ) -> None:
        self._known, self._default, self._in_config = known, default, in_config

    @classmethod
    def of_cluster(cls, file: Path | None = None) -> Self:
        """Ask Slurm for its partitions, and read a file for `slurm-partition-config`.

        Raises:
            UserError: The file is not valid, or names a partition that the cluster lacks.
        """
        memory: dict[str, float] = {}
        sizes = output_of("sinfo", "--all", "--noheader", "--exact", "--format=%R %m") or ""
        for name, size in (line.split() for line in sizes.splitlines()):
            memory[name] = max(memory.get(name, 0.0), float(size))
        known, default = {}, None
        listed = output_of("scontrol", "--all", "--oneliner", "show", "partition") or ""
        for line in listed.splitlines():
            found = dict(re.findall(r"(\w+)=(\S+)", line))
            name, most = found["PartitionName"], found.get("MaxMemPerNode", "")
            # A partition may have no nodes, and no limit of its own.
            mem_mb = min(memory.get(name) or inf, float(most) if most.isdigit() else inf)
            known[name] = Partition(name, Limits(mem_mb, _minutes(found.get("MaxTime", ""))))
            default = name if found.get("Default") == "YES" else default
        return cls(known, default, _read(file, known) if file else None)

    def open_to(self, asked: Mapping[str, Any]) -> list[Partition]:
        """Return the partitions that a job would be submitted to: those that it names, the one
        that the executor chooses from the file, or the default one.

        Args:
            asked: The job's resources.
        """
        if self._is_chosen(asked):
            return self._fitting(asked)[:1]
        names = str(asked.get("slurm_partition") or self._default or "").split(",")
        return [self._known.get(name, Partition(name, Limits())) for name in names if name]

    def lists_all(self, asked: Mapping[str, Any]) -> bool:
        """Return whether a job can only go to the partitions that `open_to` returns."""
        return self._is_chosen(asked) or bool(self.open_to(asked))

    def of_file(self) -> list[Partition]:
        """Return the partitions of the file."""
        return [self._in_file(each) for each in self._in_config or ()]

    def most(self, asked: Mapping[str, Any]) -> Limits:
        """Return the most that later attempts at a job may ask for: the limits of the partition
        with the longest time among those that take its first attempt; none if Slurm tells none.
        """
        found = self._fitting(asked) if self._is_chosen(asked) else self.open_to(asked)
        taking = [each.limits for each in found if each.limits.take(asked)]
        return max(taking, key=lambda limits: (limits.runtime, limits.mem_mb), default=Limits())

    def _is_chosen(self, asked: Mapping[str, Any]) -> bool:
        """Return whether the executor chooses the partition of a job, from the file."""
        return self._in_config is not None and not asked.get("slurm_partition")

    def _fitting(self, asked: Mapping[str, Any]) -> list[Partition]:
        """Return the partitions that by the file fit a job, the executor's choice first."""
        job = SimpleNamespace(resources=asked, threads=asked.get("_cores", 1), name="")
        scores = [(each.score_job_fit(job), each) for each in self._in_config or ()]
        scored = [(score, each) for score, each in scores if score is not None]
        scored.sort(key=lambda pair: pair[0], reverse=True)
        return [self._in_file(each) for _, each in scored]

    def _in_file(self, one: "InFile") -> Partition:
        real = self._known[one.name].limits
        time, memory = one.limits.max_runtime, one.limits.max_mem_mb
        return Partition(one.name, Limits(min(real.mem_mb, memory), min(real.runtime, time)))


def _read(file: Path, known: Mapping[str, Partition]) -> list["InFile"]:
    from snakemake_executor_plugin_slurm.partitions import read_partition_file

    try:
        found = read_partition_file(file)
    except Exception as error:
        # The executor's reader raises errors of many kinds.
        raise UserError(
            "not a valid file of partitions",
            where=file,
            found=error,
            expected="what workflow/profiles/slurm/partitions.yaml shows",
        ) from error
    # Those of another cluster are not known here.
    found = [one for one in found if one.partition_cluster is None]
    for one in found:
        if one.name not in known:
            raise UserError(
                "the cluster has no such partition",
                where=f"{file}: partitions",
                found=one.name,
                expected=nearest(one.name, known),
            )
    return found


def _minutes(time: str) -> float:
    """Return the minutes of a time as Slurm writes it, such as `1-12:00:00` or `UNLIMITED`."""
    found = _TIME.match(time)
    if found is None:
        return inf
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60
