"""What it cost to make the finished files that a job takes over."""

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
# The memory of this process when its work began, in bytes.
_base_bytes: int | None = None


@dataclass(frozen=True)
class Spent:
    """Time and memory that were spent on files.

    `attempts` counts interrupted ones. `host_bytes` and `device_bytes` are peaks of the memory of
    the process, and of torch on the GPU. `work_bytes` is how far the former lies above what the
    process held when its work began, mostly libraries; None where the system does not tell.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    attempts: int = 0
    host_bytes: int = 0
    work_bytes: int | None = None
    device_bytes: int = 0

    @classmethod
    def now(cls, wall_s: float = 0.0, cpu_s: float = 0.0) -> "Spent":
        """Return what was spent in a time, with this process's peaks of memory so far."""
        host = status_bytes("VmHWM")
        work = None if host is None or _base_bytes is None else max(host - _base_bytes, 0)
        if host is None:
            host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        torch = sys.modules.get("torch")
        used = torch is not None and torch.cuda.is_initialized()
        device = torch.cuda.max_memory_allocated() if torch is not None and used else 0
        return cls(round(wall_s, 3), round(cpu_s, 3), 0, host, work, device)

    def __add__(self, other: "Spent") -> "Spent":
        """Return the sum of times and attempts, and the larger peaks."""
        work = [each for each in (self.work_bytes, other.work_bytes) if each is not None]
        return Spent(
            self.wall_s + other.wall_s,
            self.cpu_s + other.cpu_s,
            self.attempts + other.attempts,
            max(self.host_bytes, other.host_bytes),
            max(work, default=None),
            max(self.device_bytes, other.device_bytes),
        )


class Clock:
    """What a process spends from one lap to the next.

    Folders that a process fills in turns share a clock, so that each second is counted once.
    """

    def __init__(self) -> None:
        self._last = time.perf_counter(), time.process_time()

    def lap(self) -> Spent:
        """Return what was spent since the last lap, or since the clock was made."""
        now = time.perf_counter(), time.process_time()
        (wall_s, cpu_s), self._last = self._last, now
        return Spent.now(now[0] - wall_s, now[1] - cpu_s)


def begin_work() -> None:
    """Note the memory that this process holds now: what it takes from here on is its work's."""
    global _base_bytes
    _base_bytes = status_bytes("VmRSS")


def status_bytes(key: str) -> int | None:
    """Return a size such as VmHWM from /proc/self/status, in bytes; None where it is not told.

    A process inherits its parent's peak in `getrusage`, but not in /proc.
    """
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    sizes = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(sizes[0]) * 1024 if sizes else None
