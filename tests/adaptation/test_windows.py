"""Windows of every size, inputs and targets: what they see, learn, and leave alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from freelunch.adaptation.reconstruction import driver
from freelunch.adaptation.reconstruction.losses import LOSSES
from freelunch.adaptation.reconstruction.window import WindowModules, _in_float32
from freelunch.core.artifact import MANIFEST, Artifact
from freelunch.core.errors import UserError
from freelunch.costs.reconstruction import reconstruct as plan_of_windows
from freelunch.costs.reconstruction_work import reconstruction_flops
from freelunch.costs.retraining import retraining_flops
from freelunch.costs.shapes import Shapes
from freelunch.model import hidden_states as states
from freelunch.model.assembly import assemble_model
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import StreamedModel, block_shard
from freelunch.model.halves import half
from freelunch.model.hidden_file import HiddenStates
from freelunch.model.hidden_states import DenseStates, kept_states
from freelunch.model.mask_store import load_pruned_block
from freelunch.study import families
from freelunch.study.adaptation_entries import read_adaptation
from freelunch.study.boundaries import kept_boundaries
from freelunch.study.families import halves_of, whole_of
from freelunch.study.methods import METHODS
from freelunch.study.windows import adapted_windows
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
    keep_everything,
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

# (inputs, targets), as study.md section 2 names them.
MODES = {"a": ("dense", "dense"), "b": ("sparse", "local"), "c": ("sparse", "dense")}
SMALL: dict[str, dict[str, Any]] = {
    "matrix": {"window": "matrix", "train_norms": False},
    "exact": {"method": "least_squares"},
    "halves": {"window": "attention_mlp"},
}
# Families whose attention and MLP run side by side, unless a setting says otherwise.
PARALLEL = ("gpt_neox", "falcon")
WINDOWS = {**SMALL, "block": {"window": 1}, "two": {"window": 2}, "all": {"window": "all"}}


@pytest.fixture(scope="module")
def others() -> dict[str, Prepared]:
    """Pruned models of the families in OTHERS, made when a test needs them."""
    return {}


def facts_of(adapted: Artifact) -> dict[str, dict[str, Any]]:
    """Return what came of each window, by name."""
    return adapted_windows([adapted])


@contextmanager
def seen_windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Note the inputs and targets of each window that is adapted, by its name."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name in ("train_window_", "solve_window_"):
        work = getattr(driver, name)

        def watch(
            window: WindowModules,
            inputs: HiddenStates,
            targets: HiddenStates,
            *arguments: Any,
            work: Any = work,
        ) -> Any:
            found[window.name] = inputs[:], targets[:]
            return work(window, inputs, targets, *arguments)

        monkeypatch.setattr(driver, name, watch)
    yield found


# --- Halves


def test_the_halves_are_the_block(prepared: Prepared) -> None:
    check_halves(prepared.model)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *((family, {}) for family in OTHERS if family not in PARALLEL),
        VARIANTS["gpt_neox in sequence"],
        VARIANTS["falcon in sequence"],
    ],
    ids=str,
)
def test_the_halves_of_other_families_are_the_block(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = StreamedModel(tiny_checkpoint(tmp_path, family, **changes).folder)
    assert whole_of(model.config.to_dict()) is None
    check_halves(model)


@torch.no_grad()
def check_halves(model: StreamedModel) -> None:
    """Attention, then MLP: the hidden states between are those before the MLP's own norm."""
    family = halves_of(model.config.model_type, None)
    hidden = torch.randn(2, LENGTH, model.config.hidden_size, generator=torch.manual_seed(0))
    for index, call in enumerate(model.calls(2, LENGTH)):
        block = model.load_block(index)
        before_mlp: list[Tensor] = []
        handle = block.get_submodule(family.mlp_half[0]).register_forward_pre_hook(
            lambda _, args, found=before_mlp: found.append(args[0])
        )
        expected = call(block, hidden)
        handle.remove()
        middle = call(half(block, family, out=family.mlp_half), hidden)
        torch.testing.assert_close(middle, before_mlp[0].reshape(middle.shape), rtol=0, atol=0)
        found = call(half(block, family, out=family.attention_half), middle)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert (middle - hidden).abs().max() > 1e-3 and (found - middle).abs().max() > 1e-3
    assert_each_parameter_is_in_one_half(model)


def assert_each_parameter_is_in_one_half(model: StreamedModel) -> None:
    family = halves_of(model.config.model_type, None)
    block = model.load_block(0)
    attention, mlp = (
        {id(value) for value in half(block, family, out).parameters()}
        for out in (family.mlp_half, family.attention_half)
    )
    assert attention | mlp == {id(value) for value in block.parameters()}
    assert not attention & mlp
    assert set(block_linears(half(block, family, family.mlp_half))) == {
        name for name in block_linears(block) if name.startswith(family.attention)
    }


# --- What a window sees and learns


@torch.no_grad()
def slow_ends(prepared: Prepared, adapted: Artifact, name: str, mode: str) -> tuple[Tensor, Tensor]:
    """Return the inputs and targets of a window by passing whole models, hooks on their modules."""
    block, _, part = name.partition(".")
    first, last = (int(it) for it in (block.split("-") if "-" in block else (block, block)))
    inputs_from, targets_from = MODES[mode]
    dense = [prepared.model.load_block(index) for index in range(BLOCKS)]
    # What comes before the window is adapted by then; the window itself is not looked at.
    sparse = [
        prepared.model.load_block(index, adapted.folder if index <= last else None)
        for index in range(BLOCKS)
    ]
    calls = prepared.model.calls(SEQUENCES, LENGTH)

    def ends(blocks: list[nn.Module], hidden: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Pass blocks from `start` on; return what enters and what leaves the window."""
        if part in ("attention", "mlp"):
            family = halves_of(prepared.model.config.model_type, None)
            module = blocks[last].get_submodule(family.mlp_half[0])
        else:
            module = blocks[last].get_submodule(part)
        seen: list[Tensor] = []
        made: list[Tensor] = []
        handles = [
            module.register_forward_pre_hook(lambda _, args: seen.append(args[0])),
            # A copy, since Falcon adds to it in place.
            module.register_forward_hook(
                lambda *args: made.append(args[2].clone() if part else args[2])
            ),
        ]
        entering = hidden
        for index in range(start, last + 1):
            if index == first:
                entering = hidden
            hidden = calls[index](blocks[index], hidden)
        for handle in handles:
            handle.remove()
        shape = (SEQUENCES, LENGTH, -1)
        if part == "attention":
            return entering, seen[0].reshape(shape)
        if part == "mlp":
            return seen[0].reshape(shape), hidden
        if part:
            return seen[0].reshape(shape), made[0].reshape(shape)
        return entering, hidden

    embedded = prepared.hidden(0)
    dense_ends = ends(dense, embedded, 0)
    if inputs_from == "dense":
        return dense_ends
    inputs = ends(sparse, embedded, 0)[0]
    if targets_from == "dense":
        return inputs, dense_ends[1]
    if part in ("attention", "mlp"):
        family = halves_of(prepared.model.config.model_type, None)
        out = family.mlp_half if part == "attention" else family.attention_half
        return inputs, calls[last](half(dense[last], family, out), inputs)
    if part:
        return inputs, dense[last].get_submodule(part)(inputs)
    targets = inputs
    for index in range(first, last + 1):
        targets = calls[index](dense[index], targets)
    return inputs, targets


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("window", WINDOWS)
def test_inputs_and_targets(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: str, mode: str
) -> None:
    check_inputs_and_targets(prepared, tmp_path, monkeypatch, window, mode)


# Each family passes every window, and all families together every window in every mode.
COVERING = [
    (family, window, [*MODES][(first + second) % len(MODES)])
    for first, family in enumerate(OTHERS)
    for second, window in enumerate(WINDOWS)
    if window != "halves" or family not in PARALLEL
]


@pytest.mark.parametrize(("family", "window", "mode"), COVERING)
def test_inputs_and_targets_of_other_families(
    others: dict[str, Prepared],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    window: str,
    mode: str,
) -> None:
    if family not in others:
        folder = tmp_path_factory.mktemp(family)
        others[family] = prepare(folder, family, sequences=SEQUENCES, pattern="2of4")
    check_inputs_and_targets(others[family], tmp_path, monkeypatch, window, mode)


def check_inputs_and_targets(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: str, mode: str
) -> None:
    """Masks are kept to the bit, the loss never rises, the whole is whole."""
    inputs, targets = MODES[mode]
    settings = {**WINDOWS[window], "inputs": inputs, "targets": targets}
    with seen_windows(monkeypatch) as seen:
        adapted = reconstruct(prepared, tmp_path / "adapted", **settings)
    for name, (x, y) in seen.items():
        # Within a block the sparse model is met while its later matrices are as they were pruned:
        # they do not act on what is looked at here.
        expected = slow_ends(prepared, adapted, name, mode)
        torch.testing.assert_close(x, expected[0], rtol=1e-5, atol=1e-5, msg=f"inputs of {name}")
        torch.testing.assert_close(y, expected[1], rtol=1e-5, atol=1e-5, msg=f"targets of {name}")
    facts = facts_of(adapted)
    assert facts.keys() == seen.keys()
    assert all(each["loss_after"] <= each["loss_before"] for each in facts.values())
    improved = [each for each in facts.values() if each["loss_after"] < each["loss_before"]]
    assert len(improved) > 0.7 * len(facts)
    for index in range(BLOCKS):
        block, masks = load_pruned_block(prepared.model, prepared.masks.folder, index)
        found = weights(adapted, index)
        assert found.keys() == block.state_dict().keys()
        for name, keep in masks.items():
            assert torch.equal(found[f"{name}.weight"] != 0, keep), f"block {index}: {name}"
    model = assemble_model(
        prepared.model, prepared.masks, [adapted], tmp_path / "model", "fingerprint"
    )
    logits = AutoModelForCausalLM.from_pretrained(model.folder)(random_tokens(1)).logits
    assert torch.isfinite(logits).all()


def test_the_names_of_windows(llama: Prepared, tmp_path: Path) -> None:
    found = {
        window: list(facts_of(reconstruct(llama, tmp_path / window, **settings)))
        for window, settings in WINDOWS.items()
    }
    assert found["all"] == ["0-2"] and found["two"] == ["0-1", "2-2"]
    assert found["halves"][:3] == ["0.attention", "0.mlp", "1.attention"]
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    assert found["matrix"][:4] == [f"0.self_attn.{name}" for name in names]
    assert found["exact"] == found["matrix"] and len(found["matrix"]) == 7 * BLOCKS


@pytest.mark.parametrize("name", ["self_attn.k_proj", "self_attn.o_proj", "mlp.down_proj"])
def test_a_matrix_is_trained_by_itself(llama: Prepared, tmp_path: Path, name: str) -> None:
    """Plain gradient descent with momentum, written out, on the dense inputs of one matrix."""
    steps, rate, index = 3, 0.05, 1
    settings = {
        "window": "matrix",
        "train_norms": False,
        "optimiser": "sgd",
        "schedule": "constant",
        "warmup": 0.0,
        "learning_rate": rate,
        "epochs": steps,
        "batch": SEQUENCES,
    }
    adapted = reconstruct(llama, tmp_path / "adapted", **settings)
    x, y = (it.flatten(0, 1) for it in slow_ends(llama, adapted, f"{index}.{name}", "a"))
    block, masks = load_pruned_block(llama.model, llama.masks.folder, index)
    weight = block.get_submodule(name).weight.clone()
    momentum = torch.zeros_like(weight)
    for _ in range(steps):
        error = x @ weight.T - y
        gradient = 2 * error.T @ x / error.numel() * masks[name]
        momentum = 0.9 * momentum + gradient
        weight = weight - rate * momentum
    found = weights(adapted, index)
    start = block.get_submodule(name).weight
    assert (found[f"{name}.weight"] - start).abs().max() > 1e-4
    torch.testing.assert_close(found[f"{name}.weight"], weight, rtol=1e-4, atol=1e-6)
    norm = "input_layernorm.weight"
    assert torch.equal(found[norm], block.state_dict()[norm]), "a norm moved"


# --- Invariants


@pytest.fixture(scope="module")
def unpruned(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return keep_everything(tmp_path_factory.mktemp("unpruned"), SEQUENCES)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("window", WINDOWS)
def test_without_pruning_there_is_nothing_to_learn(
    unpruned: Prepared, tmp_path: Path, window: str, loss: str
) -> None:
    """And dense and sparse inputs are the same."""
    found = {}
    for mode, (inputs, targets) in MODES.items():
        settings = {**WINDOWS[window], "inputs": inputs, "targets": targets}
        if window != "exact":
            settings["loss"] = loss
        found[mode] = reconstruct(unpruned, tmp_path / f"adapted-{mode}", **settings)
        assert all(facts["loss_before"] < 1e-12 for facts in facts_of(found[mode]).values())
        for index in range(BLOCKS):
            dense = unpruned.model.load_block(index).state_dict()
            for name, value in weights(found[mode], index).items():
                # A matrix solved anew is equal to rounding.
                close = (
                    {"rtol": 1e-4, "atol": 1e-5} if window == "exact" else {"rtol": 0, "atol": 0}
                )
                torch.testing.assert_close(value, dense[name], **close)


def test_one_window_over_a_model_of_one_block(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, sequences=SEQUENCES, num_hidden_layers=1)
    one, whole, sparse, local = (
        reconstruct(prepared, tmp_path / name, [range(1)], **settings)
        for name, settings in {
            "one": {"window": 1},
            "all": {"window": "all"},
            "sparse": {"window": 1, "inputs": "sparse"},
            "local": {"window": 1, "inputs": "sparse", "targets": "local"},
        }.items()
    )
    # Before the first block nothing is pruned.
    assert shards(one) == shards(whole) == shards(sparse) == shards(local)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("window", WINDOWS)
def test_which_hidden_states_are_kept_changes_nothing(
    prepare_once: Callable[..., Prepared], tmp_path: Path, window: str, mode: str
) -> None:
    inputs, targets = MODES[mode]
    settings = {**WINDOWS[window], "inputs": inputs, "targets": targets}
    found = []
    for keep in ("all", "every_2", "none"):
        prepared = prepare_once(sequences=SEQUENCES, keep=keep)
        found.append(shards(reconstruct(prepared, tmp_path / keep, **settings)))
    assert found[0] == found[1] == found[2]


def test_masks_are_the_same_for_every_window(llama: Prepared, tmp_path: Path) -> None:
    zeros = {
        window: [
            {name: value == 0 for name, value in weights(adapted, index).items()}
            for index in range(BLOCKS)
        ]
        for window, settings in WINDOWS.items()
        for adapted in [reconstruct(llama, tmp_path / window, **settings)]
    }
    for window in WINDOWS:
        for one, other in zip(zeros["block"], zeros[window], strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one), window


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
    kept = kept_boundaries(keep, BLOCKS)
    passed: list[int] = []

    class Counted(DenseStates):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._paths = {at: path for at, path in self._paths.items() if at in kept}

        def __del__(self) -> None:
            passed.append(self.passed)

    monkeypatch.setattr(states, "DenseStates", Counted)
    given = WINDOWS[window] | dict(zip(("inputs", "targets"), MODES[mode], strict=True))
    reconstruct(llama, tmp_path / "adapted", **given)
    settings = read_adaptation({"method": "reconstruction", **given})
    shapes = Shapes.of(llama.model.config.to_dict(), "float32")
    one = shapes.forward_flops(SEQUENCES * LENGTH, LENGTH, 1)
    flops = [
        plan_of_windows(shapes, SEQUENCES, LENGTH, settings, keep=each).flops
        for each in ("all", keep)
    ]
    assert passed == [(flops[1] - flops[0]) / one]


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
    predicted = reconstruction_flops(shapes, SEQUENCES, LENGTH, reconstruction(**settings))
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
    predicted = reconstruction_flops(shapes, SEQUENCES, 32, reconstruction(**settings))
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
        predicted = reconstruction_flops(shapes, SEQUENCES, 32, reconstruction(**settings))
        assert predicted == counter.operations, window
    with Counter() as counter:
        retrain(prepared, tmp_path / "retrained", "full")
    retraining = read_adaptation({"method": "full"})
    predicted = retraining_flops(shapes, SEQUENCES, 32, retraining)
    assert predicted == counter.operations, "retraining"
