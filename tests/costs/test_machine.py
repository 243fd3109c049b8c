"""The machine of a plan: rates that are given, measured or kept, and the memory of a device."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from freelunch.core.devices import memory_bytes
from freelunch.core.errors import UserError
from freelunch.costs import disk, machine
from freelunch.costs.disk import DAYS, disk_rates
from freelunch.costs.machine import Learnt, Machine, read_gigabytes, read_rate, read_tflops


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stand in for the measurement, and note the folders that are measured."""
    folders: list[Path] = []

    def measure(folder: Path) -> tuple[float, float]:
        folders.append(folder)
        return 2e9 * len(folders), 1e9

    monkeypatch.setattr(disk, "_measured", measure)
    return folders


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


def test_the_memory_of_a_device() -> None:
    assert read_gigabytes("80", "here") == read_gigabytes(80, "here") == 80_000_000_000
    for found in ("many", "", None, 0, -1, "inf", "nan", "1e300", 1e-320, 10**999):
        with pytest.raises(UserError, match="number of GB"):
            read_gigabytes(found, "here")


def test_the_rate_of_a_machine() -> None:
    assert read_tflops("400", "here") == 400e12
    for found in ("fast", "", None, 0, -1, "inf", "nan", "1e300", "1e-320", 10**999):
        with pytest.raises(UserError, match="number of TFLOP/s"):
            read_tflops(found, "here")


def test_a_disk_is_measured(tmp_path: Path) -> None:
    """For a second at most: no rate is absurd, and nothing is left.

    In a folder of its own, since tests beside this one write into the repository's.
    """
    read, write = disk._measured(tmp_path)
    assert 1e6 < write < 1e11 and 1e6 < read < 1e12
    assert os.listdir(tmp_path) == []


def test_a_disk_is_measured_once(tmp_path: Path, measured: list[Path]) -> None:
    kept = tmp_path / "notes" / "disk.json"
    for _ in range(3):
        # A folder that is not there yet is on the disk of the one above it.
        assert disk_rates(tmp_path / "not" / "there", kept) == (2e9, 1e9)
    assert measured == [tmp_path]


def test_it_is_measured_again_after_some_days(tmp_path: Path, measured: list[Path]) -> None:
    kept = tmp_path / "disk.json"
    disk_rates(tmp_path, kept)
    noted = json.loads(kept.read_text())
    for entry in noted.values():
        entry["measured"] = time.time() - (DAYS + 1) * 86400
    kept.write_text(json.dumps(noted))
    assert disk_rates(tmp_path, kept) == (4e9, 1e9)


@pytest.mark.parametrize("content", ["", "[]", '{"here": 1}', '{"here": {"read": 1}}', "no JSON"])
def test_damaged_notes_are_measured_again(
    tmp_path: Path, measured: list[Path], content: str
) -> None:
    kept = tmp_path / "disk.json"
    kept.write_text(content)
    assert disk_rates(tmp_path, kept) == disk_rates(tmp_path, kept)
    assert len(measured) == 1


def test_where_nothing_can_be_kept(tmp_path: Path, measured: list[Path]) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        disk_rates(tmp_path, tmp_path / "file" / "disk.json")
    assert len(measured) == 2


def test_a_disk_without_room_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=10**6))
    monkeypatch.setattr(machine, "disk_rates", lambda folder: disk_rates(tmp_path, tmp_path / "k"))
    assert disk_rates(tmp_path, tmp_path / "kept") is None
    assert not list(tmp_path.iterdir())
    assert "assumed, as this disk takes no file" in Machine.of(flops_per_s=1e9).rates[1]


def test_an_assumed_machine_is_the_same_however_busy_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make new` chooses the size of a study by it, so nothing may be measured."""
    monkeypatch.setattr(machine, "disk_rates", None)
    monkeypatch.setattr(machine, "matmul_rate", None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    here = Machine.assumed()
    assert here.flops_per_s == 2 * machine.CORE_FLOPS_PER_S
    assert here.rates == (
        "a matrix product at 100 GFLOP/s assumed for 2 cores",
        "reading at 500 MB/s, writing at 500 MB/s assumed",
        "downloads at 100 MB/s assumed",
    )
    known = Machine.assumed(learnt=Learnt(3e11, 7))
    assert known.flops_per_s == 3e11 and "7 earlier jobs" in known.rates[0]
    assert Machine.assumed(10**10).flops_per_s == machine.GPU_FLOPS_PER_S


def test_rates_say_where_they_come_from(
    monkeypatch: pytest.MonkeyPatch, measured: list[Path]
) -> None:
    monkeypatch.setattr(machine, "disk_rates", lambda folder: (2e9, 5e8))
    monkeypatch.setattr(machine, "matmul_rate", lambda: 1.2e11)
    here = Machine.of()
    assert here.rates == (
        "a matrix product at 120 GFLOP/s on this machine now",
        "reading at 2.0 GB/s, writing at 500 MB/s as measured on this disk",
        "downloads at 100 MB/s assumed",
    )
    assert here.memory_bytes == memory_bytes() and here.device_bytes is None
    other = Machine.of(4e14, 1e9, 2e8, 10**10)
    assert all(rate.endswith("as given") for rate in other.rates)
    assert other.memory_bytes is None, "nothing is known of another machine's memory"
    assert other.device_bytes == 10**10 and other.read_per_s == other.write_per_s == 1e9
