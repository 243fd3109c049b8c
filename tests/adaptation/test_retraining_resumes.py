"""Retraining with one block in memory at a time, and one that is interrupted, damaged or diverges:
its results are those of one that runs through in memory, bit for bit.
"""

import gc
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_models as tiny
from freelunch.adaptation.retraining import state, training_run
from freelunch.core.artifact import MANIFEST, Artifact
from freelunch.core.artifact_writer import FINISHED_JOURNAL
from freelunch.core.digest import sealed, unsealed
from freelunch.core.job_cost import Spent
from freelunch.model.checkpoint import OUTER, block_shard
from freelunch.model.mask_store import load_pruned_block
from freelunch.model.tensor_file import hidden_file
from freelunch.study.methods import METHODS
from interrupts import Interrupt, interrupted, resumed, stop_at
from refusals import refused
from tiny_models import BLOCKS, CROSSED, OTHERS, SEQUENCES, Prepared


@pytest.mark.parametrize(
    ("method", "optimiser"),
    [("full", "adamw"), ("full", "sgd"), ("masklora", "adamw"), ("lora", "adamw")],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_resumed_equals_uninterrupted_bit_for_bit(
    llama: Prepared, method: str, optimiser: str, streamed: bool, tmp_path: Path
) -> None:
    settings = tiny.retraining_entry(method, epochs=3, optimiser=optimiser)
    expected = tiny.retrain(llama, tmp_path / "whole", **settings)
    folder = tmp_path / "resumed"
    # A state is saved after each step: the fourth is lost with the interrupt.
    run = partial(tiny.retrain, llama, folder, save_s=0, streamed=streamed, **settings)
    found, seen = resumed(lambda report: run(report=report), 4, 7)
    assert seen == [1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9]
    assert tiny.shards(found) == tiny.shards(expected)
    assert (folder / MANIFEST).read_bytes() == (tmp_path / "whole" / MANIFEST).read_bytes()
    assert found.spent.attempts == 2 and found.spent.wall_s > 0
    assert {path.suffix for path in tmp_path.glob(".*")} <= {".checked"}


def _say_it_took(seconds: float, journal: Path) -> None:
    """Change how many seconds a journal says that a file took."""
    first, line = map(unsealed, journal.read_bytes().splitlines())
    assert first is not None and line is not None
    line["spent"]["wall_s"] = seconds
    journal.write_text("".join(json.dumps(sealed(each)) + "\n" for each in (first, line)))


@pytest.mark.parametrize("damaged", [False, True])
def test_a_resumed_distillation_keeps_the_dense_models_hidden_states(
    damaged: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Unless they are damaged. Of much text, they take an hour on a processor, in which there is no
    step to report.
    """
    llama = tiny.prepare(tmp_path / "llama", sequences=SEQUENCES, keep="none")
    settings = tiny.retraining_entry("masklora", epochs=2, loss="distillation")
    expected = tiny.retrain(llama, tmp_path / "whole", **settings)
    folder = tmp_path / "resumed"
    caplog.set_level("INFO", "freelunch")
    # The first attempt ends before it saves a state; the states of the dense model are complete.
    interrupted(lambda: tiny.retrain(llama, folder, report=stop_at(1), **settings))
    kept = folder.with_name(".resumed.state.teacher") / "dense" / hidden_file(BLOCKS)
    _say_it_took(1000.0, kept.with_name(FINISHED_JOURNAL))
    if damaged:
        kept.write_bytes(kept.read_bytes()[:-1] + b"\0")
    interrupted(lambda: tiny.retrain(llama, folder, report=stop_at(3), save_s=0, **settings))
    found = tiny.retrain(llama, folder, **settings)
    begins = f"first, the dense model passes all {SEQUENCES} sequences"
    assert caplog.messages.count(begins) == 1 + damaged
    assert tiny.shards(found) == tiny.shards(expected)
    assert (folder / MANIFEST).read_bytes() == (tmp_path / "whole" / MANIFEST).read_bytes()
    assert found.spent.attempts == 2 - damaged
    assert (1000 < found.spent.wall_s < 1500) == (not damaged)
    assert {path.name for path in tmp_path.glob(".*")} <= {".whole.checked", ".resumed.checked"}


@pytest.mark.parametrize("damage", ["cut short", "a flipped bit"])
def test_a_damaged_state_is_an_error_that_says_what_to_do(
    llama: Prepared, damage: str, tmp_path: Path
) -> None:
    expected = tiny.retrain(llama, tmp_path / "whole", "norms")
    folder = tmp_path / "resumed"
    interrupted(lambda: tiny.retrain(llama, folder, "norms", report=stop_at(2), save_s=0))
    state = folder.with_name(f".{folder.name}.state")
    content = bytearray(state.read_bytes())
    content[-3] ^= 1
    state.write_bytes(content if damage == "a flipped bit" else content[:-3])
    with refused(where=state, todo="rm -rf") as error:
        tiny.retrain(llama, folder, "norms")
    (command,) = re.findall("`(rm -rf .*?)`", str(error.value))
    # The error would keep the folder locked.
    del error
    gc.collect()
    subprocess.run(command, shell=True, check=True)
    assert tiny.shards(tiny.retrain(llama, folder, "norms")) == tiny.shards(expected)


@pytest.mark.parametrize("loss", ["next_token", "distillation"])
def test_a_training_that_diverged_leaves_no_state(loss: str, tmp_path: Path) -> None:
    """Its error says to change the settings, which must then not be refused."""
    llama = tiny.prepare(tmp_path / "llama", sequences=SEQUENCES, keep="none")
    settings = {"learning_rate": 1e30, "warmup": 0.0, "clip": None, "save_s": 0, "loss": loss}
    with refused(where="step ", found="last finite loss", todo="1e+30"):
        tiny.retrain(llama, tmp_path / "adapted", "full", epochs=3, **settings)
    assert not [*tmp_path.glob(".adapted.state*")]


def test_a_state_of_another_training_is_kept(llama: Prepared, tmp_path: Path) -> None:
    """It may hold days of work: going back to its settings resumes it."""
    expected = tiny.retrain(llama, tmp_path / "whole", "norms", epochs=2)
    folder, seen = tmp_path / "resumed", list[int]()
    interrupted(lambda: tiny.retrain(llama, folder, "norms", epochs=2, report=stop_at(3), save_s=0))
    with refused(found="a state after 2 steps", todo="rm -rf") as error:
        tiny.retrain(llama, folder, "norms", epochs=3)
    del error
    gc.collect()
    found = tiny.retrain(llama, folder, "norms", epochs=2, report=stop_at(0, seen))
    assert tiny.shards(found) == tiny.shards(expected) and seen[0] == 3


def test_shards_of_an_interrupted_attempt_are_written_anew(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may come from a training whose last steps were taken on another machine."""
    settings = tiny.retraining_entry("norms", epochs=2)
    expected = tiny.retrain(llama, tmp_path / "whole", **settings)
    written = training_run.write_shard

    def stop(writer: Any, shard: str, tensors: Any, **noted: Any) -> None:
        if shard == block_shard(1):
            raise Interrupt
        written(writer, shard, {k: v + 1 for k, v in tensors.items()}, **noted)

    folder = tmp_path / "resumed"
    with monkeypatch.context() as patched:
        patched.setattr(training_run, "write_shard", stop)
        interrupted(lambda: tiny.retrain(llama, folder, **settings))
    found = tiny.retrain(llama, folder, **settings)
    assert tiny.shards(found) == tiny.shards(expected)
    # Nothing of the first attempt was kept, so it cost nothing that counts.
    assert found.spent == Spent()


@pytest.mark.parametrize("method", ["full", "lora", "masklora"])
def test_a_candidate_that_diverges_stays_as_it_was_pruned(
    llama: Prepared, method: str, tmp_path: Path
) -> None:
    settings = tiny.retraining_entry(method, learning_rate=1e30, warmup=0.0, clip=None)
    adapted = tiny.retrain(llama, tmp_path / "adapted", stop_at_divergence=False, **settings)
    assert tiny.retrained_facts(adapted)["diverged_at_step"] >= 1
    assert (
        tiny.retrained_facts(adapted)["loss_after"] == tiny.retrained_facts(adapted)["loss_before"]
    )
    for index in range(BLOCKS):
        block, _ = load_pruned_block(llama.model, llama.masks, index)
        found = tiny.weights(adapted, index)
        assert all(torch.equal(found[name], it) for name, it in block.state_dict().items())
    dense = load_file(llama.model.folder / OUTER)
    found = load_file(adapted.path(OUTER))
    assert all(torch.equal(found[name], dense[name]) for name in dense)


def is_equal(prepared: Prepared, folder: Path, **settings: Any) -> None:
    """Check that both ways leave the same files, losses included."""
    expected = tiny.retrain(prepared, folder / "in memory", **settings)
    found = tiny.retrain(prepared, folder / "streamed", streamed=True, **settings)
    assert tiny.shards(found) == tiny.shards(expected)
    manifests = [(folder / name / MANIFEST).read_bytes() for name in ("in memory", "streamed")]
    assert manifests[0] == manifests[1]
    assert {path.suffix for path in folder.glob(".*")} <= {".checked"}


def test_an_interrupted_step_leaves_the_last_saved_state(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of `full` writes block after block; it may be killed between two of them."""
    expected = tiny.retrain(llama, tmp_path / "whole", "full", epochs=2)
    folder = tmp_path / "resumed"
    step_, moved = state._move_parameters_, []

    def stop(*args: Any) -> None:
        moved.append(args)
        if len(moved) == 20:
            raise Interrupt
        step_(*args)

    with monkeypatch.context() as patched:
        patched.setattr(state, "_move_parameters_", stop)
        interrupted(lambda: tiny.retrain(llama, folder, "full", save_s=0, streamed=True, epochs=2))
    assert tiny.shards(tiny.retrain(llama, folder, "full", streamed=True, epochs=2)) == tiny.shards(
        expected
    )


DIVERGES = {"method": "full", "learning_rate": 1e30, "warmup": 0.0, "clip": None}
DIVERGES |= {"stop_at_divergence": False}
# The model, what changes in its config, and the entry.
STREAMED: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    *(
        ("opt", "float32", {}, tiny.retraining_entry(method, **changes))
        for method in METHODS
        for changes in (
            {"epochs": 2, "clip": 0.1, "gradient_checkpointing": True},
            {"batch": 4, "micro_batch": 3, "clip": None, "loss": "distillation"},
            {"batch": 4, "micro_batch": 1, "optimiser": "sgd", "learning_rate": 0.1},
        )
    ),
    *(
        (family, "float32", {}, tiny.retraining_entry(method, batch=4, micro_batch=2))
        for family in CROSSED
        for method in ("full", "masklora", "lora_prune")
        if family != "opt"
    ),
    # Each method in several families.
    *(
        (family, "float32", {}, tiny.retraining_entry(method, batch=4, micro_batch=2))
        for first, family in enumerate(OTHERS)
        for second, method in enumerate(METHODS)
        if (first + second) % 3 == 0 and (method != "biases" or family in ("gpt_neox", "bloom"))
    ),
    *(
        ("llama", "float32", {}, tiny.retraining_entry("lora", **changes))
        for changes in (
            {},
            {"batch": 4, "micro_batch": 2, "gradient_checkpointing": True},
            {"train_head": True},
        )
    ),
    *(
        ("llama", "float32", {}, tiny.retraining_entry(method, train_head=True, micro_batch=1))
        for method in ("full", "masklora")
    ),
    ("llama", "float32", {}, DIVERGES),
    # Gradients of the two places where a head that is the embedding is used add up in one order.
    (
        *("llama", "float32", {"tie_word_embeddings": True}),
        {"method": "full", "train_head": True, "batch": 4, "micro_batch": 1},
    ),
    *(
        (
            "gemma2",
            "bfloat16",
            {},
            tiny.retraining_entry(method, precision=precision, micro_batch=1),
        )
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


def test_a_model_in_which_nothing_is_trained(llama: Prepared, tmp_path: Path) -> None:
    with refused(found="neither a bias nor a norm"):
        tiny.retrain(llama, tmp_path / "adapted", "biases")


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "absent"])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_damaged_file_of_a_state_is_an_error(
    llama: Prepared, damage: str, streamed: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "resumed"
    interrupted(
        lambda: tiny.retrain(llama, folder, "full", report=stop_at(2), save_s=0, streamed=True)
    )
    for path in (tmp_path / ".resumed.state.files").glob("[01]/000.safetensors"):
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content if damage == "a flipped bit" else content[:-3])
        if damage == "absent":
            path.unlink()
    with refused(where="000.safetensors", expected="what was saved", todo="rm -rf"):
        tiny.retrain(llama, folder, "full", streamed=streamed)


def test_what_no_state_needs_may_be_gone(llama: Prepared, tmp_path: Path) -> None:
    """The slot that the next step writes, and gradients; or broken by a power cut."""
    expected = tiny.retrain(llama, tmp_path / "whole", "full")
    folder = tmp_path / "resumed"
    interrupted(
        lambda: tiny.retrain(llama, folder, "full", report=stop_at(2), save_s=0, streamed=True)
    )
    files = tmp_path / ".resumed.state.files"
    shutil.rmtree(files / "1")
    for path in (files / "gradients").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    assert tiny.shards(tiny.retrain(llama, folder, "full", streamed=True)) == tiny.shards(expected)


@pytest.mark.parametrize(
    ("entry", "tied"),
    [
        *(
            ({"method": method, "optimiser": optimiser}, False)
            for method, optimiser in (("full", "adamw"), ("full", "sgd"), ("norms", "adamw"))
        ),
        # A head that is the embedding stays so: both are trained, and one of them is stored.
        *(({"method": "full", "train_head": True}, tied) for tied in (True, False)),
    ],
    ids=str,
)
@pytest.mark.parametrize("streamed", [True, False])
def test_a_state_goes_on_in_another_residency(
    prepare_once: Callable[..., Prepared],
    entry: dict[str, Any],
    tied: bool,
    streamed: bool,
    tmp_path: Path,
) -> None:
    """Nothing of it is left in the end."""
    llama = prepare_once("llama", sequences=SEQUENCES, tie_word_embeddings=tied)
    expected = tiny.retrain(llama, tmp_path / "whole", epochs=2, **entry)
    folder, seen = tmp_path / "resumed", list[int]()

    def run(step: int, this: bool) -> Artifact:
        report = stop_at(step, seen)
        return tiny.retrain(
            llama, folder, epochs=2, report=report, save_s=0, streamed=this, **entry
        )

    for step, this in ((2, streamed), (4, not streamed), (5, streamed)):
        interrupted(partial(run, step, this))
    found = run(0, not streamed)
    assert seen == [1, 2, 2, 3, 4, 4, 5, 5, 6]
    assert tiny.shards(found) == tiny.shards(expected)
    assert {path.suffix for path in tmp_path.glob(".*")} <= {".checked"}
