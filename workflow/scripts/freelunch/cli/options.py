"""What commands take: the study or a part of it, the machine, and how Snakemake runs.

Each option is declared once. The fields of `Chosen` and `Running` are options, too.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from freelunch.core.devices import device_text, visible_devices
from freelunch.core.errors import DEFAULT_STUDY, UserError, nearest
from freelunch.costs.machine import Machine, read_gigabytes, read_rate, read_tflops
from freelunch.records.earlier_jobs import learnt_rate
from freelunch.study.config import Part
from freelunch.study.open_study import DEVICE, KEY, TFLOPS, open_study, part_of, read_study
from freelunch.study.registry import REPOSITORY
from freelunch.study.steps import RULES
from freelunch.study.study import Study

LOCAL = "local"


def option(metavar: str, about: str, **more: Any) -> Any:
    """Return an option of a command, for its annotation."""
    return typer.Option(metavar=metavar, help=about, **more)


def argument(metavar: str, about: str) -> Any:
    """Return an argument of a command, for its annotation."""
    return typer.Argument(metavar=metavar, help=about)


def rules_in(text: str) -> str:
    """Return names of rules, separated by spaces, if there are such rules."""
    for name in text.split():
        if name not in RULES:
            raise typer.BadParameter(f"found {name}; expected {nearest(name, RULES)}")
    return text


def _tflops(text: str) -> float:
    return read_tflops(text, "--tflops") / 1e12


def _bytes_per_s(text: str) -> float:
    try:
        return read_rate(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


StudyFile = Annotated[Path, argument("STUDY", "The study's file.")]
DEFAULT = Path(DEFAULT_STUDY)
Tflops = Annotated[
    float | None,
    option("N", "TFLOP/s of the machine that runs it. Default: this one's.", parser=_tflops),
]
Disk = Annotated[
    float | None,
    option("RATE", "How fast its disk is, such as 500MB/s, the default.", parser=_bytes_per_s),
]
Network = Annotated[
    float | None,
    option("RATE", "How fast its network is. Default: 100MB/s.", parser=_bytes_per_s),
]
DeviceMemory = Annotated[
    str | None, option("GB", "Memory of the GPU. Default: that of this machine's GPU.")
]
Elsewhere = Annotated[
    bool, typer.Option("--elsewhere", help="The study runs on another machine: ignore this one.")
]


@dataclass(frozen=True)
class Chosen:
    """The study that a command is about, or a part of it."""

    study: StudyFile = DEFAULT
    models: Annotated[str | None, option("NAMES", "Only these models: opt-125m,opt-1.3b.")] = None
    claims: Annotated[str | None, option("NAMES", "Only the grids of these claims: C1,C3.")] = None
    seeds: Annotated[str | None, option("NUMBERS", "Only these seeds: 0,1.")] = None

    @property
    def part(self) -> Part | None:
        """The part that is chosen; None for what the file says."""
        return part_of(self.models, self.claims, self.seeds)

    def open(self, pinned: bool = True) -> Study:
        """Return the study with its pinned commits."""
        return open_study(self.study, self.part, pinned)

    def read(self) -> Study:
        """Return the study as it is written."""
        return read_study(self.study, self.part)


@dataclass(frozen=True)
class Running(Chosen):
    """A study that Snakemake runs, and how."""

    cores: Annotated[str, option("N", "Cores of this machine to use, or all.")] = "all"
    profile: Annotated[
        str, option("PROFILE", "A folder in workflow/profiles, or another's path.")
    ] = LOCAL
    scatter: Annotated[
        int | None, option("N", "How many jobs share a reconstruction's windows.", min=1)
    ] = None
    tflops: Tflops = None
    device_memory: DeviceMemory = None

    @property
    def runs_here(self) -> bool:
        """Whether jobs run on this machine by the profile, which then names no executor."""
        text = (profile_folder(self.profile) / "profile.yaml").read_text(encoding="utf-8")
        return bool((yaml.safe_load(text) or {}).get("executor", LOCAL) == LOCAL)

    def command(self) -> list[str]:
        """Return the command that runs Snakemake; options and targets may be appended."""
        command = ["snakemake"]
        if Path.cwd() != REPOSITORY:
            command += ["--snakefile", str(REPOSITORY / "Snakefile")]
        command += ["--config", f"{KEY}={self.study}"]
        for key, names in (self.part.as_json() if self.part else {}).items():
            command.append(f"{key}={','.join(map(str, names))}")
        command += [f"{DEVICE}={self.device_memory}"] if self.device_memory else []
        command += [f"{TFLOPS}={self.tflops:g}"] if self.tflops else []
        command += ["--set-scatter", f"windows={self.scatter}"] if self.scatter else []
        command += ["--nocolor"] if "NO_COLOR" in os.environ else []
        # On a cluster, the profile says how many cores of this machine are used.
        command += ["--cores", self.cores] if self.runs_here else []
        # The last option takes one value, so that what follows may be a target.
        return [*command, "--workflow-profile", str(profile_folder(self.profile))]


def profile_folder(profile: str) -> Path:
    """Return the folder of a profile: one of workflow/profiles by its name, or any other by its
    path; UserError if there is none, which Snakemake itself would ignore.
    """
    shipped = Path("workflow", "profiles")
    shipped = shipped if shipped.exists() else REPOSITORY / shipped
    for folder in (shipped / profile, Path(profile)):
        if (folder / "profile.yaml").is_file():
            return folder
    names = [path.name for path in shipped.iterdir()]
    raise UserError(
        "there is no such profile",
        where="--profile",
        found=profile,
        expected=f"{nearest(profile, names)}; or a folder with a profile.yaml",
    )


def device_of(device_memory: str | None, tflops: float | None) -> tuple[int | None, str]:
    """Return the memory of the smallest GPU in bytes, None without one, and what computes in words:
    of this machine, unless the memory of a GPU or the rate of another machine is given.
    """
    if device_memory is not None:
        size = read_gigabytes(device_memory, "--device-memory")
        return size, f"a GPU of {device_memory} GB, as given"
    if tflops:
        return None, "cpu, as no GPU is given"
    found = visible_devices()
    return min((each.memory_bytes for each in found), default=None), device_text(found)


def machine_of(
    device: int | None,
    tflops: float | None = None,
    disk: float | None = None,
    network: float | None = None,
    measures: bool = True,
) -> Machine:
    """Return a machine with this device memory in bytes, TFLOP/s of a matrix product, and bytes
    per second of disk and network; what is not given is learnt, assumed, or measured, but only if
    `measures`: the rate then depends on how busy this machine is.
    """
    # A device that is given, not seen, may be any of those that earlier jobs used.
    names = [each.name for each in visible_devices()] if device is not None else []
    learnt = None if tflops else learnt_rate(Path("results"), device is not None, names)
    return Machine.of(tflops and tflops * 1e12, disk, network, device, learnt, measures=measures)
