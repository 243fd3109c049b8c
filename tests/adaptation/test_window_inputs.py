"""What a window sees and learns: its inputs and targets, and what none of them may change."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import tiny_models as tiny
from freelunch.adaptation.reconstruction import windows_in_turn
from freelunch.adaptation.reconstruction.train_window import WindowModules
from freelunch.core.artifact import Artifact
from freelunch.model.blocks import half
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.mask_store import assemble_model, load_pruned_block
from freelunch.model.tensor_file import HiddenStates
from freelunch.study.families import halves_of, whole_of
from tiny_models import (
    BLOCKS,
    CROSSED,
    FAMILIES,
    LENGTH,
    OTHERS,
    SEQUENCES,
    VARIANTS,
    Prepared,
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
        prepared.model.load_block(index, adapted if index <= last else None)
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
        adapted = tiny.reconstruct(prepared, tmp_path / "adapted", **settings)
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
        block, masks = load_pruned_block(prepared.model, prepared.masks, index)
        found = tiny.weights(adapted, index)
        assert found.keys() == block.state_dict().keys()
        for name, keep in masks.items():
            assert torch.equal(found[f"{name}.weight"] != 0, keep), f"block {index}: {name}"
    model = assemble_model(
        prepared.model, prepared.masks, [adapted], tmp_path / "model", "fingerprint"
    )
    logits = AutoModelForCausalLM.from_pretrained(model.folder)(tiny.random_tokens(1)).logits
    assert torch.isfinite(logits).all()


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
        found.append(tiny.shards(tiny.reconstruct(prepared, tmp_path / keep, **settings)))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *((family, {}) for family in FAMILIES if family not in PARALLEL),
        VARIANTS["gpt_neox in sequence"],
        VARIANTS["falcon in sequence"],
    ],
    ids=str,
)
@torch.no_grad()
def test_the_halves_are_the_block(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Attention, then MLP: the hidden states between are those before the MLP's own norm."""
    model = StreamedModel(tiny.tiny_checkpoint(tmp_path, family, **changes).folder)
    assert whole_of(model.config.to_dict()) is None
    parts = halves_of(model.config.model_type, None)
    hidden = torch.randn(2, LENGTH, model.config.hidden_size, generator=torch.manual_seed(0))
    for index, call in enumerate(model.calls(2, LENGTH)):
        block = model.load_block(index)
        before_mlp: list[Tensor] = []
        handle = block.get_submodule(parts.mlp_half[0]).register_forward_pre_hook(
            lambda _, args, found=before_mlp: found.append(args[0])
        )
        expected = call(block, hidden)
        handle.remove()
        middle = call(half(block, parts, out=parts.mlp_half), hidden)
        torch.testing.assert_close(middle, before_mlp[0].reshape(middle.shape), rtol=0, atol=0)
        found = call(half(block, parts, out=parts.attention_half), middle)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert (middle - hidden).abs().max() > 1e-3 and (found - middle).abs().max() > 1e-3
