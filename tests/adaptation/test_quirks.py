"""Quirks of the paper's code that can be switched on, against loops written here."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny_models as tiny
from freelunch.adaptation.reconstruction import windows_in_turn
from freelunch.adaptation.reconstruction.train_window import WindowModules
from freelunch.core.artifact import Artifact
from freelunch.model.mask_store import load_pruned_block
from freelunch.model.tensor_file import HiddenStates
from freelunch.study.cell import derive_seed
from freelunch.study.families import dropout_of
from refusals import refused
from tiny_models import BLOCKS, FAMILIES, LENGTH, SEED, SEQUENCES, Prepared
from windows_for_tests import QUIRKS, SMALL


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Tensor, Tensor]]:
    """Note the inputs and targets of each window that is trained, by its name."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    train = windows_in_turn.train_window_

    def watch(
        window: WindowModules, inputs: HiddenStates, targets: HiddenStates, *arguments: Any
    ) -> Any:
        found[window.name] = inputs[:], targets[:]
        return train(window, inputs, targets, *arguments)

    monkeypatch.setattr(windows_in_turn, "train_window_", watch)
    return found


def call(prepared: Prepared, index: int, block: nn.Module, hidden: Tensor) -> Tensor:
    return prepared.model.calls(SEQUENCES, LENGTH)[index](block, hidden)


def arrives(prepared: Prepared, index: int, block: nn.Module, hidden: Tensor, name: str) -> Tensor:
    """Return the input of a matrix while hidden states pass a whole block."""
    found: list[Tensor] = []
    module = block.get_submodule(name)
    handle = module.register_forward_pre_hook(lambda _, args: found.append(args[0].clone()))
    call(prepared, index, block, hidden)
    handle.remove()
    return found[0].reshape(SEQUENCES, LENGTH, -1)


def arrives_in_mlp(block: Any, hidden: Tensor, name: str) -> Tensor:
    """Return the input of a matrix of the MLP, to which hidden states come through its norm."""
    if name.startswith("fc"):
        normed = block.final_layer_norm(hidden)
        return normed if name == "fc1" else block.activation_fn(block.fc1(normed))
    normed, mlp = block.post_attention_layernorm(hidden), block.mlp
    if name != "mlp.down_proj":
        return normed
    return mlp.act_fn(mlp.gate_proj(normed)) * mlp.up_proj(normed)


@torch.no_grad()
def slow_arrivals(prepared: Prepared, adapted: Artifact, name: str, lost: bool) -> Tensor:
    """Return what arrives at a matrix in a block whose matrices are adapted, from dense states.

    What comes behind the matrix does not act on it, so all matrices of the block may be adapted.
    """
    number, _, matrix = name.partition(".")
    last = int(number)
    opt = prepared.model.config.model_type == "opt"
    ends = ("self_attn.out_proj", "fc2") if opt else ("self_attn.o_proj", "mlp.down_proj")
    hidden = prepared.hidden(0 if lost else last)
    for index in range(0 if lost else last, last + 1):
        block = prepared.model.load_block(index, adapted)
        dense = prepared.model.load_block(index)
        wanted = matrix if index == last else None
        if not lost or (wanted is not None and wanted.startswith("self_attn")):
            return arrives(prepared, index, block, hidden, matrix)
        middle = dense.get_submodule(ends[0])(arrives(prepared, index, block, hidden, ends[0]))
        if wanted is not None:
            return arrives_in_mlp(block, middle, wanted)
        hidden = dense.get_submodule(ends[1])(arrives_in_mlp(block, middle, ends[1]))
    raise AssertionError


@torch.no_grad()
def slow_sparse_inputs(prepared: Prepared, adapted: Artifact, name: str) -> Tensor:
    """Return the input of a matrix in the model that is adapted up to it."""
    number, _, matrix = name.partition(".")
    hidden = prepared.hidden(0)
    for index in range(int(number)):
        block = prepared.model.load_block(index, adapted)
        hidden = call(prepared, index, block, hidden)
    block = prepared.model.load_block(int(number), adapted)
    return arrives(prepared, int(number), block, hidden, matrix)


@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize("variant", QUIRKS)
def test_what_matrices_see_behind_sparse_ones(
    llama: Prepared,
    opt: Prepared,
    tmp_path: Path,
    seen: dict[str, tuple[Tensor, Tensor]],
    variant: str,
    family: str,
) -> None:
    prepared, settings = {"llama": llama, "opt": opt}[family], QUIRKS[variant]
    adapted = tiny.reconstruct(prepared, tmp_path / "adapted", **settings)
    usual: dict[str, tuple[Tensor, Tensor]] = dict(seen)
    seen.clear()
    tiny.reconstruct(
        prepared,
        tmp_path / "usual",
        **{**SMALL["matrix"], "inputs": settings.get("inputs", "dense")},
    )
    assert usual.keys() == seen.keys()
    for name, (inputs, targets) in usual.items():
        arriving = slow_arrivals(prepared, adapted, name, "lost" in variant)
        number, _, matrix = name.partition(".")
        with torch.no_grad():
            made = prepared.model.load_block(int(number)).get_submodule(matrix)(arriving)
        torch.testing.assert_close(targets, made, rtol=1e-5, atol=1e-5, msg=f"targets of {name}")
        if "inputs" in settings:
            arriving = slow_sparse_inputs(prepared, adapted, name)
        torch.testing.assert_close(inputs, arriving, rtol=1e-5, atol=1e-5, msg=f"inputs of {name}")
    # Our own targets are dense: they differ from these wherever a matrix is behind another one.
    same = {name for name in usual if torch.allclose(usual[name][1], seen[name][1], atol=1e-5)}
    first = ("q_proj", "k_proj", "v_proj")
    starts = {name for name in usual if name.endswith(first)}
    if "lost" in variant:
        starts = {name for name in starts if name.startswith("0.")}
    assert same == starts


DROPS: dict[str, Any] = {"model_dropout": True, "optimiser": "sgd", "schedule": "constant"}


def slow_training_with_dropout(
    prepared: Prepared, indices: range, inputs: Tensor, rate: float, epochs: int
) -> list[nn.Module]:
    """Train blocks in train mode by gradient descent with momentum, and return them so."""
    pruned = [load_pruned_block(prepared.model, prepared.masks, index) for index in indices]
    blocks, targets = [block.train() for block, _ in pruned], prepared.hidden(indices.stop)
    kept = [
        (parameter, masks.get(name.removesuffix(".weight")))
        for block, masks in pruned
        for name, parameter in block.named_parameters()
    ]
    momenta = [torch.zeros_like(parameter) for parameter, _ in kept]
    for parameter, _ in kept:
        parameter.requires_grad_(True)
    seed = derive_seed(SEED, "reconstruction", f"{indices.start}-{indices.stop - 1}")
    torch.manual_seed(derive_seed(seed, "dropout"))
    for _ in range(epochs):
        hidden = inputs
        for index, block in zip(indices, blocks, strict=True):
            hidden = call(prepared, index, block, hidden)
        loss = ((hidden - targets) ** 2).mean()
        gradients = torch.autograd.grad(loss, [parameter for parameter, _ in kept])
        with torch.no_grad():
            for (parameter, keep), momentum, gradient in zip(kept, momenta, gradients, strict=True):
                momentum.mul_(0.9).add_(gradient if keep is None else gradient * keep)
                parameter -= rate * momentum
    return blocks


@pytest.mark.parametrize("inputs", ["dense", "sparse"])
def test_dropout_is_active_in_training_and_leaks_into_sparse_inputs(
    opt: Prepared, tmp_path: Path, inputs: str
) -> None:
    settings = {"learning_rate": 0.01, "warmup": 0.0, "epochs": 3, "shuffle": False}
    settings |= {"batch": SEQUENCES, "inputs": inputs, "window": 2, **DROPS}
    adapted = tiny.reconstruct(opt, tmp_path / "adapted", **settings)
    entering = opt.hidden(0)
    for indices in (range(2), range(2, 3)):
        if inputs == "dense":
            entering = opt.hidden(indices.start)
        blocks = slow_training_with_dropout(opt, indices, entering, 0.01, 3)
        for index, block in zip(indices, blocks, strict=True):
            found = opt.model.load_block(index, adapted).state_dict()
            for name, value in block.state_dict().items():
                torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
            torch.manual_seed(derive_seed(SEED, "dropout", "inputs", index))
            with torch.no_grad():
                entering = call(opt, index, block, entering)


def losses(adapted: Artifact) -> list[float]:
    return [
        facts["loss_before"]
        for entry in adapted.files.values()
        for facts in entry["windows"].values()
    ]


def test_losses_are_measured_without_dropout(opt: Prepared, tmp_path: Path) -> None:
    drops, same, other = (
        tiny.reconstruct(opt, tmp_path / f"drops-{seed}-{again}", seed=seed, shuffle=False, **DROPS)
        for seed, again in ((SEED, 0), (SEED, 1), (SEED + 1, 0))
    )
    usual = tiny.reconstruct(opt, tmp_path / "usual", **{**DROPS, "model_dropout": False})
    assert losses(drops) == losses(usual)
    assert tiny.shards(drops) != tiny.shards(usual)
    assert tiny.shards(drops) == tiny.shards(same) != tiny.shards(other), (
        "the seed decides what is dropped"
    )


def test_a_model_without_dropout_is_refused(llama: Prepared, tmp_path: Path) -> None:
    with refused(where="llama"):
        tiny.reconstruct(llama, tmp_path / "adapted", model_dropout=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_which_settings_of_a_config_drop_out(family: str) -> None:
    """Blocks in train mode are those in eval mode unless a rate is above 0."""
    rates = [key for key in tiny.tiny_config(family).to_dict() if re.search("drop", key)]
    for key in rates:
        zero = dict.fromkeys(rates, 0.0)
        model = tiny.tiny_model(family, **{**zero, key: 0.5})
        (blocks,) = (
            module
            for module in model.modules()
            if isinstance(module, nn.ModuleList) and len(module) == BLOCKS
        )
        tokens = torch.arange(2, 2 + LENGTH)[None]
        with torch.no_grad():
            expected = model(tokens).logits
            blocks.train()
            drops = not torch.equal(model(tokens).logits, expected)
        # Falcon's blocks ignore this rate unless attention and MLP follow each other.
        ignored = (family, key) == ("falcon", "attention_dropout")
        assert drops == (bool(dropout_of(model.config.to_dict())) and not ignored), key
