"""The machine of a plan: rates that are given, learnt, measured or assumed; a device's memory."""

import os

import pytest

from freelunch.core.devices import memory_bytes
from freelunch.costs import machine
from freelunch.costs.machine import Learnt, Machine, read_gigabytes, read_rate, read_tflops
from refusals import refused


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500MB/s", 5e8), ("2GB/s", 2e9), ("1.5 GB/s", 1.5e9), ("800KB/s", 8e5), ("7B/s", 7.0)],
)
def test_a_rate(text: str, expected: float) -> None:
    assert read_rate(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "500", "500MB", "-1MB/s", "0GB/s", "1TB/s", "fast", "1e999B/s", "0.1B/s", "9999999GB/s"],
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="such as 500MB/s"):
        read_rate(text)


@pytest.mark.parametrize(("read", "unit"), [(read_gigabytes, 1e9), (read_tflops, 1e12)])
def test_numbers_of_a_device(read: type, unit: float) -> None:
    assert read("80", "here") == read(80, "here") == 80 * unit
    for given in ("many", "", None, 0, -1, "inf", "nan", "1e300", 1e-320, 10**999):
        with refused(where="here", expected="a number from", found=given):
            read(given, "here")


def test_rates_say_where_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "matmul_rate", lambda: 1.2e11)
    here = Machine.of()
    assert here.rates == (
        "a matrix product at 120 GFLOP/s on this machine now",
        "reading and writing at 500 MB/s assumed",
        "downloads at 100 MB/s assumed",
    )
    assert here.memory_bytes == memory_bytes() and here.device_bytes is None
    other = Machine.of(4e14, 1e9, 2e8, 10**10)
    assert all(rate.endswith("as given") for rate in other.rates)
    assert other.memory_bytes is None, "nothing is known of another machine's memory"
    assert (other.device_bytes, other.disk_per_s) == (10**10, 1e9)
    known = Machine.of(learnt=Learnt(3e11, 7))
    assert known.flops_per_s == 3e11 and "7 earlier jobs" in known.rates[0]
    assert Machine.of(device_bytes=10**10).flops_per_s == machine.GPU_FLOPS_PER_S


def test_an_assumed_machine_is_the_same_however_busy_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make new` chooses the size of a study by it, so nothing may be measured."""
    monkeypatch.setattr(machine, "matmul_rate", None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    here = Machine.of(measures=False)
    assert here.flops_per_s == 2 * machine.CORE_FLOPS_PER_S
    assert here.rates[0] == "a matrix product at 100 GFLOP/s assumed for 2 cores"


def test_a_matrix_product_is_measured() -> None:
    assert 1e8 < machine.matmul_rate() < 1e14
