"""What of a window is trained, what of it resumes, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models as tiny
from freelunch.core.artifact import Artifact
from freelunch.core.progress import Report, silent
from freelunch.costs.retraining_costs import PlannedRetraining
from freelunch.costs.shapes import Shapes
from freelunch.costs.window_costs import reconstruction_work
from freelunch.model.mask_store import load_pruned_block
from freelunch.study import families
from freelunch.study.methods import METHODS
from freelunch.study.retraining import read_adaptation
from interrupts import contents, interrupted, stamps, stop_at
from operations import Counter
from refusals import refused
from tiny_models import BLOCKS, LENGTH, OTHERS, SEQUENCES, VARIANTS, Prepared
from windows_for_tests import (
    BEHIND,
    KINDS,
    LOST,
    PARALLEL,
    QUIRKS,
    WINDOWS,
    assert_dense_passes_are_counted,
    facts_of,
)

RESUMED: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "float32", {}),
    *(
        ("llama", "float32", {**WINDOWS[window], "inputs": "sparse"})
        for window in ("matrix", "halves", "block", "two")
    ),
    # Trained in float32, handed on in the checkpoint's precision.
    ("llama", "bfloat16", {**WINDOWS["halves"], "inputs": "sparse", "targets": "local"}),
    *(("llama", "float32", settings) for settings in QUIRKS.values()),
    *(
        ("opt", "float32", {"model_dropout": True, "optimiser": "sgd", "inputs": inputs})
        for inputs in ("dense", "sparse")
    ),
]


@pytest.mark.parametrize(("family", "dtype", "settings"), RESUMED, ids=str)
def test_resumed_equals_uninterrupted(
    prepare_once: Callable[..., Prepared],
    tmp_path: Path,
    family: str,
    dtype: str,
    settings: dict[str, Any],
) -> None:
    prepared = prepare_once(family, dtype, sequences=SEQUENCES)

    def run(folder: str, report: Report = silent) -> Artifact:
        return tiny.reconstruct(prepared, tmp_path / folder, report=report, **settings)

    whole = run("whole")
    # Whatever else draws random numbers has no part in it.
    torch.manual_seed(123)
    interrupted(lambda: run("adapted", stop_at(1)))
    done = stamps(tmp_path / "adapted")
    assert done and len(done) < BLOCKS
    interrupted(lambda: run("adapted", stop_at(2)))
    resumed = run("adapted")
    assert contents(resumed.folder) == contents(whole.folder)
    again = stamps(resumed.folder)
    assert {name: again[name] for name in done} == done, "a finished window was adapted again"


@pytest.mark.parametrize("keep", ["every_2", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_counts_what_has_to_be_made_again(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, keep: str
) -> None:
    assert_dense_passes_are_counted(llama, tmp_path, monkeypatch, keep, **KINDS[kind])


@pytest.mark.parametrize("trains", ["full", "lora"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("exact")])
def test_operations_of_inputs_and_targets(
    prepare_once: Callable[..., Prepared], tmp_path: Path, kind: str, trains: str
) -> None:
    """What makes them is counted, too; without norms less has a gradient."""
    prepared = prepare_once(sequences=SEQUENCES, length=32, hidden_size=64)
    settings = {**KINDS[kind], "trains": trains, "rank": 4, "train_norms": False}
    with Counter() as counter:
        tiny.reconstruct(prepared, tmp_path / "adapted", **settings)
    shapes = Shapes.of(prepared.model.config.to_dict(), "float32")
    predicted = reconstruction_work(shapes, SEQUENCES, 32, tiny.reconstruction(**settings)).total()
    assert predicted == counter.operations


@pytest.mark.parametrize("family", ["llama", "opt", "gemma3_text", "phi3"])
@pytest.mark.parametrize("precision", ["model", "float32"])
def test_what_is_written_has_the_loss_that_is_noted(
    tmp_path: Path, family: str, precision: str
) -> None:
    """Of two bytes a weight: losses are those of rounded weights, and none is above the pruned."""
    prepared = tiny.prepare(tmp_path, family, "bfloat16", sequences=SEQUENCES)
    for name, given in WINDOWS.items():
        settings = given if name == "exact" else {**given, "precision": precision}
        rates = {} if name == "exact" else {"learning_rate": 1e-5}
        adapted = tiny.reconstruct(prepared, tmp_path / name, **settings, **rates)
        for facts in facts_of(adapted).values():
            assert facts["loss_after"] <= facts["loss_before"]
        for index in range(BLOCKS):
            _, masks = load_pruned_block(prepared.model, prepared.masks, index)
            found = tiny.weights(adapted, index)
            for linear, keep in masks.items():
                assert torch.equal(found[f"{linear}.weight"] != 0, keep)
    # Steps far below the precision change no weight, and so no loss either.
    still = tiny.reconstruct(
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
    adapted = tiny.reconstruct(prepared, tmp_path / "adapted", **settings)
    for facts in facts_of(adapted).values():
        assert facts["loss_after"] <= facts["loss_before"]
    assert any(not facts["kept_pruned"] for facts in facts_of(adapted).values())


@pytest.mark.parametrize("window", ["matrix", "halves", "block"])
@pytest.mark.parametrize(
    ("wild", "step"),
    [
        ({"learning_rate": 1e30}, 2),
        # One step in all: no step after it sees what it did.
        ({"learning_rate": 1e30, "warmup": 0.0, "epochs": 1, "batch": 64}, 1),
        # Finite, but worse.
        ({"learning_rate": 3.0, "epochs": 1, "batch": 64}, None),
    ],
)
def test_what_diverges_or_gets_worse_stays_as_it_was_pruned(
    llama: Prepared, tmp_path: Path, window: str, wild: dict[str, Any], step: int | None
) -> None:
    settings = {**WINDOWS[window], **wild}
    if step is not None:
        with refused(where=f"step {step}", found="last finite loss", todo="1e+30"):
            tiny.reconstruct(llama, tmp_path / "stopped", **settings)
    adapted = tiny.reconstruct(llama, tmp_path / "noted", stop_at_divergence=False, **settings)
    noted = facts_of(adapted).values()
    assert all(facts.get("diverged_at_step") == step for facts in noted)
    assert all(
        facts["loss_after"] == facts["loss_before"] for facts in noted if facts["kept_pruned"]
    )
    assert any(facts["kept_pruned"] for facts in noted)
    if window == "block":
        for index in range(BLOCKS):
            state = load_pruned_block(llama.model, llama.masks, index)[0].state_dict()
            found = tiny.weights(adapted, index)
            assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("family", "changes", "settings"),
    [
        ("opt", {"do_layer_norm_before": False}, WINDOWS["halves"]),
        *((family, {}, WINDOWS["halves"]) for family in PARALLEL),
        ("gpt_neox", {}, LOST),
    ],
)
def test_halves_that_a_family_does_not_have(
    tmp_path: Path, family: str, changes: dict[str, Any], settings: dict[str, Any]
) -> None:
    prepared = tiny.prepare(tmp_path, family, sequences=SEQUENCES, **changes)
    with refused(where=family, expected="a window of whole blocks, or matrix"):
        tiny.reconstruct(prepared, tmp_path / "adapted", **settings)
    tiny.reconstruct(prepared, tmp_path / "behind", **BEHIND)


def test_a_family_that_is_not_in_the_table(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works by whole blocks and by matrices, and says what is missing for halves."""
    monkeypatch.delitem(families.FAMILIES, "llama")
    for window in ("block", "two", "all", "matrix", "exact"):
        tiny.reconstruct(llama, tmp_path / window, **WINDOWS[window])
    with refused(where="llama", todo="families.py"):
        tiny.reconstruct(llama, tmp_path / "halves", **WINDOWS["halves"])


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
    trained = tiny.reconstruction(**settings).trained
    biases = family == "opt" and trained.biases
    if (window == "matrix" and trained.norms) or not (trained.weights or trained.norms or biases):
        # The one is refused with the config, the other by the job.
        return
    with Counter() as counter:
        adapted = tiny.reconstruct(prepared, tmp_path / "adapted", **settings)
    noted = [each for entry in adapted.files.values() for each in entry["windows"].values()]
    assert sum(each["loss_after"] for each in noted) < sum(each["loss_before"] for each in noted)
    for index in range(BLOCKS):
        block, masks = load_pruned_block(prepared.model, prepared.masks, index)
        before, found = block.state_dict(), tiny.weights(adapted, index)
        for name, value in before.items():
            matrix = name.removesuffix(".weight") in masks
            if matrix and trains != "lora":
                assert torch.equal(found[name] == 0, ~masks[name.removesuffix(".weight")])
            is_bias = name.endswith("bias") and "norm" not in name
            moves = trained.weights if matrix else trained.biases if is_bias else trained.norms
            if not moves:
                assert torch.equal(found[name], value), name
    shapes = Shapes.of(prepared.model.config.to_dict(), "float32")
    predicted = reconstruction_work(
        shapes, SEQUENCES, LENGTH, tiny.reconstruction(**settings)
    ).total()
    assert predicted == counter.operations


@pytest.mark.parametrize("family", OTHERS)
def test_operations_of_other_families(family: str, tmp_path: Path) -> None:
    """Without a norm before the attention, and without a causal half, they are others."""
    # Operations of attention are counted as if all heads together had the hidden size.
    wide = {"hidden_size": 64, **({"head_dim": 16} if family in ("qwen3", "gemma") else {})}
    prepared = tiny.prepare(tmp_path, family, sequences=SEQUENCES, length=32, **wide)
    shapes = Shapes.of(prepared.model.config.to_dict(), "float32")
    for window in (2, "matrix" if family in PARALLEL else "attention_mlp"):
        settings = {"window": window, "train_norms": window != "matrix"}
        with Counter() as counter:
            tiny.reconstruct(prepared, tmp_path / f"{window}", **settings)
        predicted = reconstruction_work(
            shapes, SEQUENCES, 32, tiny.reconstruction(**settings)
        ).total()
        assert predicted == counter.operations, window
    with Counter() as counter:
        tiny.retrain(prepared, tmp_path / "retrained", "full")
    retraining = read_adaptation({"method": "full"})
    predicted = PlannedRetraining(shapes, SEQUENCES, 32, retraining).work().total()
    assert predicted == counter.operations, "retraining"
