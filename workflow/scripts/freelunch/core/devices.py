"""The memory and the GPUs of this machine: which there are, and which one a job takes.

Only NVIDIA's are known, by `nvidia-smi`, which needs no tensor library.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from freelunch.core.errors import UserError

# The memory limit of the process's control group, as systemd, containers and schedulers set it.
_LIMIT = Path("/sys/fs/cgroup/memory.max")
CPU, CUDA = "cpu", "cuda"
VISIBLE = "CUDA_VISIBLE_DEVICES"
# The workflow sets this variable in jobs that a scheduler started for it and gave their devices.
# What a scheduler itself sets is also there in an allocation in which a whole study runs.
SCHEDULED = "FREELUNCH_SCHEDULED"
_QUERY = ("nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
# Seconds between two attempts to find a free device.
_PAUSE_S = 0.5
# The device that this process uses until it ends, with its lock.
_held: "list[tuple[Device, FileLock]]" = []


class Device(NamedTuple):
    """A GPU.

    Attributes:
        number: Its number on the machine.
        uuid: Its identifier, which no other GPU has.
        name: Its model, such as `NVIDIA H100 80GB HBM3`.
        memory_bytes: Its memory.
    """

    number: str
    uuid: str
    name: str
    memory_bytes: int


def memory_bytes() -> int:
    """Return the memory of this machine, or of the part of it that this process may use."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(_LIMIT.read_text()))
    except (OSError, ValueError):
        # There is no such file, or it says "max".
        return physical


def visible_devices() -> list[Device]:
    """Return the GPUs of this machine that CUDA_VISIBLE_DEVICES leaves visible, in its order."""
    try:
        found = subprocess.run(_QUERY, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.split(", ") for line in found.stdout.splitlines() if line.strip())
    devices = [Device(number, uuid, name, _bytes_of(size)) for number, uuid, name, size in rows]
    if VISIBLE not in os.environ:
        return devices
    names = os.environ[VISIBLE].split(",")
    named = [[one for one in devices if _is_called(one, name.strip())] for name in names]
    # As CUDA does: what follows a name that no device has is not visible.
    return [device for matching in takewhile(bool, named) for device in matching]


def _bytes_of(size: str) -> int:
    """Return the bytes of a size in MiB, as nvidia-smi lists it."""
    if size.strip().isdigit():
        return int(size) * 2**20
    # A GPU that shares the machine's memory states none of its own.
    return memory_bytes()


def chosen_devices(asked: str | None) -> list[Device]:
    """Return the GPUs that a run on this machine uses; none if its processor computes.

    Args:
        asked: What the profile says: `cpu`, `cuda`, or None to use the GPUs that are there.

    Raises:
        UserError: The profile says something else.
    """
    if asked not in (None, CPU, CUDA):
        raise UserError(
            "unknown device",
            where="default-resources: device",
            found=asked,
            expected=f"{CPU} or {CUDA}, or no such line to use the GPUs that are there",
        )
    return [] if asked == CPU else visible_devices()


def check_found(devices: Sequence[Device], asked: str | None) -> None:
    """Refuse a run on this machine whose profile asks for a GPU where there is none.

    Raises:
        UserError: This is so.
    """
    if asked == CUDA and not devices:
        raise UserError(
            "there is no GPU here",
            where="default-resources: device",
            found=f"{CUDA}, but `nvidia-smi` lists no GPU that {VISIBLE} leaves visible",
            expected=f"{CPU}, or no such line",
            todo="correct the profile, or start the study where there is a GPU",
        )


def check_used(memory: object, devices: Sequence[Device], asked: str | None) -> None:
    """Refuse a run that is told a GPU's memory while the processor computes.

    Windows and residencies would be chosen for a memory that no job has.

    Raises:
        UserError: This is so.
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
    return "cpu, as the profile says" if asked == CPU else "cpu, no GPU found"


def claim_device() -> Device | None:
    """Take a free GPU for this process alone until it ends, and hide the others from CUDA.

    A process that has one keeps it. Call it before CUDA is used. The operating system releases the
    GPU, whichever way the process ends. If a scheduler has given this job its GPU, or there is
    none, nothing is taken.

    Returns:
        The GPU, or None if nothing was taken.
    """
    if _held:
        return _held[0][0]
    devices = [] if SCHEDULED in os.environ else visible_devices()
    if not devices:
        return None
    folder = Path(tempfile.gettempdir()) / f"freelunch-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    while True:
        for device in devices:
            lock = FileLock(folder / f"{device.uuid}.lock", fallback_to_soft=False)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            _held.append((device, lock))
            os.environ[VISIBLE] = device.uuid
            return device
        time.sleep(_PAUSE_S)


def _is_called(device: Device, name: str) -> bool:
    """Return whether CUDA_VISIBLE_DEVICES means a device by a number or part of an identifier."""
    return name == device.number or (name.startswith("GPU-") and device.uuid.startswith(name))
