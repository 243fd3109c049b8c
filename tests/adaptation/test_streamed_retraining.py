"""Retraining with one block in memory at a time equals retraining in memory, bit for bit."""

import shutil
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from freelunch.adaptation.retraining import state_on_disk, trainee
from freelunch.core.artifact import MANIFEST
from freelunch.core.errors import UserError
from freelunch.study.methods import METHODS
from interrupts import Interrupt, interrupted, resumed, stop_at
from tiny_models import (
    CROSSED,
    OTHERS,
    SEQUENCES,
    Prepared,
    prepare,
    retrain,
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


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 2, "clip": 0.1},
        {"batch": 4, "micro_batch": 3, "clip": None},
        {"batch": 4, "micro_batch": 1, "optimiser": "sgd", "learning_rate": 0.1},
        {"loss": "distillation", "batch": 3},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_every_method(method: str, changes: dict[str, Any], opt: Prepared, tmp_path: Path) -> None:
    is_equal(opt, tmp_path, **retraining_entry(method, **changes))


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *(
            (family, method)
            for family in CROSSED
            for method in ("full", "masklora", "lora_prune")
            if family != "opt"
        ),
        # Each method in several families.
        *(
            (family, method)
            for first, family in enumerate(OTHERS)
            for second, method in enumerate(METHODS)
            if (first + second) % 3 == 0
        ),
    ],
)
def test_every_family(
    prepare_once: Callable[..., Prepared], family: str, method: str, tmp_path: Path
) -> None:
    prepared = prepare_once(family, sequences=SEQUENCES)
    if method == "biases" and family not in ("gpt_neox", "bloom"):
        with pytest.raises(UserError, match="trains nothing in this model"):
            retrain(prepared, tmp_path / "adapted", method)
        method = "norms"
    is_equal(prepared, tmp_path, **retraining_entry(method, batch=4, micro_batch=2))


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": 0.3},
        {"dropout": 0.3, "batch": 4, "micro_batch": 2, "gradient_checkpointing": True},
        {"dropout": 0.3, "train_head": True},
    ],
    ids=str,
)
def test_dropout(llama: Prepared, changes: dict[str, Any], tmp_path: Path) -> None:
    is_equal(llama, tmp_path, **retraining_entry("lora", **changes))


@pytest.mark.parametrize("method", ["full", "masklora"])
def test_a_trained_head(llama: Prepared, method: str, tmp_path: Path) -> None:
    is_equal(llama, tmp_path, **retraining_entry(method, train_head=True, micro_batch=1))


def test_a_head_that_is_the_embedding(tmp_path: Path) -> None:
    """Gradients of the two places where it is used add up in the same order."""
    prepared = prepare(tmp_path / "m", "llama", sequences=SEQUENCES, tie_word_embeddings=True)
    is_equal(prepared, tmp_path, method="full", train_head=True, batch=4, micro_batch=1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["full", "masklora", "lora", "norms"])
def test_a_checkpoint_in_half_precision(
    prepare_once: Callable[..., Prepared], method: str, precision: str, tmp_path: Path
) -> None:
    prepared = prepare_once("gemma2", "bfloat16", sequences=SEQUENCES)
    is_equal(prepared, tmp_path, **retraining_entry(method, precision=precision, micro_batch=1))


@pytest.mark.parametrize("method", ["full", "masklora", "lora"])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_resumed_in_the_middle_of_an_epoch(
    llama: Prepared, method: str, optimiser: str, tmp_path: Path
) -> None:
    dropout = {"dropout": 0.2} if method == "lora" else {}
    settings = retraining_entry(method, epochs=3, optimiser=optimiser, **dropout)
    expected = retrain(llama, tmp_path / "whole", **settings)
    run = partial(retrain, llama, tmp_path / "resumed", save_s=0, streamed=True, **settings)
    found, seen = resumed(lambda report: run(report=report), 4, 5, 8)
    assert seen == [1, 2, 3, 4, 4, 5, 5, 6, 7, 8, 8, 9]
    assert shards(found) == shards(expected)


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


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """For each training: how many parameters have to fit on the disk, and the bytes beside them."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        state_on_disk.TrainedStateOnDisk, "check_room", lambda _, *needed: asked.append(needed)
    )
    return asked


def test_a_trained_head_needs_room(
    llama: Prepared, tmp_path: Path, asked: list[tuple[int, int]]
) -> None:
    for name, head in (("without", False), ("with", True)):
        settings = {"train_norms": False, "train_head": head}
        retrain(llama, tmp_path / name, "full", streamed=True, **settings)
    (blocks, beside), (both, more) = asked
    outer = sum(it.numel() for it in llama.model.outer.module.parameters())
    assert both - blocks == llama.model.outer.head.weight.numel()
    assert more - beside == outer * llama.model.dtype.itemsize


def test_only_what_is_trained_needs_room(
    llama: Prepared, tmp_path: Path, asked: list[tuple[int, int]]
) -> None:
    trained: list[int] = []
    for name, linears in {"all": {}, "some": {"linears": ["q_proj"]}}.items():
        settings: dict[str, Any] = {"train_norms": False, **linears}
        found = retrain(llama, tmp_path / name, "full", streamed=True, **settings)
        windows = [it["windows"]["model"] for it in found.files.values() if "windows" in it]
        trained.append(windows[0]["trained_parameters"])
    # Half of the weights are pruned, and their places are written, too.
    assert [count // 2 for count, _ in asked] == trained


def test_a_diverged_candidate_stays_as_it_was_pruned(llama: Prepared, tmp_path: Path) -> None:
    settings = {"learning_rate": 1e30, "warmup": 0.0, "clip": None, "stop_at_divergence": False}
    is_equal(llama, tmp_path, method="full", **settings)


def test_two_blocks_are_in_memory_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is used, and the next, which is being read."""
    prepared = prepare(tmp_path, "llama", sequences=SEQUENCES, num_hidden_layers=8)
    alive: weakref.WeakSet[nn.Module] = weakref.WeakSet()
    most = [0]
    load = trainee.load_pruned_block

    def counted(*args: Any) -> Any:
        loaded = load(*args)
        alive.add(loaded[0])
        most[0] = max(most[0], len(alive))
        return loaded

    monkeypatch.setattr(trainee, "load_pruned_block", counted)
    retrain(prepared, tmp_path / "adapted", streamed=True, **retraining_entry("masklora"))
    # A block that was used last may still be there when the reading of the one after next ends.
    assert most[0] <= 3
    assert torch.is_grad_enabled()


def test_weights_in_training_go_before_the_passes_of_the_next_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph of a backward pass holds on to them for as long as its output has a name."""
    prepared = prepare(tmp_path, "llama", sequences=SEQUENCES, num_hidden_layers=4)
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    make, through = trainee.Trainee._block, trainee.Trainee.through
    of_block, most = [0], [0]

    def noted(*args: Any) -> Any:
        block = make(*args)
        of_block[0] = len(block.trained.parameters)
        alive.update(block.trained.parameters)
        return block

    def counted(self: Any, index: int, block: Any, *args: Any) -> Any:
        most[0] = max(most[0], len(alive))
        return through(self, index, block, *args)

    monkeypatch.setattr(trainee.Trainee, "_block", noted)
    monkeypatch.setattr(trainee.Trainee, "through", counted)
    retrain(prepared, tmp_path / "adapted", streamed=True, **retraining_entry("full"))
    assert most[0] == of_block[0] > 0


def test_masks_of_a_frozen_block_go_before_its_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its zeros are its mask; only those of the next block may be there, which is being read."""
    prepared = prepare(tmp_path, "llama", sequences=SEQUENCES, num_hidden_layers=4)
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    load, through, most = trainee.load_pruned_block, trainee.Trainee.through, [0]

    def noted(*args: Any) -> Any:
        module, masks = load(*args)
        alive.update(masks.values())
        return module, masks

    def counted(self: Any, index: int, block: Any, *args: Any) -> Any:
        most[0] = max(most[0], len(alive))
        return through(self, index, block, *args)

    monkeypatch.setattr(trainee, "load_pruned_block", noted)
    monkeypatch.setattr(trainee.Trainee, "through", counted)
    retrain(prepared, tmp_path / "adapted", streamed=True, **retraining_entry("masklora"))
    assert most[0] <= 7
