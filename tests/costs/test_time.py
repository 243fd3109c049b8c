"""Predicted time: rates of kinds of work, reading and writing, downloads, saved states."""

from collections import Counter

import pytest

from configs import smoke
from freelunch.costs.jobs import jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.retraining import retrain
from freelunch.costs.shapes import Shapes
from freelunch.costs.work import (
    ATTENTION,
    ELIMINATION,
    GRAM,
    PASSES,
    SAVE_S,
    SINGLE_ON_GPU,
    SOLVING,
    START_S,
    SWAPS,
    Cost,
    together,
)
from freelunch.study.retraining import read_adaptation
from planned import cost_of
from tiny_models import tiny_config

MACHINE = Machine(flops_per_s=1e12, disk_per_s=1e9, network_per_s=1e8)
GPU = Machine(1e12, 1e9, 1e8, device_bytes=80 * 10**9)


def seconds(machine: Machine = MACHINE, **cost: object) -> float:
    return Cost(**cost).seconds(machine) - START_S  # type: ignore[arg-type]


def test_each_kind_of_work_has_its_rate() -> None:
    for kind in (PASSES, ATTENTION, GRAM, ELIMINATION, SOLVING, SWAPS):
        assert seconds(work=Counter({kind: 10**13})) == pytest.approx(10 / kind.share)
    both = Counter({PASSES: 10**13, SOLVING: 10**12})
    assert seconds(work=both) == pytest.approx(10 / PASSES.share + 1 / SOLVING.share)


def test_single_precision_is_slower_on_a_device() -> None:
    for kind in (PASSES, GRAM, ELIMINATION, SOLVING):
        work = Counter({kind: 10**13})
        ratio = seconds(GPU, work=work) / seconds(work=work)
        assert ratio == pytest.approx(1 / SINGLE_ON_GPU if kind.single else 1)


def test_computing_and_moving_overlap_or_add_up() -> None:
    work = Counter({PASSES: int(6.5e12)})
    moved = {"read_bytes": 4 * 10**9, "written_bytes": 2 * 10**9}
    assert seconds(work=work) == pytest.approx(10)
    assert seconds(**moved) == pytest.approx(6)
    assert seconds(work=work, **moved) == pytest.approx(16)
    assert seconds(work=work, overlaps=True, **moved) == pytest.approx(10)
    assert seconds(overlaps=True, **moved) == pytest.approx(6)


def test_a_download_comes_on_top() -> None:
    assert seconds(downloaded_bytes=10**9, overlaps=True) == pytest.approx(10)


def test_a_long_retraining_saves_its_state() -> None:
    state = 10**10  # Ten seconds each time.
    short, long = (Counter({PASSES: int(0.65e12 * took)}) for took in (SAVE_S - 1, 2 * SAVE_S))
    assert seconds(work=short, saved_bytes=state, saves=9) == pytest.approx(SAVE_S - 1)
    assert seconds(work=long, saved_bytes=state, saves=9) == pytest.approx(2 * (SAVE_S + 10))
    # At most once a step, and not after the last.
    assert seconds(work=long, saved_bytes=state, saves=1) == pytest.approx(2 * SAVE_S + 10)


def test_what_is_moved_alone_comes_on_top() -> None:
    """Streamed, gradients and the optimiser's moments of `full` are moved between passes."""
    work = Counter({PASSES: int(6.5e12)})
    moved = {"read_bytes": 8 * 10**9, "alone_bytes": 2 * 10**9, "overlaps": True}
    assert seconds(work=work, **moved) == pytest.approx(10 + 4)
    assert seconds(work=work, **moved | {"overlaps": False}) == pytest.approx(10 + 8)


@pytest.mark.parametrize(("method", "share"), [("full", 1.0), ("masklora", 0.0)])
def test_what_a_streamed_retraining_moves_between_its_passes(method: str, share: float) -> None:
    """Weights, moments and gradients, in float32: twelve bytes and four."""
    shapes = Shapes.of(tiny_config("llama").to_dict(), "float32")
    settings = read_adaptation({"method": method, "batch": 2, "epochs": 3})
    cost = retrain(shapes, 4, 16, settings, streamed=True)
    moved = 2 * 3 * 16 * shapes.blocks * shapes.block_weights * share
    assert cost.alone_bytes == moved
    assert cost.saves == 5
    in_memory = retrain(shapes, 4, 16, settings)
    assert in_memory.alone_bytes == 0 and in_memory.saves == 5


def test_a_trained_head_stays_in_memory() -> None:
    shapes = Shapes.of(tiny_config("llama").to_dict(), "float32")
    entries = ({"method": "full", "batch": 2, "train_head": head} for head in (False, True))
    without, with_head = (
        retrain(shapes, 4, 16, read_adaptation(entry), streamed=True).alone_bytes
        for entry in entries
    )
    assert without == with_head > 0


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
        assert apart.host - cost.staged_bytes + apart.device == cost.memory_bytes
        assert (apart.device == 0) == (job.rule == "fetch_model")


@pytest.mark.parametrize("streamed", [False, True])
def test_attention_counts_more_in_longer_sequences(streamed: bool) -> None:
    shapes = Shapes.of(tiny_config("llama").to_dict(), "float32")
    settings = read_adaptation({"method": "full"})
    short, long = (
        retrain(shapes, 64 // length, length, settings, streamed=streamed).work
        for length in (8, 32)
    )
    # The same tokens: attention is proportional to the length of a sequence, and nothing else is.
    assert long[ATTENTION] == pytest.approx(4 * short[ATTENTION], rel=0.2)
    assert long[PASSES] == pytest.approx(short[PASSES], rel=0.2)
    passes = 4 if streamed else 3
    once = shapes.attention_flops(64, 32)
    assert long[ATTENTION] == passes * once + 2 * once


def test_kinds_of_work_of_a_study() -> None:
    """Each criterion and adaptation has the kinds of work that it is known for."""
    changes = {
        "criteria.obs": {"score": "sparsegpt"},
        "criteria.swapped": {"score": "wanda", "swaps": 2},
        "adaptations.recon_block": {"method": "least_squares"},
    }
    plan = Plan.of(smoke({**changes, "study.grids.0.criteria": ["wanda", "obs"]}))

    def kinds(rule: str, criterion: str = "wanda") -> set[object]:
        cost = cost_of(plan, rule, f"tiny/{criterion}-u50/recon_block/seed0")
        return {kind for kind, flops in cost.work.items() if flops}

    assert kinds("capture_dense") == {PASSES, ATTENTION, GRAM}
    assert kinds("prune_model") == set()
    assert kinds("prune_model", "obs") == {ELIMINATION}
    assert kinds("prune_model", "swapped") == {SWAPS}
    assert kinds("reconstruct_window") == {PASSES, ATTENTION, GRAM, SOLVING}
