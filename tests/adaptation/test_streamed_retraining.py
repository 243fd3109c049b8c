"""Retraining with one block in memory at a time equals retraining in memory, bit for bit."""

import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freelunch.adaptation.retraining import state_on_disk, trainee
from freelunch.core.artifact import MANIFEST
from freelunch.core.errors import UserError
from freelunch.study.methods import METHODS
from interrupts import Interrupt, interrupted, stop_at
from tiny_models import (
    CROSSED,
    OTHERS,
    SEQUENCES,
    Prepared,
    prepare,
    retrain,
    retrained_facts,
    retraining_entry,
    shards,
)


def is_equal(prepared: Prepared, folder: Path, **settings: Any) -> None:
    """Check that both ways leave the same files, losses included."""
    expected = retrain(prepared, folder / "in memory", **settings)
    found = retrain(prepared, folder / "streamed", streamed=True, **settings)
    assert shards(found) == shards(expected)
    manifests = [(folder / name / MANIFEST).read_bytes() for name in ("in memory", "streamed")]
    assert manifests[0] == manifests[1]
    assert {path.suffix for path in folder.glob(".*")} <= {".checked"}


def test_an_interrupted_step_leaves_the_last_saved_state(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of `full` writes block after block; it may be killed between two of them."""
    expected = retrain(llama, tmp_path / "whole", "full", epochs=2)
    folder = tmp_path / "resumed"
    step_, moved = state_on_disk.move_, []

    def stop(*args: Any) -> None:
        moved.append(args)
        if len(moved) == 20:
            raise Interrupt
        step_(*args)

    with monkeypatch.context() as patched:
        patched.setattr(state_on_disk, "move_", stop)
        interrupted(lambda: retrain(llama, folder, "full", save_s=0, streamed=True, epochs=2))
    assert shards(retrain(llama, folder, "full", streamed=True, epochs=2)) == shards(expected)


# The model, what changes in its config, and the entry.
STREAMED: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    *(
        ("opt", "float32", {}, retraining_entry(method, **changes))
        for method in METHODS
        for changes in (
            {"epochs": 2, "clip": 0.1},
            {"batch": 4, "micro_batch": 3, "clip": None},
            {"batch": 4, "micro_batch": 1, "optimiser": "sgd", "learning_rate": 0.1},
            {"loss": "distillation", "batch": 3},
            {"gradient_checkpointing": True},
        )
    ),
    *(
        (family, "float32", {}, retraining_entry(method, batch=4, micro_batch=2))
        for family in CROSSED
        for method in ("full", "masklora", "lora_prune")
        if family != "opt"
    ),
    # Each method in several families.
    *(
        (family, "float32", {}, retraining_entry(method, batch=4, micro_batch=2))
        for first, family in enumerate(OTHERS)
        for second, method in enumerate(METHODS)
        if (first + second) % 3 == 0 and (method != "biases" or family in ("gpt_neox", "bloom"))
    ),
    *(
        ("llama", "float32", {}, retraining_entry("lora", dropout=0.3, **changes))
        for changes in (
            {},
            {"batch": 4, "micro_batch": 2, "gradient_checkpointing": True},
            {"train_head": True},
        )
    ),
    *(
        ("llama", "float32", {}, retraining_entry(method, train_head=True, micro_batch=1))
        for method in ("full", "masklora")
    ),
    # Gradients of the two places where a head that is the embedding is used add up in one order.
    (
        *("llama", "float32", {"tie_word_embeddings": True}),
        {"method": "full", "train_head": True, "batch": 4, "micro_batch": 1},
    ),
    *(
        ("gemma2", "bfloat16", {}, retraining_entry(method, precision=precision, micro_batch=1))
        for method in ("full", "masklora", "lora", "norms")
        for precision in ("float32", "bfloat16")
    ),
]


@pytest.mark.parametrize(("family", "dtype", "changes", "entry"), STREAMED, ids=str)
def test_streamed_equals_in_memory(
    prepare_once: Callable[..., Prepared],
    tmp_path: Path,
    family: str,
    dtype: str,
    changes: dict[str, Any],
    entry: dict[str, Any],
) -> None:
    prepared = prepare_once(family, dtype, sequences=SEQUENCES, **changes)
    is_equal(prepared, tmp_path, **entry)


def test_a_diverged_candidate_stays_as_it_was_pruned(llama: Prepared, tmp_path: Path) -> None:
    settings = {"learning_rate": 1e30, "warmup": 0.0, "clip": None, "stop_at_divergence": False}
    is_equal(llama, tmp_path, method="full", **settings)


def test_a_model_in_which_nothing_is_trained(llama: Prepared, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trains nothing in this model"):
        retrain(llama, tmp_path / "adapted", "biases")


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "absent"])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_damaged_file_of_a_state_is_an_error(
    llama: Prepared, damage: str, streamed: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "resumed"
    interrupted(lambda: retrain(llama, folder, "full", report=stop_at(2), save_s=0, streamed=True))
    for path in (tmp_path / ".resumed.state.files").glob("[01]/000.safetensors"):
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content if damage == "a flipped bit" else content[:-3])
        if damage == "absent":
            path.unlink()
    with pytest.raises(UserError, match="state of an interrupted training is damaged"):
        retrain(llama, folder, "full", streamed=streamed)


def test_what_no_state_needs_may_be_gone(llama: Prepared, tmp_path: Path) -> None:
    """The slot that the next step writes, and gradients; or broken by a power cut."""
    expected = retrain(llama, tmp_path / "whole", "full")
    folder = tmp_path / "resumed"
    interrupted(lambda: retrain(llama, folder, "full", report=stop_at(2), save_s=0, streamed=True))
    files = tmp_path / ".resumed.state.files"
    shutil.rmtree(files / "1")
    for path in (files / "gradients").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    assert shards(retrain(llama, folder, "full", streamed=True)) == shards(expected)


@pytest.mark.parametrize("method", ["full", "norms"])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_state_goes_on_in_another_residency(
    llama: Prepared, method: str, optimiser: str, streamed: bool, tmp_path: Path
) -> None:
    """Nothing of it is left in the end."""
    settings = {"method": method, "optimiser": optimiser, "epochs": 2}
    expected = retrain(llama, tmp_path / "whole", **settings)
    folder, seen = tmp_path / "resumed", list[int]()
    for step, this in ((2, streamed), (4, not streamed), (5, streamed)):
        report = stop_at(step, seen)
        interrupted(
            lambda report=report, this=this: retrain(
                llama, folder, report=report, save_s=0, streamed=this, **settings
            )
        )
    found = retrain(
        llama, folder, report=stop_at(0, seen), save_s=0, streamed=not streamed, **settings
    )
    assert seen == [1, 2, 2, 3, 4, 4, 5, 5, 6]
    assert shards(found) == shards(expected)
    assert {path.suffix for path in tmp_path.glob(".*")} <= {".checked"}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_trained_head_goes_on(tied: bool, streamed: bool, tmp_path: Path) -> None:
    """A head that is the embedding stays so: both are trained, and one of them is stored."""
    prepared = prepare(tmp_path / "m", "llama", sequences=SEQUENCES, tie_word_embeddings=tied)
    settings: dict[str, Any] = {"method": "full", "train_head": True, "epochs": 2}
    expected = retrain(prepared, tmp_path / "whole", **settings)
    folder = tmp_path / "resumed"
    interrupted(
        lambda: retrain(
            prepared, folder, report=stop_at(2), save_s=0, streamed=streamed, **settings
        )
    )
    found = retrain(prepared, folder, streamed=not streamed, **settings)
    assert shards(found) == shards(expected)


def test_a_full_disk_is_refused_before_the_first_step(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = state_on_disk.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(state_on_disk.shutil, "disk_usage", lambda _: usage._replace(free=10**5))
    with pytest.raises(UserError, match="the disk cannot hold the state") as error:
        retrain(llama, tmp_path / "adapted", "full", streamed=True)
    assert "0.0 GB free" in str(error.value) and "masklora" in str(error.value)
    # What is small needs no disk.
    retrain(llama, tmp_path / "small", streamed=True, **retraining_entry("masklora"))


def test_what_needs_room(llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is trained; a head that is trained comes with all that is outside of the blocks."""
    room: list[tuple[int, int]] = []
    monkeypatch.setattr(
        state_on_disk.TrainedStateOnDisk, "check_room", lambda _, *needed: room.append(needed)
    )
    trained: list[int] = []
    for settings in ({}, {"train_head": True}, {"linears": ["q_proj"]}):
        folder = tmp_path / "-".join(["full", *settings])
        found = retrain(llama, folder, "full", streamed=True, train_norms=False, **settings)
        trained.append(retrained_facts(found)["trained_parameters"])
    (blocks, beside), (both, more), (some, _) = room
    outer = sum(each.numel() for each in llama.model.outer.module.parameters())
    assert both - blocks == llama.model.outer.head.weight.numel()
    assert more - beside == outer * llama.model.dtype.itemsize
    # Half of the weights are pruned, and their places are written, too.
    assert [blocks // 2, some // 2] == [trained[0], trained[2]]


@pytest.mark.parametrize("method", ["masklora", "full"])
def test_what_is_in_memory_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """One block that is used, and the next, which is being read. Weights in training go before the
    passes of the next block, although the graph of a backward pass holds on to them for as long as
    its output has a name; so do the masks of a frozen block, whose zeros are its mask.
    """
    prepared = prepare(tmp_path, "llama", sequences=SEQUENCES, num_hidden_layers=8)
    alive = {name: weakref.WeakSet[Any]() for name in ("blocks", "masks", "weights")}
    most = dict.fromkeys(alive, 0)
    of_block = [0]
    load, make, through = trainee.load_pruned_block, trainee.Trainee._block, trainee.Trainee.through

    def note(name: str) -> None:
        most[name] = max(most[name], len(alive[name]))

    def loading(*args: Any) -> Any:
        block, masks = load(*args)
        alive["blocks"].add(block)
        alive["masks"].update(masks.values())
        note("blocks")
        return block, masks

    def making(*args: Any) -> Any:
        block = make(*args)
        of_block[0] = len(block.trained.parameters)
        if method == "full":
            alive["weights"].update(block.trained.parameters)
        return block

    def passing(*args: Any) -> Any:
        note("masks")
        note("weights")
        return through(*args)

    monkeypatch.setattr(trainee, "load_pruned_block", loading)
    monkeypatch.setattr(trainee.Trainee, "_block", making)
    monkeypatch.setattr(trainee.Trainee, "through", passing)
    retrain(prepared, tmp_path / "adapted", streamed=True, **retraining_entry(method))
    # A block that was used last may still be there when the reading of the one after next ends.
    assert most["blocks"] <= 3
    if method == "full":
        assert most["weights"] == of_block[0] > 0
    else:
        assert most["masks"] <= 7
