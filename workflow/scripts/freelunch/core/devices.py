"""The memory and the GPUs of this machine: which there are, and which one a job takes.

Only NVIDIA's are known, by `nvidia-smi`, which needs no tensor library.
"""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import product, takewhile
from pathlib import Path
from typing import NamedTuple

from filelock import BaseFileLock

from freelunch.core.errors import UserError, first_line
from freelunch.core.lock import lock_if_free

# The control groups of this process; where their limits of memory are, and in which files.
_OF_PROCESS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_LIMITS = ("memory.max", "memory.limit_in_bytes")
# Processes with another TMPDIR, such as jobs of a scheduler, use the same GPUs.
_LOCKS = Path("/tmp")
CPU, CUDA = "cpu", "cuda"
VISIBLE, _PART = "CUDA_VISIBLE_DEVICES", "MIG-"
# The workflow sets this variable in jobs that a scheduler started for it and gave their devices.
# What a scheduler itself sets is also there in an allocation in which a whole study runs.
SCHEDULED = "FREELUNCH_SCHEDULED"
_QUERY = ("nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
# Instructions with which a processor multiplies matrices of bfloat16 faster than of float32.
_BFLOAT16 = {"amx_bf16", "avx512_bf16"}
FLOAT32, BFLOAT16 = "float32", "bfloat16"
# Seconds between two attempts to find a free device.
_PAUSE_S = 0.5
# The device that this process uses until it ends, with its lock.
_held: "list[tuple[Device, BaseFileLock]]" = []


class Device(NamedTuple):
    """A GPU: its number on the machine, its own identifier, its model's name, its memory."""

    number: str
    uuid: str
    name: str
    memory_bytes: int


def memory_bytes() -> int:
    """Return the memory of this machine, or of the part of it that this process may use."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_memory_limits()])


def _memory_limits() -> Iterator[int]:
    """Yield the limits of this process's control groups and of those that these are in, as systemd,
    containers and schedulers set them.
    """
    lines = _OF_PROCESS.read_text().splitlines() if _OF_PROCESS.is_file() else []
    for line in lines:
        # The first version of control groups has a tree for each controller, the second one tree.
        _, controllers, name = line.split(":", 2)
        group = _GROUPS / controllers / name.lstrip("/")
        # In a container, a group may have another name than the process is told.
        for each, file in product((group, *group.parents), _LIMITS):
            # There is no such file, or it says "max".
            with suppress(OSError, ValueError):
                yield int((each / file).read_text())


@cache
def fast_precision(on_device: bool) -> str:
    """Return the dtype in which training passes are fastest here: bfloat16 on a GPU, and on a
    processor that has instructions for it; float32 on any other.
    """
    known = Path("/proc/cpuinfo")
    has = set(known.read_text(encoding="utf-8").split()) if known.is_file() else set()
    return BFLOAT16 if on_device or has & _BFLOAT16 else FLOAT32


def _listed() -> tuple[str, str]:
    """Return what `nvidia-smi` lists, or else what it says if it fails; neither without it."""
    try:
        found = subprocess.run(_QUERY, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        return "", ""
    except (OSError, subprocess.SubprocessError) as error:
        return "", first_line(error)
    said = " ".join((found.stdout + found.stderr).split())
    return ("", said or "no answer") if found.returncode else (found.stdout, "")


def visible_devices() -> list[Device]:
    """Return the GPUs of this machine that CUDA_VISIBLE_DEVICES leaves visible, in its order."""
    devices = []
    for line in filter(str.strip, _listed()[0].splitlines()):
        number, uuid, name, mebibytes = line.strip().split(", ")
        # A GPU that shares the machine's memory states none of its own.
        size = int(mebibytes) * 2**20 if mebibytes.isdigit() else memory_bytes()
        devices.append(Device(number, uuid, name, size))
    if VISIBLE not in os.environ:
        return devices
    named = []
    for name in map(str.strip, os.environ[VISIBLE].split(",")):
        begins = name if name.startswith("GPU-") else "no identifier"
        named += [[one for one in devices if one.number == name or one.uuid.startswith(begins)]]
    # As CUDA does: what follows a name that no device has is not visible.
    return [device for matching in takewhile(bool, named) for device in matching]


def chosen_devices(asked: str | None) -> list[Device]:
    """Return the GPUs that a run on this machine uses; none if its processor computes.

    The profile asks for `cpu`, `cuda`, or (None) for the GPUs that are there; UserError otherwise.
    """
    if asked not in (None, CPU, CUDA):
        expected = f"{CPU} or {CUDA}, or no such line to use the GPUs that are there"
        where = "default-resources: device"
        raise UserError("unknown device", where=where, found=asked, expected=expected)
    return [] if asked == CPU else visible_devices()


def check_device_memory(devices: Sequence[Device], asked: str | None, memory: object) -> None:
    """Refuse, by UserError, a run that is told a GPU's memory while the processor computes: it
    would choose windows for a memory that no job has.
    """
    if memory is not None and not devices and asked != CUDA:
        raise UserError(
            "the memory of a GPU is given, but no job would use one",
            where="device_memory",
            found=f"{memory}, and the device is: {device_text(devices, asked)}",
            expected=f"a GPU here, or device={CUDA} in the profile's default-resources",
            todo=f"set device={CUDA} for jobs on machines with GPUs, or leave device_memory out",
        )


def device_text(devices: Sequence[Device], asked: str | None = None) -> str:
    """Return which devices compute, and why, in a few words."""
    if devices:
        names = dict.fromkeys(device.name for device in devices)
        return f"{', '.join(names)} ({len(devices)})"
    if asked == CUDA:
        return "a GPU for each job, from the scheduler"
    if asked == CPU:
        return "cpu, as the profile says"
    if _PART in os.environ.get(VISIBLE, ""):
        return f"cpu, since {VISIBLE} names a part of a GPU (MIG), which only jobs on a cluster use"
    failed = _listed()[1]
    return f"cpu, since nvidia-smi fails: {failed}" if failed else "cpu, no GPU found"


def claim_device() -> Device | None:
    """Take a free GPU for this process alone until it ends, and hide the others from CUDA.

    Call it before CUDA is used. It returns None, and takes nothing, if there is no GPU, or a
    scheduler has given this job its own.
    """
    if _held:
        return _held[0][0]
    devices = [] if SCHEDULED in os.environ else visible_devices()
    folder = _LOCKS / f"freelunch-{os.getuid()}"
    while devices:
        for device in devices:
            if lock := lock_if_free(folder / f"{device.uuid}.lock"):
                _held.append((device, lock))
                os.environ[VISIBLE] = device.uuid
                return device
        time.sleep(_PAUSE_S)
    return None
