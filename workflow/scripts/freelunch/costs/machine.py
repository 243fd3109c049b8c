"""The machine that a plan is for: its rates and its memory, given or measured here."""

import os
import re
import time
from dataclasses import dataclass
from functools import cache
from math import nan
from pathlib import Path
from typing import NamedTuple

from freelunch.core.devices import memory_bytes
from freelunch.core.errors import UserError
from freelunch.costs.disk import disk_rates

# Where artifacts are written.
_RESULTS = Path("results")
# Bytes per second over the network if nothing is given: nobody wants a plan to download anything.
NETWORK_PER_S = 100e6
# Operations per second of a GPU if nothing is given: few, since jobs ask for time by it.
GPU_FLOPS_PER_S = 50e12
# What `Machine.assumed` takes for one core, in float32, and for the disk.
CORE_FLOPS_PER_S = 50e9
DISK_PER_S = 500e6
# What users may say of a machine: beyond these, a plan's seconds and bytes are no numbers.
SLOWEST_TFLOPS, FASTEST_TFLOPS = 1e-9, 1e6
_LEAST_GB, _MOST_GB = 1e-6, 1e6
_FASTEST_PER_S = 1e15
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}


class Learnt(NamedTuple):
    """What is known of a machine from earlier jobs.

    Attributes:
        flops_per_s: The rate of a large matrix product, estimated from the rate of their passes by
            the ratio that a plan assumes.
        jobs: How many jobs it is estimated from.
    """

    flops_per_s: float
    jobs: int


class _Rate(NamedTuple):
    """A rate per second, and where it comes from."""

    per_s: float
    origin: str


_NETWORK = _Rate(NETWORK_PER_S, "assumed")


@dataclass(frozen=True)
class Machine:
    """A machine, and where what is known of it comes from.

    Attributes:
        flops_per_s: Rate of a large matrix product, in the precision of the models' passes.
        read_per_s: Bytes read from disk per second.
        write_per_s: Bytes written to disk per second.
        network_per_s: Bytes downloaded per second.
        memory_bytes: Memory of the host; None if it is not known.
        device_bytes: Memory of the device that computes; None if the host's processor computes.
        rates: The rates in words, with where they come from.
    """

    flops_per_s: float
    read_per_s: float
    write_per_s: float
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
    ) -> "Machine":
        """Return a machine with these rates, and measure those that are not given on this one.

        Args:
            flops_per_s: Rate of a large matrix product. If it is given, the plan is for another
                machine, whose memory is not known.
            disk_per_s: Bytes per second that the disk reads, and that it writes.
            network_per_s: Bytes per second over the network.
            device_bytes: Memory of the device that computes.
            learnt: The rate of earlier jobs, which is preferred to an assumed or measured one.
        """
        product = _Rate(flops_per_s, "as given") if flops_per_s else _known(device_bytes, learnt)
        if disk_per_s is not None:
            disk, disk_origin = (disk_per_s, disk_per_s), "as given"
        elif (measured := disk_rates(_RESULTS)) is not None:
            disk, disk_origin = measured, "as measured on this disk"
        else:
            disk, disk_origin = (DISK_PER_S, DISK_PER_S), "assumed, as this disk takes no file"
        return cls._at(
            product or _Rate(matmul_rate(), "on this machine now"),
            disk,
            disk_origin,
            _Rate(network_per_s, "as given") if network_per_s else _NETWORK,
            None if flops_per_s else memory_bytes(),
            device_bytes,
        )

    @classmethod
    def assumed(cls, device_bytes: int | None = None, learnt: Learnt | None = None) -> "Machine":
        """Return this machine without measuring anything, so that it is the same however busy the
        machine is. A rate that is not known is assumed.

        Args:
            device_bytes: As `of` takes it.
            learnt: As `of` takes it.
        """
        cores = len(os.sched_getaffinity(0))
        said = f"assumed for {cores} core{'s' if cores > 1 else ''}"
        return cls._at(
            _known(device_bytes, learnt) or _Rate(cores * CORE_FLOPS_PER_S, said),
            (DISK_PER_S, DISK_PER_S),
            "assumed",
            _NETWORK,
            memory_bytes(),
            device_bytes,
        )

    @classmethod
    def _at(
        cls,
        product: _Rate,
        disk: tuple[float, float],
        disk_origin: str,
        network: _Rate,
        memory: int | None,
        device_bytes: int | None,
    ) -> "Machine":
        read, write = disk
        rates = (
            f"a matrix product at {_flops_text(product.per_s)} {product.origin}",
            f"reading at {rate_text(read)}, writing at {rate_text(write)} {disk_origin}",
            f"downloads at {rate_text(network.per_s)} {network.origin}",
        )
        return cls(product.per_s, read, write, network.per_s, memory, device_bytes, rates)


def _known(device_bytes: int | None, learnt: Learnt | None) -> _Rate | None:
    """Return the rate of a matrix product that is known without a measurement; None if none is."""
    if learnt:
        said = f"estimated from the time of {learnt.jobs} earlier jobs"
        return _Rate(learnt.flops_per_s, said)
    return None if device_bytes is None else _Rate(GPU_FLOPS_PER_S, "assumed")


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
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([KMG]?)B/s", text.strip())
    rate = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 1 <= rate <= _FASTEST_PER_S:
        raise ValueError(f"expected a rate such as 500MB/s or 2GB/s, found {text!r}")
    return rate


def read_gigabytes(found: object, where: str) -> int:
    """Return the bytes of a number of GB (1e9 bytes), such as a device has.

    Raises:
        UserError: It is no number that the memory of a device may have.
    """
    gigabytes = number_in(found)
    if not _LEAST_GB <= gigabytes <= _MOST_GB:
        raise UserError(
            "the memory of a device is a number of GB",
            where=where,
            found=found,
            expected=f"a number from {_LEAST_GB:g} to {_MOST_GB:g}, such as 80",
        )
    return int(gigabytes * 1e9)


def read_tflops(found: object, where: str) -> float:
    """Return the operations per second of a number of TFLOP/s.

    Raises:
        UserError: It is no number that the rate of a machine may have.
    """
    if not SLOWEST_TFLOPS <= (tflops := number_in(found)) <= FASTEST_TFLOPS:
        raise UserError(
            "the rate of a matrix product is a number of TFLOP/s",
            where=where,
            found=found,
            expected=f"a number from {SLOWEST_TFLOPS:g} to {FASTEST_TFLOPS:g}, such as 400",
        )
    return tflops * 1e12


def number_in(found: object) -> float:
    """Return what a user gives as a number; NaN, which is in no range, if it is none."""
    try:
        return float(found)  # type: ignore[arg-type]
    except (OverflowError, TypeError, ValueError):
        return nan


def rate_text(per_s: float) -> str:
    """Return bytes per second in words."""
    return f"{per_s / 1e9:,.1f} GB/s" if per_s >= 1e9 else f"{per_s / 1e6:,.0f} MB/s"


def _flops_text(per_s: float) -> str:
    return f"{per_s / 1e9:,.0f} GFLOP/s" if per_s < 1e12 else f"{per_s / 1e12:,.0f} TFLOP/s"
