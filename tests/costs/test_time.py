"""Predicted time: the rates of a machine and of kinds of work, reading and writing, downloads, and
saved states.
"""

import os
from collections import Counter

import pytest

from configs import smoke
from freelunch.core.devices import memory_bytes
from freelunch.costs import machine
from freelunch.costs.cost import (
    ATTENTION,
    ELIMINATION,
    GRAM,
    PASSES,
    SINGLE_ON_GPU,
    SOLVING,
    START_S,
    SWAPS,
    Cost,
    together,
)
from freelunch.costs.jobs import jobs_of
from freelunch.costs.machine import Learnt, Machine, read_gigabytes, read_rate, read_tflops
from freelunch.costs.plan import Plan
from freelunch.costs.retraining_costs import retrain
from freelunch.costs.shapes import Shapes
from freelunch.study.retraining import read_adaptation
from freelunch.study.steps import SAVE_S
from planned import cost_of
from refusals import refused
from tiny_models import tiny_config

MACHINE = Machine(flops_per_s=1e12, disk_per_s=1e9, network_per_s=1e8)
GPU = Machine(1e12, 1e9, 1e8, device_bytes=80 * 10**9)
SHAPES = Shapes.of(tiny_config("llama").to_dict(), "float32")


# --- Machines


def test_a_rate() -> None:
    rates = {"500MB/s": 5e8, "2GB/s": 2e9, "1.5 GB/s": 1.5e9, "800KB/s": 8e5, "7B/s": 7.0}
    assert {text: read_rate(text) for text in rates} == rates
    none = ("", "500", "500MB", "-1MB/s", "0GB/s", "1TB/s", "fast", "1e999B/s", "0.1B/s")
    for text in (*none, "9999999GB/s"):
        with pytest.raises(ValueError, match="such as 500MB/s"):
            read_rate(text)


@pytest.mark.parametrize(("read", "unit"), [(read_gigabytes, 1e9), (read_tflops, 1e12)])
def test_numbers_of_a_device(read: type, unit: float) -> None:
    assert read("80", "here") == read(80, "here") == 80 * unit
    for given in ("many", "", None, 0, -1, "inf", "nan", "1e300", 1e-320, 10**999):
        with refused(where="here", expected="a number from", found=given):
            read(given, "here")


def test_rates_say_where_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e8 < machine.matmul_rate() < 1e14
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


# --- Times


def seconds(machine: Machine = MACHINE, **cost: object) -> float:
    return Cost(**cost).seconds(machine) - START_S  # type: ignore[arg-type]


def test_each_kind_of_work_has_its_rate() -> None:
    for kind in (PASSES, ATTENTION, GRAM, ELIMINATION, SOLVING, SWAPS):
        work = Counter({kind: 10**13})
        assert seconds(work=work) == pytest.approx(10 / kind.share)
        ratio = seconds(GPU, work=work) / seconds(work=work)
        assert ratio == pytest.approx(1 / SINGLE_ON_GPU if kind.single else 1)
    both = Counter({PASSES: 10**13, SOLVING: 10**12})
    assert seconds(work=both) == pytest.approx(10 / PASSES.share + 1 / SOLVING.share)


def test_computing_and_moving_overlap_or_add_up() -> None:
    work = Counter({PASSES: int(6.5e12)})
    moved = {"read_bytes": 4 * 10**9, "written_bytes": 2 * 10**9}
    assert seconds(work=work) == pytest.approx(10)
    assert seconds(**moved) == pytest.approx(6)
    assert seconds(work=work, **moved) == pytest.approx(16)
    assert seconds(work=work, overlaps=True, **moved) == pytest.approx(10)
    assert seconds(overlaps=True, **moved) == pytest.approx(6)
    # A download comes on top; and what is moved alone, as moments between streamed passes.
    assert seconds(downloaded_bytes=10**9, overlaps=True) == pytest.approx(10)
    moved = {"read_bytes": 8 * 10**9, "alone_bytes": 2 * 10**9, "overlaps": True}
    assert seconds(work=work, **moved) == pytest.approx(10 + 4)
    assert seconds(work=work, **moved | {"overlaps": False}) == pytest.approx(10 + 8)


def test_a_long_retraining_saves_its_state() -> None:
    state = 10**10  # Ten seconds each time.
    short, long = (Counter({PASSES: int(0.65e12 * took)}) for took in (SAVE_S - 1, 2 * SAVE_S))
    assert seconds(work=short, saved_bytes=state, saves=9) == pytest.approx(SAVE_S - 1)
    assert seconds(work=long, saved_bytes=state, saves=9) == pytest.approx(2 * (SAVE_S + 10))
    # At most once a step, and not after the last.
    assert seconds(work=long, saved_bytes=state, saves=1) == pytest.approx(2 * SAVE_S + 10)


@pytest.mark.parametrize(
    ("entry", "share"),
    [({"method": "full"}, 1), ({"method": "full", "train_head": True}, 1), ({}, 0)],
)
def test_what_a_streamed_retraining_moves_between_its_passes(
    entry: dict[str, object], share: int
) -> None:
    """Weights, moments and gradients, in float32: twelve bytes and four. A head stays in memory."""
    settings = read_adaptation({"method": "masklora", "batch": 2, "epochs": 3, **entry})
    cost = retrain(SHAPES, 4, 16, settings, streamed=True)
    assert cost.alone_bytes == share * 2 * 3 * 16 * SHAPES.blocks * SHAPES.block_weights
    in_memory = retrain(SHAPES, 4, 16, settings)
    assert in_memory.alone_bytes == 0 and in_memory.saves == cost.saves == 5


# --- Costs


def test_jobs_together() -> None:
    one = Cost(Counter({PASSES: 2}), 500_000_000, read_bytes=1, scratch_bytes=7, disk_bytes=1)
    other = Cost(Counter({PASSES: 1, GRAM: 3}), 400_000_000, read_bytes=2, scratch_bytes=5)
    both = together([one, other])
    assert both.work == {PASSES: 3, GRAM: 3} and both.flops == 6
    assert (both.memory_bytes, both.read_bytes, both.scratch_bytes) == (500_000_000, 3, 7)


def test_memory_of_host_and_device_add_up_to_that_of_a_process() -> None:
    plan = Plan.of(smoke({"study.evaluation.drift": {"samples": 4}}))
    for job in jobs_of(plan.study):
        cost = plan.cost(job)
        assert cost is not None
        alone, apart = cost.memory(device=False), cost.memory(device=True)
        assert alone == (cost.memory_bytes, 0)
        held = cost.memory_bytes - cost.holes_bytes
        assert apart.host - cost.staged_bytes + apart.device == held
        assert (apart.device == 0) == (job.rule == "fetch_model")


@pytest.mark.parametrize("streamed", [False, True])
def test_attention_counts_more_in_longer_sequences(streamed: bool) -> None:
    settings = read_adaptation({"method": "full"})
    short, long = (
        retrain(SHAPES, 64 // length, length, settings, streamed=streamed).work
        for length in (8, 32)
    )
    # The same tokens: attention is proportional to the length of a sequence, and nothing else is.
    assert long[ATTENTION] == pytest.approx(4 * short[ATTENTION], rel=0.2)
    assert long[PASSES] == pytest.approx(short[PASSES], rel=0.2)
    passes = 4 if streamed else 3
    assert long[ATTENTION] == (passes + 2) * SHAPES.attention_flops(64, 32)


def test_kinds_of_work_of_a_study() -> None:
    """Each criterion and adaptation has the kinds of work that it is known for."""
    changes = {
        "criteria.obs": {"score": "sparsegpt"},
        "criteria.swapped": {"score": "wanda", "swaps": 2},
        "adaptations.recon_block": {"method": "least_squares"},
    }
    plan = Plan.of(smoke({**changes, "study.grids.0.criteria": ["wanda", "obs"]}))
    for rule, criterion, expected in (
        ("capture_dense", "wanda", {PASSES, ATTENTION, GRAM}),
        ("prune_model", "wanda", set()),
        ("prune_model", "obs", {ELIMINATION}),
        ("prune_model", "swapped", {SWAPS}),
        ("reconstruct_window", "wanda", {PASSES, ATTENTION, GRAM, SOLVING}),
    ):
        work = cost_of(plan, rule, f"tiny/{criterion}-u50/recon_block/seed0").work
        assert {kind for kind, flops in work.items() if flops} == expected
