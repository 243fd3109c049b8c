"""What a window sees and learns: its inputs and targets."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from freelunch.adaptation.reconstruction import windows_in_turn
from freelunch.adaptation.reconstruction.train_window import WindowModules
from freelunch.core.artifact import Artifact
from freelunch.model.blocks import half
from freelunch.model.hidden_file import HiddenStates
from freelunch.model.mask_store import assemble_model, load_pruned_block
from freelunch.study.families import halves_of
from tiny_models import (
    BLOCKS,
    CROSSED,
    LENGTH,
    OTHERS,
    SEQUENCES,
    Prepared,
    random_tokens,
    reconstruct,
    weights,
)
from windows_for_tests import MODES, PARALLEL, WINDOWS, facts_of


@contextmanager
def seen_windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Note the inputs and targets of each window that is adapted, by its name."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name in ("train_window_", "solve_window_"):
        work = getattr(windows_in_turn, name)

        def watch(
            window: WindowModules,
            inputs: HiddenStates,
            targets: HiddenStates,
            *arguments: Any,
            work: Any = work,
        ) -> Any:
            found[window.name] = inputs[:], targets[:]
            return work(window, inputs, targets, *arguments)

        monkeypatch.setattr(windows_in_turn, name, watch)
    yield found


@torch.no_grad()
def slow_ends(prepared: Prepared, adapted: Artifact, name: str, mode: str) -> tuple[Tensor, Tensor]:
    """Return the inputs and targets of a window by passing whole models, hooks on their modules."""
    block, _, part = name.partition(".")
    first, last = (int(number) for number in (block.split("-") if "-" in block else (block, block)))
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


# Each of the other families passes every window, and all of them every window in every mode.
COVERING = [
    *product(CROSSED, WINDOWS, MODES),
    *(
        (family, window, [*MODES][(first + second) % len(MODES)])
        for first, family in enumerate(OTHERS)
        for second, window in enumerate(WINDOWS)
        if window != "halves" or family not in PARALLEL
    ),
]


@pytest.mark.parametrize(("family", "window", "mode"), COVERING)
def test_inputs_and_targets(
    prepare_once: Callable[..., Prepared],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    window: str,
    mode: str,
) -> None:
    """Masks are kept to the bit, the loss never rises, the whole is whole."""
    pattern = "u50" if family in CROSSED else "2of4"
    prepared = prepare_once(family, sequences=SEQUENCES, pattern=pattern)
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
    x, y = (each.flatten(0, 1) for each in slow_ends(llama, adapted, f"{index}.{name}", "a"))
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
