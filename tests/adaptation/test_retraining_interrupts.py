"""A retraining that is interrupted, damaged, refused or diverges."""

import json
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from freelunch.adaptation.retraining import training_run
from freelunch.core.artifact import MANIFEST
from freelunch.core.artifact_writer import FINISHED_JOURNAL
from freelunch.core.digest import sealed, unsealed
from freelunch.core.errors import UserError
from freelunch.core.job_cost import Spent
from freelunch.model.checkpoint import OUTER, block_shard
from freelunch.model.hidden_file import hidden_file
from freelunch.model.mask_store import load_pruned_block
from interrupts import Interrupt, interrupted, resumed, stop_at
from tiny_models import (
    BLOCKS,
    SEQUENCES,
    Prepared,
    capture,
    prepare,
    random_tokens,
    retrain,
    retrained_facts,
    retraining_entry,
    save_calibration,
    shards,
    weights,
)


@pytest.mark.parametrize("method", ["full", "masklora", "lora"])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("streamed", [False, True])
def test_resumed_equals_uninterrupted_bit_for_bit(
    llama: Prepared, method: str, optimiser: str, streamed: bool, tmp_path: Path
) -> None:
    dropout = {"dropout": 0.2} if method == "lora" else {}
    settings = retraining_entry(method, epochs=3, optimiser=optimiser, **dropout)
    expected = retrain(llama, tmp_path / "whole", **settings)
    folder = tmp_path / "resumed"
    # A state is saved after each step: the fourth is lost with the interrupt.
    run = partial(retrain, llama, folder, save_s=0, streamed=streamed, **settings)
    found, seen = resumed(lambda report: run(report=report), 4, 7)
    assert seen == [1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9]
    assert shards(found) == shards(expected)
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
    llama = prepare(tmp_path / "llama", sequences=SEQUENCES, keep="none")
    settings = retraining_entry("masklora", epochs=2, loss="distillation")
    expected = retrain(llama, tmp_path / "whole", **settings)
    folder = tmp_path / "resumed"
    caplog.set_level("INFO", "freelunch")
    # The first attempt ends before it saves a state; the states of the dense model are complete.
    interrupted(lambda: retrain(llama, folder, report=stop_at(1), **settings))
    kept = folder.with_name(".resumed.state.teacher") / "dense" / hidden_file(BLOCKS)
    _say_it_took(1000.0, kept.with_name(FINISHED_JOURNAL))
    if damaged:
        kept.write_bytes(kept.read_bytes()[:-1] + b"\0")
    interrupted(lambda: retrain(llama, folder, report=stop_at(3), save_s=0, **settings))
    found = retrain(llama, folder, **settings)
    begins = f"first, the dense model passes all {SEQUENCES} sequences"
    assert caplog.messages.count(begins) == 1 + damaged
    assert shards(found) == shards(expected)
    assert (folder / MANIFEST).read_bytes() == (tmp_path / "whole" / MANIFEST).read_bytes()
    assert found.spent.attempts == 2 - damaged
    assert (1000 < found.spent.wall_s < 1500) == (not damaged)
    assert {path.name for path in tmp_path.glob(".*")} <= {".whole.checked", ".resumed.checked"}


@pytest.mark.parametrize("damage", ["cut short", "a flipped bit"])
def test_a_damaged_state_is_an_error_that_says_what_to_do(
    llama: Prepared, damage: str, tmp_path: Path
) -> None:
    expected = retrain(llama, tmp_path / "whole", "norms")
    folder = tmp_path / "resumed"
    interrupted(lambda: retrain(llama, folder, "norms", report=stop_at(2), save_s=0))
    state = folder.with_name(f".{folder.name}.state")
    content = bytearray(state.read_bytes())
    content[-3] ^= 1
    state.write_bytes(content if damage == "a flipped bit" else content[:-3])
    message = refused(lambda: retrain(llama, folder, "norms"))
    assert "the saved state of an interrupted training is damaged" in message
    (command,) = re.findall("`(rm -rf .*?)`", message)
    subprocess.run(command, shell=True, check=True)
    assert shards(retrain(llama, folder, "norms")) == shards(expected)


def test_a_training_that_diverged_leaves_no_state(llama: Prepared, tmp_path: Path) -> None:
    """Its error says to change the settings, which must then not be refused."""
    settings = {"learning_rate": 1e30, "warmup": 0.0, "clip": None, "save_s": 0}
    folder = tmp_path / "adapted"
    assert "diverged" in refused(lambda: retrain(llama, folder, "full", epochs=3, **settings))
    retrain(llama, folder, "full", learning_rate=1e-3)


def test_a_state_of_another_training_is_kept(llama: Prepared, tmp_path: Path) -> None:
    """It may hold days of work: going back to its settings resumes it."""
    expected = retrain(llama, tmp_path / "whole", "norms", epochs=2)
    folder, seen = tmp_path / "resumed", list[int]()
    interrupted(lambda: retrain(llama, folder, "norms", epochs=2, report=stop_at(3), save_s=0))
    message = refused(lambda: retrain(llama, folder, "norms", epochs=3))
    assert "an interrupted training with other settings" in message
    assert "a state after 2 steps" in message
    found = retrain(llama, folder, "norms", epochs=2, report=stop_at(0, seen))
    assert shards(found) == shards(expected) and seen[0] == 3


def refused(work: Callable[[], object]) -> str:
    """Return the message of the error; the error itself would keep the folder locked."""
    try:
        work()
    except UserError as error:
        return str(error)
    pytest.fail("nothing was refused")


def test_shards_of_an_interrupted_attempt_are_written_anew(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may come from a training whose last steps were taken on another machine."""
    settings = retraining_entry("norms", epochs=2)
    expected = retrain(llama, tmp_path / "whole", **settings)
    written = training_run.write_shard

    def stop(writer: Any, shard: str, tensors: Any, **noted: Any) -> None:
        if shard == block_shard(1):
            raise Interrupt
        written(writer, shard, {k: v + 1 for k, v in tensors.items()}, **noted)

    folder = tmp_path / "resumed"
    with monkeypatch.context() as patched:
        patched.setattr(training_run, "write_shard", stop)
        interrupted(lambda: retrain(llama, folder, **settings))
    found = retrain(llama, folder, **settings)
    assert shards(found) == shards(expected)
    # Nothing of the first attempt was kept, so it cost nothing that counts.
    assert found.spent == Spent()


def test_what_another_job_trained_is_not_trained_again(llama: Prepared, tmp_path: Path) -> None:
    """One that outlived its Snakemake, while this one waited. It had been interrupted before."""
    settings = retraining_entry("norms", epochs=2)
    folder, seen = tmp_path / "adapted", list[int]()
    interrupted(lambda: retrain(llama, folder, report=stop_at(3), save_s=0, **settings))
    other = retrain(llama, folder, **settings)
    found = retrain(llama, folder, report=stop_at(0, seen), **settings)
    assert not seen
    assert found.digest == other.digest
    assert found.spent.attempts == 1 and found.spent.wall_s > other.spent.wall_s > 0


def test_divergence_names_the_step_and_the_loss(llama: Prepared, tmp_path: Path) -> None:
    settings = retraining_entry("full", learning_rate=1e30, warmup=0.0, epochs=4, clip=None)
    with pytest.raises(UserError, match="diverged") as error:
        retrain(llama, tmp_path / "adapted", **settings)
    message = str(error.value)
    assert "step " in message and "last finite loss" in message and "1e+30" in message
    assert not (tmp_path / "adapted" / MANIFEST).exists()


def test_a_distillation_that_diverges_keeps_no_state(tmp_path: Path) -> None:
    llama = prepare(tmp_path / "llama", sequences=SEQUENCES, keep="none")
    settings = {"loss": "distillation", "learning_rate": 1e30, "warmup": 0.0, "clip": None}
    with pytest.raises(UserError, match="diverged"):
        retrain(llama, tmp_path / "adapted", "full", epochs=4, **settings)
    assert not [*tmp_path.glob(".adapted.state*")]


@pytest.mark.parametrize("method", ["full", "lora", "masklora"])
def test_a_candidate_that_diverges_stays_as_it_was_pruned(
    llama: Prepared, method: str, tmp_path: Path
) -> None:
    settings = retraining_entry(method, learning_rate=1e30, warmup=0.0, clip=None)
    adapted = retrain(llama, tmp_path / "adapted", stop_at_divergence=False, **settings)
    assert retrained_facts(adapted)["diverged_at_step"] >= 1
    assert retrained_facts(adapted)["loss_after"] == retrained_facts(adapted)["loss_before"]
    for index in range(BLOCKS):
        block, _ = load_pruned_block(llama.model, llama.masks.folder, index)
        found = weights(adapted, index)
        assert all(torch.equal(found[name], it) for name, it in block.state_dict().items())
    dense = load_file(llama.model.folder / OUTER)
    found = load_file(adapted.path(OUTER))
    assert all(torch.equal(found[name], dense[name]) for name in dense)


def test_masks_of_another_sample_are_refused(llama: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / "calibration"
    sample = save_calibration(llama.model.artifact, folder, random_tokens(SEQUENCES, seed=1))
    dense = capture(llama.model, sample, tmp_path / "dense")
    mixed = Prepared(llama.model, dense, llama.masks)
    with pytest.raises(UserError, match="another calibration sample"):
        retrain(mixed, tmp_path / "adapted")
