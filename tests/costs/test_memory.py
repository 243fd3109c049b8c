"""Planned memory: what `auto` decides by it, which jobs fit a machine, and what it consists of."""

import re
from pathlib import Path
from typing import Any

import pytest

from configs import QWEN_72B, smoke
from freelunch.core.errors import UserError
from freelunch.costs.checks import misfits
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan, decide_residency, decide_window
from freelunch.costs.plan_text import plan_text
from freelunch.costs.retraining_costs import PlannedRetraining, retrain
from freelunch.costs.shapes import Shapes
from freelunch.costs.window_costs import reconstruct
from freelunch.study.adaptations import Reconstruction
from freelunch.study.retraining import read_adaptation
from freelunch.study.study import Study
from planned import MACHINE, line_of
from refusals import refused

LARGE = Path("studies/large.yaml")
GB = 10**9
SHAPES = Shapes.of(QWEN_72B, "bfloat16")
BLOCK = SHAPES.block_weights
SAMPLE = 8, 256
# One small block, and so many words that nothing but logits counts.
_SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}
MANY_WORDS = Shapes.of(QWEN_72B | _SMALL | _HEADS | {"vocab_size": 10**6}, "bfloat16")


def windows_of(**settings: Any) -> Reconstruction:
    found: Reconstruction = read_adaptation({"method": "reconstruction", **settings})
    return found


def machine_of(device_gb: int | None = None, memory_gb: int | None = None) -> Machine:
    sizes = (None if size is None else size * GB for size in (memory_gb, device_gb))
    return Machine(4e14, 2e9, 1e8, *sizes)


def problems(
    study: Study, device_gb: int | None = None, memory_gb: int | None = None
) -> dict[tuple[str, str], str]:
    """Return what does not fit a machine, by the adaptation or the rule and the model."""
    machine = machine_of(device_gb, memory_gb)
    found = misfits(Plan.of(study, machine.device_bytes), machine)
    return {(each.name, each.model): each.problem for each in found}


# --- What `auto` decides


def test_auto_takes_the_largest_window_that_fits() -> None:
    needs = {
        window: reconstruct(SHAPES, *SAMPLE, windows_of(window=window)).memory_bytes
        for window in ("attention_mlp", 1, 2, 3, "all")
    }
    assert sorted(needs.values()) == list(needs.values()), "a larger window needs more"
    for window, needed in needs.items():
        budget = windows_of(window="auto", memory_gb=needed / 1e9)
        found, why = decide_window(SHAPES, *SAMPLE, budget)
        assert found == window and f"window {window} needs" in str(why)
        assert window == "all" or re.search(r"; window \d+ would need", str(why))
    budget = windows_of(window="auto", memory_gb=0.999 * needs["attention_mlp"] / 1e9)
    with refused(where="memory_gb", expected="attention_mlp", todo="`train_norms: false`"):
        # Norms are trained, so that matrices are no way out.
        decide_window(SHAPES, *SAMPLE, budget)
    matrices = budget.model_copy(update={"train_norms": False})
    assert decide_window(SHAPES, *SAMPLE, matrices)[0] == "matrix"
    assert decide_window(SHAPES, *SAMPLE, windows_of(window=3)) == (3, None)


@pytest.mark.parametrize("length", [256, 304, 336, 352, 384])
def test_the_budget_that_is_advised_is_enough(length: int) -> None:
    with pytest.raises(UserError) as error:
        decide_window(SHAPES, 8, length, windows_of(window="auto", memory_gb=1))
    (advised,) = re.findall(r"at least ([\d.]+) GB", str(error.value.expected))
    assert decide_window(SHAPES, 8, length, windows_of(window="auto", memory_gb=float(advised)))


@pytest.mark.parametrize(
    "changes", [{"model_type": "stablelm"}, {"model_type": "opt", "do_layer_norm_before": False}]
)
def test_auto_takes_no_half_that_the_family_cannot_have(changes: dict[str, Any]) -> None:
    shapes = Shapes.of({**QWEN_72B, **changes}, "bfloat16")
    half, block = (
        reconstruct(shapes, *SAMPLE, windows_of(window=window)).memory_bytes
        for window in ("attention_mlp", 1)
    )
    budget = windows_of(window="auto", memory_gb=(half + block) / 2e9, train_norms=False)
    assert decide_window(shapes, *SAMPLE, budget)[0] == "matrix"


def test_the_smaller_of_budget_and_device_decides() -> None:
    settings = windows_of(window="auto", memory_gb=60)
    for device, name in ((None, " 60 GB"), (70 * GB, " 60 GB"), (30 * GB, " the device's 30 GB")):
        window, why = decide_window(SHAPES, *SAMPLE, settings, device)
        assert f" of{name}" in str(why)
        fits, not_fits = (
            reconstruct(SHAPES, *SAMPLE, settings.model_copy(update={"window": int(window) + more}))
            for more in (0, 1)
        )
        if device == 30 * GB:
            assert fits.memory(device=True).device <= device < not_fits.memory(device=True).device
        else:
            assert fits.memory_bytes <= 60 * GB < not_fits.memory_bytes


def test_residency_follows_the_device() -> None:
    settings = read_adaptation({"method": "masklora"})
    whole = retrain(SHAPES, *SAMPLE, settings).memory(device=True).device
    for device, streamed in ((whole, False), (whole - 1, True), (1, True)):
        assert decide_residency(SHAPES, *SAMPLE, settings, device)[0] is streamed
        # A search over epochs, whose memory is that of each of them.
        for method in ("masklora", "full"):
            once, search = (
                read_adaptation({"method": method, "epochs": epochs}) for epochs in (1, [1, 2])
            )
            found, expected = (
                decide_residency(SHAPES, *SAMPLE, each, device) for each in (search, once)
            )
            assert found == expected
    budget = settings.model_copy(update={"memory_gb": 1.0})
    with refused(where="memory_gb", found="1 GB", expected="at least", todo="micro_batch"):
        decide_residency(SHAPES, *SAMPLE, budget, whole)


def test_the_plan_says_what_was_decided_and_why() -> None:
    large = Study.load(LARGE)
    streamed, held = (20, 3, "streamed"), ((24, 3, "model"), (40, 6, "model"), (80, 13, "model"))
    for size, window, residency in (streamed, *held):
        plan = Plan.of(large, size * GB)
        assert plan.window("llama-3.1-8b", "recon_auto")[0] == window
        found = line_of(plan_text(plan, machine_of(size)), "llama-3.1-8b", "masklora")
        assert found.split()[2] == residency and f"of the device's {size}.0 GB" in found
    # Its own budget is smaller than this device.
    assert Plan.of(large, 800 * GB).window("llama-3.1-8b", "recon_auto")[0] == 13
    # The budget is of memory, which a search over epochs does not change.
    rows = set()
    for epochs in (1, [1, 2]):
        entry = {"method": "reconstruction", "window": "auto", "memory_gb": 4, "epochs": epochs}
        plan = Plan.of(smoke({"adaptations.recon_block": entry}))
        row = line_of(plan_text(plan, MACHINE), "tiny", "recon_block")
        assert "of 4 GB" in row and row.split()[2] == "all"
        rows.add(row.partition("window")[2])
    assert len(rows) == 1


# --- What does not fit


def test_what_does_not_fit_and_what_needs_less() -> None:
    study, whole = Study.load(LARGE), "qwen2.5-72b"
    has = "does not fit: needs {} GB, the device has {} GB"
    assert problems(study, 80)["recon_5", whole].startswith(f"{has.format('93.6', 80)}; a smaller")
    assert ("recon_5", whole) not in problems(study, 100)
    assert problems(study, 10)["evaluate_cell", whole] == has.format("10.1", 10)
    tiny = problems(study, 3)
    assert ("recon_auto", whole) in tiny and "`micro_batch`" in tiny["masklora", whole]
    # Without a device, the machine's own memory counts; nothing is known of another machine's.
    found = problems(study, memory_gb=40)["recon_5", whole]
    assert "this machine has 40 GB; a smaller `window`" in found
    assert problems(study) == {}


# --- What stands in memory at once


def test_a_batch_is_never_larger_than_the_sample_and_one_matrix_at_a_time_is_solved() -> None:
    needs = [reconstruct(SHAPES, *SAMPLE, windows_of(batch=batch)) for batch in (8, 64)]
    assert needs[0].memory_bytes == needs[1].memory_bytes
    wide = 29568
    solving = 8 * (2 * wide**2 + 4 * wide * 8192)
    settings = read_adaptation({"method": "least_squares"})
    assert solving < reconstruct(SHAPES, *SAMPLE, settings).memory_bytes < 1.5 * solving


def planned(streamed: bool, blocks: int = 3, vocabulary: int = 1000, **entry: Any) -> int:
    """Return the planned memory of a model of wide blocks, in bytes; sequences are short."""
    sizes = {"num_hidden_layers": blocks, "vocab_size": vocabulary}
    shapes = Shapes.of(QWEN_72B | sizes, "bfloat16")
    return PlannedRetraining(shapes, 4, 16, read_adaptation(entry), streamed).memory_bytes()


def test_several_micro_batches_of_full_hold_copies_beside_gradients() -> None:
    """In the precision of the passes, which is bfloat16 here."""
    entry = {"method": "full"}
    whole, parts = (planned(False, blocks=20, **entry, micro_batch=micro) for micro in (4, 1))
    assert 0.9 * 2 * 20 * BLOCK < parts - whole < 2 * 20 * BLOCK
    single = {**entry, "precision": "float32"}
    assert planned(False, **single, micro_batch=1) <= planned(False, **single, micro_batch=4)


def test_a_streamed_model_holds_the_next_block_and_no_logits_beside_it() -> None:
    # Two bytes a weight and one of its mask; adapters of a second block are small.
    for method, each in (("masklora", 2 + 1), ("full", 4 + 2 + 1)):
        one, two = (planned(True, blocks=blocks, method=method) for blocks in (1, 2))
        assert each * BLOCK <= two - one < 1.1 * each * BLOCK
    few, many = (planned(True, vocabulary=words, method="norms") for words in (1000, 100_000))
    # Only the embedding and the head grow.
    assert many - few == 2 * 2 * 99_000 * QWEN_72B["hidden_size"]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_distillation_holds_logits_of_the_teacher_too(streamed: bool) -> None:
    """Three arrays as large as the logits of 2 sequences of 16 tokens, in float32."""
    entries = ({"method": "norms", "batch": 2}, {"loss": "distillation"})
    plain, distilled = (
        PlannedRetraining(MANY_WORDS, 4, 16, read_adaptation(entry), streamed).memory_bytes()
        for entry in (entries[0], entries[0] | entries[1])
    )
    assert distilled - plain == 3 * 4 * (2 * 16) * 10**6


def test_a_training_keeps_its_last_state_while_it_writes_the_next() -> None:
    cost = retrain(MANY_WORDS, 4, 16, read_adaptation({"method": "full", "epochs": 2}))
    assert cost.scratch_bytes == 2 * cost.saved_bytes > 0
