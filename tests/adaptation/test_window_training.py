"""What of a window is trained, what of it resumes, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from freelunch.adaptation.reconstruction.window import _in_float32
from freelunch.core.artifact import MANIFEST
from freelunch.core.errors import UserError
from freelunch.costs.reconstruction import reconstruction_work
from freelunch.costs.retraining import retraining_work
from freelunch.costs.shapes import Shapes
from freelunch.model.checkpoint import StreamedModel, block_shard
from freelunch.model.hidden_states import kept_states
from freelunch.model.mask_store import load_pruned_block
from freelunch.study import families
from freelunch.study.methods import METHODS
from freelunch.study.retraining import read_adaptation
from interrupts import Interrupt, contents, interrupted, stamps
from operations import Counter
from tiny_models import (
    BLOCKS,
    LENGTH,
    OTHERS,
    SEED,
    SEQUENCES,
    VARIANTS,
    Prepared,
    hidden_folder,
    prepare,
    random_tokens,
    reconstruct,
    reconstruction,
    retrain,
    save_calibration,
    shards,
    tiny_checkpoint,
    weights,
)
from windows_for_tests import (
    MODES,
    PARALLEL,
    WINDOWS,
    assert_dense_passes_are_counted,
    facts_of,
)

# --- Resuming


@pytest.mark.parametrize("window", ["matrix", "halves", "block", "two"])
def test_sparse_inputs_go_on_where_they_stopped(
    llama: Prepared, tmp_path: Path, window: str
) -> None:
    settings = {**WINDOWS[window], "inputs": "sparse"}
    whole = reconstruct(llama, tmp_path / "whole", **settings)

    def stop(done: int, total: int, note: str) -> None:
        if done == total - 1:
            raise Interrupt

    interrupted(lambda: reconstruct(llama, tmp_path / "adapted", report=stop, **settings))
    done = stamps(tmp_path / "adapted")
    assert done and len(done) < BLOCKS
    resumed = reconstruct(llama, tmp_path / "adapted", **settings)
    assert contents(resumed.folder) == contents(whole.folder)
    again = stamps(resumed.folder)
    assert {name: again[name] for name in done} == done, "a finished window was adapted again"


@pytest.mark.parametrize("keep", ["every_2", "none"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("window", WINDOWS)
def test_the_plan_counts_what_has_to_be_made_again(
    llama: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    window: str,
    mode: str,
    keep: str,
) -> None:
    given = WINDOWS[window] | dict(zip(("inputs", "targets"), MODES[mode], strict=True))
    assert_dense_passes_are_counted(llama, tmp_path, monkeypatch, keep, **given)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_window_sees_what_was_written(tmp_path: Path, dtype: str) -> None:
    """Trained in float32, handed on in the checkpoint's precision."""
    prepared = prepare(tmp_path, dtype=dtype, sequences=SEQUENCES)
    settings = {"window": "attention_mlp", "inputs": "sparse", "targets": "local"}
    whole = reconstruct(prepared, tmp_path / "whole", **settings)

    def stop(done: int, total: int, note: str) -> None:
        raise Interrupt

    interrupted(lambda: reconstruct(prepared, tmp_path / "adapted", report=stop, **settings))
    resumed = reconstruct(prepared, tmp_path / "adapted", **settings)
    assert shards(resumed) == shards(whole)


@pytest.mark.parametrize("family", ["llama", "opt", "gemma3_text", "phi3"])
@pytest.mark.parametrize("precision", ["model", "float32"])
def test_what_is_written_has_the_loss_that_is_noted(
    tmp_path: Path, family: str, precision: str
) -> None:
    """Of two bytes a weight: losses are those of rounded weights, and none is above the pruned."""
    prepared = prepare(tmp_path, family, "bfloat16", sequences=SEQUENCES)
    for name, given in WINDOWS.items():
        settings = given if name == "exact" else {**given, "precision": precision}
        rates = {} if name == "exact" else {"learning_rate": 1e-5}
        adapted = reconstruct(prepared, tmp_path / name, **settings, **rates)
        for facts in facts_of(adapted).values():
            assert facts["loss_after"] <= facts["loss_before"]
        for index in range(BLOCKS):
            _, masks = load_pruned_block(prepared.model, prepared.masks.folder, index)
            found = weights(adapted, index)
            for linear, keep in masks.items():
                assert torch.equal(found[f"{linear}.weight"] != 0, keep)
    # Steps far below the precision change no weight, and so no loss either.
    still = reconstruct(
        prepared, tmp_path / "still", precision=precision, learning_rate=1e-9, train_norms=False
    )
    for facts in facts_of(still).values():
        assert facts["loss_after"] == pytest.approx(facts["loss_before"], rel=1e-6)


@pytest.mark.parametrize("variant", ["bloom", "falcon in sequence"])
@pytest.mark.parametrize("window", [2, "attention_mlp", "matrix"])
def test_models_that_bias_attention_by_distance_train_in_float32(
    prepare_once: Callable[..., Prepared], tmp_path: Path, variant: str, window: int | str
) -> None:
    """Their calls hold biases and masks in bfloat16, which torch adds to no float32 scores."""
    family, changes = VARIANTS.get(variant, (variant, {}))
    prepared = prepare_once(family, "bfloat16", sequences=SEQUENCES, **changes)
    settings = {"window": window, "precision": "float32", "train_norms": False}
    adapted = reconstruct(prepared, tmp_path / "adapted", **settings)
    for facts in facts_of(adapted).values():
        assert facts["loss_after"] <= facts["loss_before"]
    assert any(not facts["kept_pruned"] for facts in facts_of(adapted).values())


def test_a_call_in_float32_leaves_alone_what_is_not_narrower() -> None:
    wide, narrow, mask = torch.ones(2), torch.ones(2, dtype=torch.bfloat16), torch.ones(2).bool()
    given = {"embeddings": (wide, narrow), "mask": [mask], "cache": None, "length": 3}
    found = _in_float32(given)
    assert found["embeddings"][0] is wide
    assert found["embeddings"][1].dtype == torch.float32
    assert found["mask"][0] is mask
    assert (found["cache"], found["length"]) == (None, 3)


# --- What is refused, and what is merely noted


def test_a_candidate_that_diverges_is_noted(llama: Prepared, tmp_path: Path) -> None:
    adapted = reconstruct(llama, tmp_path / "adapted", learning_rate=1e30, stop_at_divergence=False)
    for index in range(BLOCKS):
        (facts,) = adapted.files[block_shard(index)]["windows"].values()
        assert facts["kept_pruned"] and facts["diverged_at_step"] == 2
        assert facts["loss_after"] == facts["loss_before"]
        state = load_pruned_block(llama.model, llama.masks.folder, index)[0].state_dict()
        found = weights(adapted, index)
        assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("window", ["matrix", "halves", "block"])
def test_the_last_step_can_diverge_too(llama: Prepared, tmp_path: Path, window: str) -> None:
    """One step in all: no step after it sees what it did."""
    wild = {"learning_rate": 1e30, "warmup": 0.0, "epochs": 1, "batch": 64, **WINDOWS[window]}
    with pytest.raises(UserError, match="diverged in the window 0"):
        reconstruct(llama, tmp_path / "stopped", **wild)
    adapted = reconstruct(llama, tmp_path / "noted", stop_at_divergence=False, **wild)
    for facts in facts_of(adapted).values():
        assert facts["kept_pruned"] and facts["diverged_at_step"] == facts["steps"] == 1


def test_a_family_that_is_not_in_the_table(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works by whole blocks and by matrices, and says what is missing for halves."""
    monkeypatch.delitem(families.FAMILIES, "llama")
    for window in ("block", "two", "all", "matrix", "exact"):
        reconstruct(llama, tmp_path / window, **WINDOWS[window])
    with pytest.raises(UserError, match="can be adapted or pruned, not halves of blocks") as error:
        reconstruct(llama, tmp_path / "halves", **WINDOWS["halves"])
    assert "families.py" in str(error.value) and "llama" in str(error.value)


def test_norms_on_the_residual_stream_have_no_halves(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, "opt", sequences=SEQUENCES, do_layer_norm_before=False)
    with pytest.raises(UserError, match="have no halves: norms act on the residual stream"):
        reconstruct(prepared, tmp_path / "adapted", window="attention_mlp")


@pytest.mark.parametrize("family", PARALLEL)
def test_halves_side_by_side_are_refused(tmp_path: Path, family: str) -> None:
    prepared = prepare(tmp_path, family, sequences=SEQUENCES)
    with pytest.raises(UserError, match="have no halves: attention and MLP both read") as error:
        reconstruct(prepared, tmp_path / "adapted", window="attention_mlp")
    assert "expected: a window of whole blocks, or matrix" in str(error.value)


def test_hidden_states_of_another_sample(llama: Prepared, tmp_path: Path) -> None:
    other = save_calibration(llama.model.artifact, tmp_path / "sample", random_tokens(2, seed=3))
    kept = hidden_folder(llama.dense.folder)
    with pytest.raises(UserError, match="made from a different artifact: calibration") as error:
        kept_states(kept, llama.model.artifact, other)
    assert str(kept) in str(error.value)
    model = StreamedModel(tiny_checkpoint(tmp_path / "other", seed=SEED).folder)
    with pytest.raises(UserError, match="made from a different artifact: model"):
        kept_states(kept, model.artifact, other)
    assert kept_states(tmp_path / "nowhere", llama.model.artifact, other) is None
    assert (kept / MANIFEST).is_file()


# --- What of a window is trained


@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize("window", [2, "attention_mlp", "matrix"])
@pytest.mark.parametrize("trains", METHODS)
def test_a_window_trains_what_a_method_does(
    prepare_once: Callable[..., Prepared],
    family: str,
    window: int | str,
    trains: str,
    tmp_path: Path,
) -> None:
    """On its mask; by the loss of the window, and with the operations that torch counts."""
    wide = {"hidden_size": 64, **({"word_embed_proj_dim": 64} if family == "opt" else {})}
    prepared = prepare_once(family, sequences=SEQUENCES, **wide)
    settings = {"window": window, "trains": trains, "rank": 4, "epochs": 2}
    if window == "matrix":
        settings["train_norms"] = False
    trained = reconstruction(**settings).trained
    biases = family == "opt" and trained.biases
    if (window == "matrix" and trained.norms) or not (trained.weights or trained.norms or biases):
        # The one is refused with the config, the other by the job.
        return
    with Counter() as counter:
        adapted = reconstruct(prepared, tmp_path / "adapted", **settings)
    noted = [it for entry in adapted.files.values() for it in entry["windows"].values()]
    assert sum(it["loss_after"] for it in noted) < sum(it["loss_before"] for it in noted)
    for index in range(BLOCKS):
        block, masks = load_pruned_block(prepared.model, prepared.masks.folder, index)
        before, found = block.state_dict(), weights(adapted, index)
        for name, value in before.items():
            matrix = name.removesuffix(".weight") in masks
            if matrix and trains != "lora":
                assert torch.equal(found[name] == 0, ~masks[name.removesuffix(".weight")])
            is_bias = name.endswith("bias") and "norm" not in name
            moves = trained.weights if matrix else trained.biases if is_bias else trained.norms
            if not moves:
                assert torch.equal(found[name], value), name
    shapes = Shapes.of(prepared.model.config.to_dict(), "float32")
    predicted = reconstruction_work(shapes, SEQUENCES, LENGTH, reconstruction(**settings)).total()
    assert predicted == counter.operations


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("window", [1, 2, "all", "attention_mlp", "matrix"])
@pytest.mark.parametrize("trains", ["full", "lora"])
def test_operations_of_inputs_and_targets(
    prepare_once: Callable[..., Prepared],
    mode: str,
    window: int | str,
    trains: str,
    tmp_path: Path,
) -> None:
    """What makes them is counted, too; without norms less has a gradient."""
    prepared = prepare_once(sequences=SEQUENCES, length=32, hidden_size=64)
    inputs, targets = MODES[mode]
    settings = {"window": window, "trains": trains, "rank": 4, "train_norms": False}
    settings |= {"inputs": inputs, "targets": targets}
    with Counter() as counter:
        reconstruct(prepared, tmp_path / "adapted", **settings)
    shapes = Shapes.of(prepared.model.config.to_dict(), "float32")
    predicted = reconstruction_work(shapes, SEQUENCES, 32, reconstruction(**settings)).total()
    assert predicted == counter.operations


@pytest.mark.parametrize("family", OTHERS)
def test_operations_of_other_families(family: str, tmp_path: Path) -> None:
    """Without a norm before the attention, and without a causal half, they are others."""
    # Operations of attention are counted as if all heads together had the hidden size.
    wide = {"hidden_size": 64, **({"head_dim": 16} if family in ("qwen3", "gemma") else {})}
    prepared = prepare(tmp_path, family, sequences=SEQUENCES, length=32, **wide)
    shapes = Shapes.of(prepared.model.config.to_dict(), "float32")
    for window in (2, "matrix" if family in PARALLEL else "attention_mlp"):
        settings = {"window": window, "train_norms": window != "matrix"}
        with Counter() as counter:
            reconstruct(prepared, tmp_path / f"{window}", **settings)
        predicted = reconstruction_work(shapes, SEQUENCES, 32, reconstruction(**settings)).total()
        assert predicted == counter.operations, window
    with Counter() as counter:
        retrain(prepared, tmp_path / "retrained", "full")
    retraining = read_adaptation({"method": "full"})
    predicted = retraining_work(shapes, SEQUENCES, 32, retraining).total()
    assert predicted == counter.operations, "retraining"
