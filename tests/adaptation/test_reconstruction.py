"""Reconstruction against a slow loop written here, and what it may never change."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import tiny_models as tiny
from freelunch.adaptation.reconstruction import windows_in_turn
from freelunch.adaptation.reconstruction.train_window import (
    LOSSES,
    WindowModules,
)
from freelunch.adaptation.training.optimisation import learning_rates
from freelunch.core.artifact import MANIFEST, Artifact
from freelunch.core.errors import UserError
from freelunch.model.checkpoint import block_shard
from freelunch.model.hidden_states import DenseStates
from freelunch.model.mask_store import assemble_model, load_pruned_block
from freelunch.study.adaptations import Reconstruction
from freelunch.study.cell import derive_seed
from freelunch.study.windows import group_windows, split_windows
from interrupts import Interrupt, contents, interrupted, stamps
from refusals import refused
from tiny_models import BLOCKS, LENGTH, RECONSTRUCTION, SEED, SEQUENCES, Prepared


def pruned_block(prepared: Prepared, index: int) -> tuple[nn.Module, dict[str, Tensor]]:
    return load_pruned_block(prepared.model, prepared.masks, index)


def facts(adapted: Artifact, index: int) -> dict[str, Any]:
    """Return what came of the only window that a block belongs to."""
    (found,) = adapted.files[block_shard(index)]["windows"].values()
    return found


def slow_reconstruction(
    prepared: Prepared, indices: range, settings: Reconstruction
) -> tuple[list[dict[str, Tensor]], float, float]:
    """Train a window by torch's AdamW. Gradients are not masked here: every weight is multiplied by
    its mask after each step.

    Returns:
        The weights of each block, and the loss before and after.
    """
    blocks, masks = zip(*(pruned_block(prepared, index) for index in indices), strict=True)
    inputs, targets = prepared.hidden(indices.start), prepared.hidden(indices.stop)

    def loss(rows: list[int]) -> Tensor:
        hidden = inputs[rows]
        calls = prepared.model.calls(len(rows), LENGTH)
        for index, block in zip(indices, blocks, strict=True):
            hidden = calls[index](block, hidden)
        difference = hidden - targets[rows]
        return (difference * difference).sum() / difference.numel()

    with torch.no_grad():
        before = sum(float(loss([row])) for row in range(SEQUENCES)) / SEQUENCES
    parameters: list[Tensor] = []
    keep: list[Tensor | None] = []
    for block, mask in zip(blocks, masks, strict=True):
        for name, parameter in block.named_parameters():
            parameter.requires_grad_(True)
            parameters.append(parameter)
            keep.append(mask.get(name.removesuffix(".weight")))
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.0)
    steps = settings.passes * math.ceil(SEQUENCES / settings.batch)
    warm = int(settings.warmup * steps)
    name = f"{indices.start}-{indices.stop - 1}"
    generator = torch.Generator().manual_seed(derive_seed(SEED, "reconstruction", name))
    step = 0
    for _ in range(settings.passes):
        order = torch.randperm(SEQUENCES, generator=generator).tolist()
        for start in range(0, SEQUENCES, settings.batch):
            share = (step + 1) / warm if step < warm else (steps - step) / (steps - warm)
            optimiser.param_groups[0]["lr"] = settings.rate * share
            step += 1
            optimiser.zero_grad()
            loss(order[start : start + settings.batch]).backward()
            optimiser.step()
            with torch.no_grad():
                for parameter, mask_of in zip(parameters, keep, strict=True):
                    parameter *= 1.0 if mask_of is None else mask_of
    assert step == steps
    with torch.no_grad():
        after = sum(float(loss([row])) for row in range(SEQUENCES)) / SEQUENCES
    return [dict(block.state_dict()) for block in blocks], before, after


@pytest.mark.parametrize("blocks", [1, 2])
def test_training_is_the_slow_loop(prepared: Prepared, tmp_path: Path, blocks: int) -> None:
    indices = range(1, 1 + blocks)
    expected, before, after = slow_reconstruction(prepared, indices, RECONSTRUCTION)
    adapted = tiny.reconstruct(prepared, tmp_path / "adapted", [indices])
    for index, state in zip(indices, expected, strict=True):
        found = tiny.weights(adapted, index)
        assert found.keys() == state.keys()
        for name, value in state.items():
            # A bias of all keys changes no attention: its gradient is but rounding.
            if name == "self_attn.k_proj.bias" and prepared.model.config.model_type == "opt":
                continue
            torch.testing.assert_close(found[name], value, rtol=0, atol=2e-5)
        entry = facts(adapted, index)
        assert entry["loss_before"] == pytest.approx(before, rel=1e-5)
        assert entry["loss_after"] == pytest.approx(after, rel=1e-3)
        assert entry["steps"] == 6
        # Far enough that the comparison above means something.
        start = pruned_block(prepared, index)[0].state_dict()
        assert max(float((start[name] - found[name]).abs().max()) for name in found) > 1e-3


def slow_loss(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return a loss token by token, by its formula."""
    losses = []
    for output, target in zip(outputs.flatten(0, 1), targets.flatten(0, 1), strict=True):
        error = ((output - target) ** 2).sum()
        losses.append(
            {
                "mean_squared_error": error / len(output),
                "relative_squared_error": error / (target**2).sum(),
                "negative_cosine": 1 - output @ target / (output.norm() * target.norm()),
            }[name]
        )
    return torch.stack(losses).mean()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients_are_those_of_the_formulas(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, targets = (torch.randn(2, 8, 16, generator=generator) for _ in range(2))
    narrow, wide = outputs.clone().requires_grad_(), outputs.double().requires_grad_()
    value, expected = LOSSES[name](narrow, targets), slow_loss(name, wide, targets.double())
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    expected.backward()
    torch.testing.assert_close(narrow.grad, wide.grad.float(), rtol=1e-4, atol=1e-7)
    # Training keeps the loss of every step, so its memory would grow with the text.
    assert value.untyped_storage().nbytes() == value.element_size()


def test_windows_before_a_divergence_are_kept(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = llama.hidden(3)
    spoilt[1, 2, 3] = float("nan")
    at = DenseStates.at
    monkeypatch.setattr(
        DenseStates, "at", lambda self, boundary: spoilt if boundary == 3 else at(self, boundary)
    )
    with pytest.raises(UserError, match="window 2-2"):
        tiny.reconstruct(llama, tmp_path / "adapted")
    assert not (tmp_path / "adapted" / MANIFEST).exists()
    assert (tmp_path / "adapted" / block_shard(1)).exists()
    assert not (tmp_path / "adapted" / block_shard(2)).exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_trains_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    prepared = tiny.prepare(tmp_path, dtype=str(dtype).removeprefix("torch."), sequences=SEQUENCES)
    assert prepared.model.dtype == dtype
    trained: list[dict[str, Tensor]] = []
    round_ = WindowModules.round_

    def watch(window: WindowModules) -> None:
        trained.extend(
            {name: value.clone() for name, value in block.state_dict().items()}
            for block in window.modules
        )
        round_(window)

    monkeypatch.setattr(WindowModules, "round_", watch)
    adapted = tiny.reconstruct(prepared, tmp_path / "adapted", learning_rate=1e-3)
    for index in range(BLOCKS):
        found = tiny.weights(adapted, index)
        for name, value in trained[index].items():
            assert value.dtype == torch.float32
            assert found[name].dtype == dtype
            assert torch.equal(found[name], value.to(dtype))
        up = trained[index]["mlp.up_proj.weight"]
        assert not torch.equal(up.to(dtype).float(), up), "these weights never left half precision"
        for name, keep in pruned_block(prepared, index)[1].items():
            assert torch.equal(found[f"{name}.weight"] != 0, keep)
        entry = facts(adapted, index)
        assert entry["loss_after"] < entry["loss_before"]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12))
def test_groups_share_out_the_windows(blocks: int, window_blocks: int, groups: int) -> None:
    if window_blocks > blocks:
        with refused(found=window_blocks, expected=blocks):
            split_windows(blocks, window_blocks)
        return
    windows = split_windows(blocks, window_blocks)
    assert [index for window in windows for index in window] == list(range(blocks))
    assert {len(window) for window in windows[:-1]} <= {window_blocks}
    assert 1 <= len(windows[-1]) <= window_blocks
    shared = [group_windows(windows, group, groups) for group in range(1, groups + 1)]
    assert [window for part in shared for window in part] == windows
    sizes = [len(part) for part in shared]
    assert max(sizes) - min(sizes) <= 1


def test_results_do_not_depend_on_how_windows_are_grouped(llama: Prepared, tmp_path: Path) -> None:
    whole = tiny.reconstruct(llama, tmp_path / "whole")
    windows = split_windows(BLOCKS, 1)
    parts = [
        tiny.reconstruct(llama, tmp_path / f"part{group}", group_windows(windows, group, 2))
        for group in (1, 2)
    ]
    assert [len(part.files) for part in parts] == [1, 2]
    assert {**tiny.shards(parts[0]), **tiny.shards(parts[1])} == tiny.shards(whole)
    one = assemble_model(llama.model, llama.masks, [whole], tmp_path / "one", "fingerprint")
    two = assemble_model(llama.model, llama.masks, parts, tmp_path / "two", "fingerprint")
    assert tiny.shards(one) == tiny.shards(two)


def test_a_window_half_written_is_trained_again(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny.reconstruct(llama, tmp_path / "whole", window=2)
    write = windows_in_turn.write_shard

    def stop_at_second(writer: Any, shard: str, *arguments: Any, **facts: Any) -> None:
        if shard == block_shard(1):
            raise Interrupt
        write(writer, shard, *arguments, **facts)

    monkeypatch.setattr(windows_in_turn, "write_shard", stop_at_second)
    interrupted(lambda: tiny.reconstruct(llama, tmp_path / "adapted", window=2))
    assert list(stamps(tmp_path / "adapted")) == [block_shard(0)]
    monkeypatch.setattr(windows_in_turn, "write_shard", write)
    resumed = tiny.reconstruct(llama, tmp_path / "adapted", window=2)
    assert contents(resumed.folder) == contents(whole.folder)


def test_inputs_that_do_not_belong_together(llama: Prepared, tmp_path: Path) -> None:
    """Another model, masks of another model, and masks of another sample, in each adaptation."""
    other = tiny.prepare(tmp_path / "other", sequences=SEQUENCES, seed=1)
    sample = tiny.save_calibration(llama.model.artifact, tmp_path / "sample", tiny.random_tokens(2))
    dense = tiny.capture(llama.model, sample, tmp_path / "dense")
    for mixed, problem in (
        (
            Prepared(other.model, llama.dense, llama.masks),
            "made from a different artifact: model",
        ),
        (
            Prepared(llama.model, llama.dense, other.masks),
            "made from a different artifact: model",
        ),
        (Prepared(llama.model, dense, llama.masks), "chosen on another calibration sample"),
    ):
        for adapt in (tiny.reconstruct, tiny.retrain):
            with pytest.raises(UserError, match=problem):
                adapt(mixed, tmp_path / "adapted")


@given(st.integers(1, 200), st.floats(0, 0.99), st.floats(1e-7, 1.0))
def test_learning_rates(steps: int, warmup: float, peak: float) -> None:
    rates = learning_rates(steps, peak, warmup)
    warm = int(warmup * steps)
    assert len(rates) == steps
    assert min(rates) > 0, "quirk 7: a step with learning rate 0 learns nothing"
    assert max(rates) == pytest.approx(peak)
    assert rates[0] == pytest.approx(peak / warm if warm else peak)
    assert rates[-1] == pytest.approx(peak / (steps - warm))
    rising, falling = rates[:warm], rates[warm:]
    assert rising == sorted(rising) and falling == sorted(falling, reverse=True)
    # Two triangles: 1/n + 2/n + ... + 1.
    expected = peak * ((warm + 1) / 2 * (warm > 0) + (steps - warm + 1) / 2)
    assert sum(rates) == pytest.approx(expected)


def test_a_dense_checkpoint_stores_nothing_twice(llama: Prepared, tmp_path: Path) -> None:
    linked = assemble_model(llama.model, None, [], tmp_path / "dense", "fingerprint")
    source = llama.model.artifact
    names = [name for name in source.files if name.endswith(".safetensors")]
    assert len(names) == BLOCKS + 1
    for name in names:
        assert linked.path(name).stat().st_ino == source.path(name).stat().st_ino
    assert AutoModelForCausalLM.from_pretrained(linked.folder).config.num_hidden_layers == BLOCKS


@pytest.mark.parametrize(
    "windows",
    [[range(2)], [range(2), range(1, 3)], [range(2), range(1, 2)]],
    ids=["lacks one", "one twice", "both"],
)
def test_adapted_blocks_that_are_not_the_model(
    llama: Prepared, tmp_path: Path, windows: list[range]
) -> None:
    parts = [
        tiny.reconstruct(llama, tmp_path / f"{number}", [window], epochs=1)
        for number, window in enumerate(windows)
    ]
    with pytest.raises(UserError, match="not exactly the model's blocks"):
        assemble_model(llama.model, llama.masks, parts, tmp_path / "model", "fingerprint")
