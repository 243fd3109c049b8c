"""The machine that a plan is for: its rates and its memory, given, learnt, measured or assumed."""

import os
import re
import time
from dataclasses import dataclass
from functools import cache
from math import nan
from typing import NamedTuple

from freelunch.core.devices import memory_bytes
from freelunch.core.errors import UserError

# Bytes per second of the network and of the disk if nothing is given.
NETWORK_PER_S, DISK_PER_S = 100e6, 500e6
# Operations per second of a GPU if nothing is given: few, since jobs ask for time by it.
GPU_FLOPS_PER_S = 50e12
# What one core is assumed to compute in float32, where nothing may be measured.
CORE_FLOPS_PER_S = 50e9
# What users may say of a machine: beyond these, a plan's seconds and bytes are no numbers.
SLOWEST_TFLOPS, FASTEST_TFLOPS = 1e-9, 1e6
_LEAST_GB, _MOST_GB = 1e-6, 1e6
_FASTEST_PER_S = 1e15
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}


class Learnt(NamedTuple):
    """The rate of a large matrix product, in operations per second, estimated from the passes of so
    many earlier jobs by the ratio that a plan assumes.
    """

    flops_per_s: float
    jobs: int


@dataclass(frozen=True)
class Machine:
    """A machine, and where what is known of it comes from.

    Attributes:
        flops_per_s: Rate of a large matrix product, in the precision of the models' passes.
        disk_per_s: Bytes per second that the disk reads, and that it writes.
        network_per_s: Bytes downloaded per second.
        memory_bytes: Memory of the host; None if it is not known.
        device_bytes: Memory of the device that computes; None if the host's processor computes.
        rates: The rates in words, with where they come from.
    """

    flops_per_s: float
    disk_per_s: float
    network_per_s: float
    memory_bytes: int | None = None
    device_bytes: int | None = None
    rates: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        flops_per_s: float | None = None,
        disk_per_s: float | None = None,
        network_per_s: float | None = None,
        device_bytes: int | None = None,
        learnt: Learnt | None = None,
        *,
        measures: bool = True,
    ) -> "Machine":
        """Return a machine with these rates and this device; None for what is not given.

        With a rate of matrix products, the plan is for another machine, whose memory is not known.
        Otherwise, the rate of earlier jobs is preferred to an assumed or measured one.

        Args:
            measures: Whether the rate of this machine's processor is measured if it is not known.
                If not, the machine is the same however busy it is.
        """
        cores = len(os.sched_getaffinity(0))
        if flops_per_s:
            flops, source = flops_per_s, "as given"
        elif learnt:
            flops = learnt.flops_per_s
            source = f"estimated from the time that {learnt.jobs} earlier jobs computed"
        elif device_bytes is not None:
            flops, source = GPU_FLOPS_PER_S, "assumed"
        elif measures:
            flops, source = matmul_rate(), "on this machine now"
        else:
            flops = cores * CORE_FLOPS_PER_S
            source = f"assumed for {cores} core{'s' if cores > 1 else ''}"
        disk, network = disk_per_s or DISK_PER_S, network_per_s or NETWORK_PER_S
        in_words = f"{flops / 1e9:,.0f} GFLOP/s" if flops < 1e12 else f"{flops / 1e12:,.0f} TFLOP/s"
        rates = (
            f"a matrix product at {in_words} {source}",
            f"reading and writing at {_rate_text(disk)} {'as given' if disk_per_s else 'assumed'}",
            f"downloads at {_rate_text(network)} {'as given' if network_per_s else 'assumed'}",
        )
        memory = None if flops_per_s else memory_bytes()
        return cls(flops, disk, network, memory, device_bytes, rates)


def _rate_text(per_s: float) -> str:
    return f"{per_s / 1e9:,.1f} GB/s" if per_s >= 1e9 else f"{per_s / 1e6:,.0f} MB/s"


@cache
def matmul_rate() -> float:
    """Measure a float32 matrix product on this machine; return operations per second."""
    import numpy as np

    matrix = np.ones((1024, 1024), dtype=np.float32)
    matrix @ matrix
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        matrix @ matrix
        best = max(best, 2 * 1024**3 / (time.perf_counter() - start))
    return best


def read_rate(text: str) -> float:
    """Return the bytes per second that a text such as `500MB/s` says; ValueError if it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([KMG]?)B/s", text.strip())
    rate = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 1 <= rate <= _FASTEST_PER_S:
        raise ValueError(f"expected a rate such as 500MB/s or 2GB/s, found {text!r}")
    return rate


def read_gigabytes(given: object, where: str) -> int:
    """Return the bytes of a number of GB (1e9 bytes); UserError if no device can have them."""
    problem = "the memory of a device is a number of GB"
    return int(_number_between(given, _LEAST_GB, _MOST_GB, problem, where, 80) * 1e9)


def read_tflops(given: object, where: str) -> float:
    """Return the operations per second of a number of TFLOP/s; UserError if no machine can have
    them.
    """
    problem = "the rate of a matrix product is a number of TFLOP/s"
    return _number_between(given, SLOWEST_TFLOPS, FASTEST_TFLOPS, problem, where, 400) * 1e12


def _number_between(
    given: object, least: float, most: float, problem: str, where: str, example: int
) -> float:
    try:
        number = float(given)  # type: ignore[arg-type]
    except (OverflowError, TypeError, ValueError):
        # In no range.
        number = nan
    if not least <= number <= most:
        expected = f"a number from {least:g} to {most:g}, such as {example}"
        raise UserError(problem, where=where, found=given, expected=expected)
    return number
