"""Heads and channels against plain loops, smaller models and transformers' own."""

import copy
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from freelunch import families, streaming
from freelunch.activations import read_statistics
from freelunch.artifact import MANIFEST, Artifact
from freelunch.assembly import assemble_model
from freelunch.blocks import block_linears
from freelunch.checkpoint import CONFIG, INDEX, OUTER, StreamedModel, block_shard
from freelunch.errors import UserError
from freelunch.patterns import Pattern
from freelunch.plan import Plan
from freelunch.pruned import load_pruned_block
from freelunch.reconstruction import reconstruct_windows, split_windows
from freelunch.streaming import BlockPass
from freelunch.study import Study, with_defaults
from freelunch.units import Layout, choose_in_block, choose_in_model
from interrupts import contents
from tiny_models import (
    BLOCKS,
    FAMILIES,
    LENGTH,
    Prepared,
    capture,
    prepare,
    prune,
    random_tokens,
    save_calibration,
)

SEQUENCES = 6
UNITS = ("group", "head")
# Families whose every linear layer can have a bias.
BIASED = ("llama", "opt")


@pytest.fixture(scope="module", params=FAMILIES)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp(request.param), request.param, sequences=SEQUENCES)


@pytest.fixture(scope="module", params=BIASED)
def biased(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp(request.param), request.param, sequences=SEQUENCES)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("llama"), sequences=SEQUENCES)


def prune_units(
    prepared: Prepared, folder: Path, score: str, pattern: str = "s50", **settings: Any
) -> Artifact:
    return prune(prepared.model, prepared.dense, folder, score, pattern, **settings)


def masks_of(prepared: Prepared, masks: Artifact) -> list[dict[str, Tensor]]:
    return [load_pruned_block(prepared.model, masks.folder, index)[1] for index in range(BLOCKS)]


def assembled(prepared: Prepared, masks: Artifact, folder: Path, *adapted: Artifact) -> Artifact:
    return assemble_model(prepared.model, masks, adapted, folder, "fingerprint")


def transformers_model(checkpoint: Artifact) -> nn.Module:
    """Load a checkpoint as a user does; it holds every parameter and no other."""
    model, info = AutoModelForCausalLM.from_pretrained(
        checkpoint.folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    return model.eval()  # type: ignore[no-any-return]


@torch.no_grad()
def logits_of(model: nn.Module, input_ids: Tensor) -> Tensor:
    return model(input_ids=input_ids, use_cache=False).logits  # type: ignore[no-any-return]


@torch.no_grad()
def streamed_logits(model: StreamedModel, input_ids: Tensor) -> Tensor:
    blocks = BlockPass(model, *input_ids.shape)
    hidden = torch.empty(*input_ids.shape, model.config.hidden_size, dtype=model.dtype)
    blocks.embed_(input_ids, hidden)
    for index in range(model.num_blocks):
        blocks.through_(index, model.load_block(index), hidden, hidden)
    return model.logits(input_ids, hidden)


def assert_equal_logits(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.1, "logits without spread would make any comparison pass"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


# --- transformers' own model, and what its output projections are fed


def blocks_of(prepared: Prepared, model: nn.Module) -> nn.ModuleList:
    return model.get_submodule(prepared.model.sharding.path)  # type: ignore[return-value]


def output_names(prepared: Prepared) -> tuple[str, str]:
    """Return the names of the two layers whose inputs are heads, and channels."""
    opt = prepared.model.config.model_type == "opt"
    return ("self_attn.out_proj", "fc2") if opt else ("self_attn.o_proj", "mlp.down_proj")


@contextmanager
def fed(
    prepared: Prepared, model: nn.Module, change: Callable[[int, str, Tensor], Tensor]
) -> Iterator[None]:
    """Let `change(block, name, inputs)` see and replace what each output projection is fed."""
    with ExitStack() as stack:
        for index, block in enumerate(blocks_of(prepared, model)):
            for name in output_names(prepared):
                handle = block.get_submodule(name).register_forward_pre_hook(
                    lambda _, args, index=index, name=name: (change(index, name, args[0]),)
                )
                stack.callback(handle.remove)
        yield


def inputs_of(prepared: Prepared, model: nn.Module) -> list[dict[str, Tensor]]:
    """Return, for each block and output projection, its inputs on the sample, (tokens, in)."""
    seen: list[dict[str, Tensor]] = [{} for _ in range(BLOCKS)]

    def note(index: int, name: str, inputs: Tensor) -> Tensor:
        seen[index][name] = inputs.flatten(0, -2)
        return inputs

    with fed(prepared, model, note):
        logits_of(model, random_tokens(SEQUENCES))
    return seen


# --- The slow reference


@dataclass(frozen=True)
class Gone:
    """Query heads and MLP channels of a block that go."""

    heads: frozenset[int]
    channels: frozenset[int]


def unit_heads(prepared: Prepared, attention_unit: str) -> list[list[int]]:
    """Return the query heads of each unit of attention."""
    heads = prepared.model.config.num_attention_heads
    if attention_unit == "head":
        return [[head] for head in range(heads)]
    shared = heads // num_groups(prepared)
    return [[first + k for k in range(shared)] for first in range(0, heads, shared)]


def num_groups(prepared: Prepared) -> int:
    """Return the key heads of a model; OPT's config does not name them."""
    config = prepared.model.config
    return config.num_attention_heads if config.model_type == "opt" else config.num_key_value_heads


def slow_masks(prepared: Prepared, block: nn.Module, gone: Gone) -> dict[str, Tensor]:
    """Decide for each weight of a block, by the name of its layer, whether it goes."""
    heads, groups = prepared.model.config.num_attention_heads, num_groups(prepared)
    attention, mlp = (block.get_submodule(name) for name in output_names(prepared))
    size, width = attention.in_features // heads, mlp.in_features
    shared = heads // groups
    gone_groups = {
        group
        for group in range(groups)
        if all(group * shared + k in gone.heads for k in range(shared))
    }

    def goes(kind: str, row: int, column: int) -> bool:
        match kind:
            case "q_proj":
                return row // size in gone.heads
            case "k_proj" | "v_proj":
                return row // size in gone_groups
            case "qkv_proj":
                if row < heads * size:
                    return row // size in gone.heads
                return (row - heads * size) % (groups * size) // size in gone_groups
            case "o_proj" | "out_proj":
                return column // size in gone.heads
            case "gate_proj" | "up_proj" | "fc1":
                return row in gone.channels
            case "gate_up_proj":
                return row % width in gone.channels
            case "down_proj" | "fc2":
                return column in gone.channels
        raise AssertionError(f"what is {kind}?")

    masks = {}
    for name, linear in block_linears(block).items():
        keep = torch.ones(linear.weight.shape, dtype=torch.bool)
        for row in range(linear.out_features):
            for column in range(linear.in_features):
                keep[row, column] = not goes(name.split(".")[-1], row, column)
        masks[name] = keep
    return masks


def slow_input_scores(metric: str, weight: Tensor, inputs: Tensor) -> list[float]:
    """Return what each input of an output projection is worth, by the formulas."""
    scores = []
    for j in range(weight.shape[1]):
        column = [float(value) for value in weight.detach()[:, j]]
        values = [float(value) for value in inputs[:, j]]
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        norm = math.sqrt(sum(value**2 for value in values))
        scores.append(
            {
                "WIFV": variance * sum(value**2 for value in column),
                "IFV": variance,
                "WIFN": sum(abs(value) * norm for value in column) / len(column),
            }[metric]
        )
    return scores


def slow_standardised(scores: list[float]) -> list[float]:
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
    return [(score - mean) / deviation for score in scores]


def slow_unit_scores(
    prepared: Prepared,
    block: nn.Module,
    inputs: dict[str, Tensor],
    metric: str,
    scope: str,
    attention_unit: str,
) -> tuple[list[float], list[float]]:
    """Return the scores of a block's units of attention, and of its channels."""
    found = []
    for name in output_names(prepared):
        scores = slow_input_scores(metric, block.get_submodule(name).weight, inputs[name])
        found.append(slow_standardised(scores) if scope == "model" else scores)
    of_inputs, of_channels = found
    size = len(of_inputs) // prepared.model.config.num_attention_heads
    of_units = []
    for heads in unit_heads(prepared, attention_unit):
        members = [of_inputs[head * size + k] for head in heads for k in range(size)]
        of_units.append(sum(members) / len(members))
    return of_units, of_channels


def gone_of(prepared: Prepared, attention_unit: str, units: set[int], channels: set[int]) -> Gone:
    members = unit_heads(prepared, attention_unit)
    return Gone(frozenset(head for unit in units for head in members[unit]), frozenset(channels))


def lowest_units(scores: list[float], percent: int) -> set[int]:
    ranked = sorted(range(len(scores)), key=lambda unit: (scores[unit], unit))
    return set(ranked[: percent * len(scores) // 100])


def slow_gone(
    prepared: Prepared,
    blocks: Sequence[nn.Module],
    inputs: list[dict[str, Tensor]],
    metric: str,
    scope: str,
    attention_unit: str,
    percent: int,
) -> list[Gone]:
    """Choose what goes of each block."""
    scores = [
        slow_unit_scores(prepared, block, seen, metric, scope, attention_unit)
        for block, seen in zip(blocks, inputs, strict=True)
    ]
    if scope == "block":
        return [
            gone_of(prepared, attention_unit, *(lowest_units(part, percent) for part in parts))
            for parts in scores
        ]
    # What goes with all units of either kind, counted in the matrices, shared out among them: key
    # and value heads go with their last query head only, but count with each.
    weights = []
    for kind, part in enumerate(scores[0]):
        every: list[set[int]] = [set(), set()]
        every[kind] = set(range(len(part)))
        masks = slow_masks(prepared, blocks[0], gone_of(prepared, attention_unit, *every))
        weights.append(math.ceil(sum(int((~keep).sum()) for keep in masks.values()) / len(part)))
    units = [
        (score, index, kind, unit)
        for index, parts in enumerate(scores)
        for kind, part in enumerate(parts)
        for unit, score in enumerate(part)
    ]
    everything = sum(weights[kind] for _, _, kind, _ in units)
    chosen: list[tuple[set[int], set[int]]] = [(set(), set()) for _ in blocks]
    removed = 0
    for _, index, kind, unit in sorted(units):
        removed += weights[kind]
        if removed * 100 > percent * everything:
            break
        chosen[index][kind].add(unit)
    return [gone_of(prepared, attention_unit, *parts) for parts in chosen]


# --- Masks


@pytest.mark.parametrize("attention_unit", UNITS)
@pytest.mark.parametrize(
    ("score", "scope", "metric"),
    [
        ("wanda_sp", "block", "WIFN"),
        ("wanda_sp", "model", "WIFN"),
        ("flap", "model", "WIFV"),
        ("flap", "model", "IFV"),
        ("flap", "model", "WIFN"),
        ("flap", "block", "WIFV"),
    ],
)
def test_masks_are_those_of_the_slow_loop(
    prepared: Prepared, tmp_path: Path, score: str, scope: str, metric: str, attention_unit: str
) -> None:
    dense = transformers_model(prepared.model.artifact)
    blocks, inputs = list(blocks_of(prepared, dense)), inputs_of(prepared, dense)
    settings = {"metric": metric} if score == "flap" else {}
    for percent in (30, 50):
        masks = prune_units(
            prepared,
            tmp_path / f"{percent}",
            score,
            f"s{percent}",
            scope=scope,
            attention_unit=attention_unit,
            bias_compensation=False,
            **settings,
        )
        gone = slow_gone(prepared, blocks, inputs, metric, scope, attention_unit, percent)
        assert any(one.channels for one in gone), "nothing goes: any comparison would pass"
        for index, found in enumerate(masks_of(prepared, masks)):
            expected = slow_masks(prepared, blocks[index], gone[index])
            assert found.keys() == expected.keys()
            for name, keep in expected.items():
                assert torch.equal(found[name], keep), f"s{percent}, block {index}: {name}"


@pytest.mark.parametrize("attention_unit", UNITS)
def test_heads_go_in_every_family(prepared: Prepared, tmp_path: Path, attention_unit: str) -> None:
    """Otherwise what the tests here say of the attention would be said of nothing."""
    masks = prune_units(prepared, tmp_path / "masks", "wanda_sp", attention_unit=attention_unit)
    for found in masks_of(prepared, masks):
        keep = found[output_names(prepared)[0]]
        assert int((~keep[0]).sum()) * 2 == keep.shape[1]


@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
def test_without_grouped_queries_a_group_is_a_head(tmp_path: Path, score: str) -> None:
    for family, changes in (("opt", {}), ("llama", {"num_key_value_heads": 4})):
        prepared = prepare(tmp_path / family, family, sequences=SEQUENCES, **changes)
        one, two = (
            prune_units(prepared, tmp_path / f"{family}-{unit}", score, attention_unit=unit)
            for unit in UNITS
        )
        assert one.files == two.files


@pytest.mark.parametrize("attention_unit", UNITS)
@pytest.mark.parametrize("scope", ["block", "model"])
def test_no_more_weights_go_than_the_pattern_says(
    prepared: Prepared, tmp_path: Path, scope: str, attention_unit: str
) -> None:
    """Of all weights of linear layers, keys and values included."""
    for percent in range(10, 91, 10):
        masks = prune_units(
            prepared,
            tmp_path / f"{percent}",
            "flap",
            f"s{percent}",
            scope=scope,
            attention_unit=attention_unit,
            bias_compensation=False,
        )
        found = [keep for block in masks_of(prepared, masks) for keep in block.values()]
        removed = sum(int((~keep).sum()) for keep in found)
        everything = sum(keep.numel() for keep in found)
        assert removed * 100 <= percent * everything, f"s{percent} removes {removed / everything}"


def test_fluctuations_over_several_batches(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch has a mean of its own; the variance is about the mean of all."""
    monkeypatch.setattr(streaming, "BATCH_TOKENS", 2 * LENGTH)
    sample = save_calibration(llama.model.artifact, tmp_path / "sample", random_tokens(SEQUENCES))
    dense = capture(llama.model, sample, tmp_path / "dense")
    inputs = inputs_of(llama, transformers_model(llama.model.artifact))
    for index in range(BLOCKS):
        statistics = read_statistics(dense, index)
        for name in output_names(llama):
            seen = inputs[index][name].double()
            expected = (seen - seen.mean(dim=0)).square().mean(dim=0)
            found = statistics[name].variance.double()
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


# --- What a pruned model computes


@pytest.mark.parametrize("attention_unit", UNITS)
@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
def test_a_pruned_model_computes_what_is_left_of_the_dense_one(
    prepared: Prepared, tmp_path: Path, score: str, attention_unit: str
) -> None:
    masks = prune_units(
        prepared,
        tmp_path / "masks",
        score,
        attention_unit=attention_unit,
        bias_compensation=False,
    )
    keep_masks = masks_of(prepared, masks)
    dense = transformers_model(prepared.model.artifact)
    input_ids = random_tokens(4, seed=1)

    def without(index: int, name: str, inputs: Tensor) -> Tensor:
        return inputs * keep_masks[index][name].any(dim=0)

    with fed(prepared, dense, without):
        expected = logits_of(dense, input_ids)
    assert not torch.allclose(expected, logits_of(dense, input_ids), atol=1e-2)
    pruned = assembled(prepared, masks, tmp_path / "pruned")
    assert_equal_logits(logits_of(transformers_model(pruned), input_ids), expected)
    assert pruned.files[CONFIG]["sha256"] == prepared.model.artifact.files[CONFIG]["sha256"]


@pytest.mark.parametrize("attention_unit", UNITS)
@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
def test_with_compensation_what_goes_is_its_mean(
    biased: Prepared, tmp_path: Path, score: str, attention_unit: str
) -> None:
    masks = prune_units(
        biased, tmp_path / "masks", score, attention_unit=attention_unit, bias_compensation=True
    )
    keep_masks = masks_of(biased, masks)
    dense = transformers_model(biased.model.artifact)
    seen = inputs_of(biased, dense)
    input_ids = random_tokens(4, seed=1)

    def constant(index: int, name: str, inputs: Tensor) -> Tensor:
        keep = keep_masks[index][name].any(dim=0)
        return torch.where(keep, inputs, seen[index][name].mean(dim=0))

    with fed(biased, dense, constant):
        expected = logits_of(dense, input_ids)
    pruned = assembled(biased, masks, tmp_path / "pruned")
    assert_equal_logits(logits_of(transformers_model(pruned), input_ids), expected)


def smaller_model(pruned: nn.Module, masks: list[dict[str, Tensor]], path: str) -> nn.Module:
    """Cut what is pruned out of every matrix, and tell the config."""
    config = copy.deepcopy(pruned.config)
    block = pruned.get_submodule(path)[0]
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    size = block.self_attn.o_proj.in_features // heads
    width = int(masks[0]["self_attn.o_proj"].any(dim=0).sum())
    config.head_dim = size
    config.num_attention_heads = width // size
    config.num_key_value_heads = groups * width // (heads * size)
    config.intermediate_size = int(masks[0]["mlp.down_proj"].any(dim=0).sum())
    state = dict(pruned.state_dict())
    for index, of_block in enumerate(masks):
        for name, keep in of_block.items():
            prefix = f"{path}.{index}.{name}"
            rows, columns = keep.any(dim=1), keep.any(dim=0)
            state[f"{prefix}.weight"] = state[f"{prefix}.weight"][rows][:, columns]
            if f"{prefix}.bias" in state:
                state[f"{prefix}.bias"] = state[f"{prefix}.bias"][rows]
    model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(state)
    return model.eval()


def assert_as_a_smaller_model(
    prepared: Prepared, folder: Path, pattern: str = "s50", **settings: Any
) -> None:
    masks = prune_units(
        prepared, folder / "masks", "wanda_sp", pattern, attention_unit="group", **settings
    )
    pruned = transformers_model(assembled(prepared, masks, folder / "pruned"))
    small = smaller_model(pruned, masks_of(prepared, masks), prepared.model.sharding.path)
    for kind in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        assert getattr(small.config, kind) < getattr(pruned.config, kind), kind
    input_ids = random_tokens(4, seed=1)
    # In float64: sums of fewer terms round differently, and Gemma's logits are large.
    found, expected = (logits_of(model.double(), input_ids) for model in (small, pruned))
    assert_equal_logits(found, expected)


@pytest.mark.parametrize("bias_compensation", [False, True])
@pytest.mark.parametrize("pattern", ["s25", "s50", "s75"])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (8, 4)], ids=["plain", "grouped"])
def test_a_pruned_llama_is_a_smaller_llama(
    tmp_path: Path, heads: int, groups: int, pattern: str, bias_compensation: bool
) -> None:
    prepared = prepare(
        tmp_path, sequences=SEQUENCES, num_attention_heads=heads, num_key_value_heads=groups
    )
    assert_as_a_smaller_model(
        prepared, tmp_path, pattern=pattern, bias_compensation=bias_compensation
    )


def test_a_pruned_model_of_every_family_is_a_smaller_one(
    prepared: Prepared, tmp_path: Path
) -> None:
    if prepared.model.config.model_type == "opt":
        pytest.skip("OPT's config knows no head size: its heads always fill the hidden size")
    assert_as_a_smaller_model(prepared, tmp_path)


# --- Bias compensation


@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
@torch.no_grad()
def test_mean_outputs_stay(biased: Prepared, tmp_path: Path, score: str) -> None:
    """Of each output projection, fed what the dense model's is."""
    dense = transformers_model(biased.model.artifact)
    inputs = inputs_of(biased, dense)
    compensated, plain = (
        prune_units(biased, tmp_path / f"masks-{yes}", score, bias_compensation=yes)
        for yes in (True, False)
    )
    keep_masks = masks_of(biased, compensated)
    models = [
        transformers_model(assembled(biased, masks, tmp_path / f"pruned-{number}"))
        for number, masks in enumerate((compensated, plain))
    ]

    def mean_output(model: nn.Module, index: int, name: str) -> Tensor:
        linear = blocks_of(biased, model)[index].get_submodule(name)
        outputs: Tensor = linear(inputs[index][name])
        return outputs.mean(dim=0)

    changed = set()
    for index in range(BLOCKS):
        for name in output_names(biased):
            expected = mean_output(dense, index, name)
            found, uncompensated = (mean_output(model, index, name) for model in models)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
            if not keep_masks[index][name].all():
                changed.add(name)
                assert (uncompensated - expected).abs().max() > 1e-2, f"block {index}: {name}"
    assert changed == set(output_names(biased))


def test_the_dense_model_is_left_alone(biased: Prepared, tmp_path: Path) -> None:
    dense = biased.model.artifact
    before = contents(dense.folder)
    pruned = assembled(biased, prune_units(biased, tmp_path / "masks", "flap"), tmp_path / "pruned")
    assert contents(dense.folder) == before
    config, changed = (json.loads(made.path(CONFIG).read_text()) for made in (dense, pruned))
    if config["model_type"] == "llama":
        assert (config["attention_bias"], config["mlp_bias"]) == (False, False)
        config |= {"attention_bias": True, "mlp_bias": True}
    assert changed == config
    written = {INDEX, CONFIG, *(block_shard(index) for index in range(BLOCKS))}
    kept = dense.files.keys() - written
    assert OUTER in kept and "tokenizer.json" in kept
    assert pruned.files.keys() == dense.files.keys()
    for name in kept:
        assert pruned.files[name]["sha256"] == dense.files[name]["sha256"], name
    assert pruned.path(OUTER).stat().st_ino == dense.path(OUTER).stat().st_ino
    transformers_model(pruned)


@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
def test_families_without_biases_say_what_to_change(
    prepared: Prepared, tmp_path: Path, score: str
) -> None:
    folder = tmp_path / "masks"
    if prepared.model.config.model_type in BIASED:
        prune_units(prepared, folder, score, bias_compensation=True)
        return
    with pytest.raises(UserError, match="no bias") as error:
        prune_units(prepared, folder, score, bias_compensation=True)
    assert "bias_compensation: false" in str(error.value)
    assert prepared.model.config.model_type in str(error.value)
    assert not (folder / MANIFEST).exists()


def test_opt_without_biases(tmp_path: Path) -> None:
    """Its config can leave out what its family has."""
    prepared = prepare(tmp_path, "opt", sequences=SEQUENCES, enable_bias=False)
    masks = prune_units(prepared, tmp_path / "masks", "flap")
    transformers_model(assembled(prepared, masks, tmp_path / "pruned"))


# --- Reconstruction


@pytest.mark.parametrize("window_blocks", [1, 3])
@pytest.mark.parametrize("attention_unit", UNITS)
def test_every_window_reconstructs(
    biased: Prepared, tmp_path: Path, attention_unit: str, window_blocks: int
) -> None:
    masks = prune_units(biased, tmp_path / "masks", "flap", attention_unit=attention_unit)
    adapted = reconstruct_windows(
        model=biased.model,
        masks=masks,
        dense=biased.dense,
        windows=split_windows(BLOCKS, window_blocks),
        settings={
            "learning_rate": 0.003,
            "warmup": 0.3,
            "epochs": 2,
            "batch": 2,
            "shuffle": True,
            "train_norms": True,
            "train_biases": True,
        },
        seed=0,
        folder=tmp_path / "adapted",
        fingerprint="fingerprint",
    )
    result = assembled(biased, masks, tmp_path / "model", adapted)
    own, start = (
        transformers_model(made) for made in (result, assembled(biased, masks, tmp_path / "start"))
    )
    for index, keep_masks in enumerate(masks_of(biased, masks)):
        entry = adapted.files[block_shard(index)]
        assert not entry["kept_pruned"]
        assert entry["loss_after"] < entry["loss_before"]
        block, before = (blocks_of(biased, model)[index] for model in (own, start))
        for name, keep in keep_masks.items():
            assert torch.equal(block.get_submodule(name).weight != 0, keep), f"{index}: {name}"
        for name in output_names(biased):
            bias, was = (each.get_submodule(name).bias for each in (block, before))
            assert not torch.equal(bias, was), f"{index}: {name}"
    input_ids = random_tokens(3, seed=1)
    found = streamed_logits(StreamedModel(result.folder), input_ids)
    assert_equal_logits(found, logits_of(own, input_ids))


# --- Choosing units


@st.composite
def sets_of_units(draw: st.DrawFn) -> tuple[list[list[float]], list[int]]:
    """Draw scores, many of them equal, and the weights of a unit for each set."""
    score = st.integers(-3, 3).map(float) | st.floats(-10, 10, width=32)
    sets = draw(st.lists(st.lists(score, min_size=1, max_size=12), min_size=1, max_size=6))
    return sets, [draw(st.integers(1, 1000)) for _ in sets]


@given(sets_of_units(), st.integers(1, 99))
def test_choosing_in_a_model(drawn: tuple[list[list[float]], list[int]], percent: int) -> None:
    sets, weights = drawn
    pattern = Pattern.parse(f"s{percent:02d}")
    keep = choose_in_model([torch.tensor(scores) for scores in sets], weights, pattern)
    assert [len(part) for part in keep] == [len(scores) for scores in sets]
    # Of equal scores the first: in the order of the sets, and in a set by index.
    order = sorted(
        (score, number, unit) for number, part in enumerate(sets) for unit, score in enumerate(part)
    )
    gone = {(number, int(unit)) for number, part in enumerate(keep) for unit in (~part).nonzero()}
    assert gone == {(number, unit) for _, number, unit in order[: len(gone)]}
    everything = sum(len(part) * each for part, each in zip(sets, weights, strict=True))
    removed = sum(weights[number] for number, _ in gone)
    assert removed * 100 <= percent * everything
    _, number, _ = order[len(gone)]
    assert (removed + weights[number]) * 100 > percent * everything, "one more would fit"


@given(
    st.lists(st.integers(-3, 3).map(float) | st.floats(-10, 10, width=32), min_size=1, max_size=99),
    st.integers(1, 99),
)
def test_choosing_in_a_block(scores: list[float], percent: int) -> None:
    keep = choose_in_block(torch.tensor(scores), Pattern.parse(f"s{percent:02d}"))
    gone = {int(unit) for unit in (~keep).nonzero()}
    assert len(gone) == percent * len(scores) // 100
    assert gone == lowest_units(scores, percent)


def test_equal_scores_are_all_the_mean(llama: Prepared) -> None:
    """A matrix whose scores say nothing neither loses all its units nor keeps them for that."""
    layout = Layout.of(llama.model.config, "group")
    block = llama.model.load_block(0)
    constant = SimpleNamespace(unit_score=lambda weight, *_: torch.full(weight.shape[1:], 0.1))
    statistics = dict.fromkeys(block_linears(block))
    for part in layout.scores(block, statistics, constant, {"scope": "model"}, ""):
        assert torch.equal(part, torch.zeros(len(part)))


# --- Statistics of the sparse model


def test_sparse_statistics_leave_the_first_block_as_it_is(llama: Prepared, tmp_path: Path) -> None:
    dense, sparse = (
        masks_of(llama, prune_units(llama, tmp_path / kind, "wanda_sp", statistics=kind))
        for kind in ("dense", "sparse")
    )
    equal = [
        all(torch.equal(one[name], two[name]) for name in one)
        for one, two in zip(dense, sparse, strict=True)
    ]
    assert equal[0]
    assert not all(equal), "the pruned blocks before them changed nothing"


@pytest.mark.parametrize("bias_compensation", [False, True])
@torch.no_grad()
def test_sparse_statistics_are_of_the_pruned_blocks_before(
    biased: Prepared, tmp_path: Path, bias_compensation: bool
) -> None:
    """Prune transformers' own model block by block; the sample passes through it each time."""
    masks = prune_units(
        biased,
        tmp_path / "masks",
        "wanda_sp",
        statistics="sparse",
        bias_compensation=bias_compensation,
    )
    slow = transformers_model(biased.model.artifact)
    for index, block in enumerate(blocks_of(biased, slow)):
        seen = inputs_of(biased, slow)[index]
        (gone,) = slow_gone(biased, [block], [seen], "WIFN", "block", "group", 50)
        expected = slow_masks(biased, block, gone)
        found = load_pruned_block(biased.model, masks.folder, index)[1]
        assert all(torch.equal(found[name], keep) for name, keep in expected.items()), index
        for name, keep in expected.items():
            linear = block.get_submodule(name)
            if bias_compensation and name in output_names(biased):
                lost = (linear.weight * ~keep) @ seen[name].mean(dim=0)
                bias = lost if linear.bias is None else linear.bias + lost
                linear.bias = nn.Parameter(bias)
            linear.weight.masked_fill_(~keep, 0.0)
    input_ids = random_tokens(3, seed=1)
    pruned = transformers_model(assembled(biased, masks, tmp_path / "pruned"))
    assert_equal_logits(logits_of(pruned, input_ids), logits_of(slow, input_ids))


# --- What is refused, and where


def config(
    criteria: dict[str, dict[str, Any]],
    patterns: Sequence[str],
    architecture: dict[str, Any] | None = None,
) -> dict[str, Any]:
    wheel = {"source": "wheel", "package": "p", "version": "1", "sha256": "0" * 64, "member": "m"}
    model = {**wheel, "architecture": architecture} if architecture else wheel
    return {
        "models": {"tiny": model},
        "texts": {"text": {**wheel, "format": "lines"}},
        "criteria": criteria,
        "adaptations": {},
        "study": {
            "name": "tests",
            "calibration": {"text": "text", "samples": 4, "length": 8},
            "evaluation": {"perplexity": {"text": "text", "length": 8}},
            "grids": [
                {
                    "models": ["tiny"],
                    "criteria": ["magnitude"],
                    "patterns": ["u50"],
                    "adaptations": ["none"],
                },
                {
                    "models": ["tiny"],
                    "criteria": [name for name in criteria if name != "magnitude"],
                    "patterns": list(patterns),
                    "adaptations": ["none"],
                },
            ],
        },
    }


MAGNITUDE = {"magnitude": {"score": "magnitude"}}
SHAPES = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}


@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
def test_the_scope_of_a_model_needs_dense_statistics(score: str) -> None:
    def check(scope: str, statistics: str) -> Study:
        entry = {"score": score, "scope": scope, "statistics": statistics}
        return Study.check(config({**MAGNITUDE, "units": entry}, ["s20"]), "config.yaml")

    with pytest.raises(UserError, match="1 problem") as error:
        check("model", "sparse")
    assert "criteria.units" in str(error.value)
    assert "expected statistics: dense" in str(error.value)
    check("model", "dense")
    check("block", "sparse")


def test_the_default_scope_of_flap_needs_dense_statistics() -> None:
    entry = {"score": "flap", "statistics": "sparse"}
    with pytest.raises(UserError, match="expected statistics: dense"):
        Study.check(config({**MAGNITUDE, "units": entry}, ["s20"]), "config.yaml")


@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
def test_units_and_weights_do_not_share_a_grid(score: str) -> None:
    criteria = {**MAGNITUDE, "units": {"score": score}, "weights": {"score": "wanda"}}
    with pytest.raises(UserError, match="2 problems") as error:
        Study.check(config(criteria, ["u50", "s20"]), "config.yaml")
    message = str(error.value)
    assert "study.grids.1: 'units' prunes whole units: it takes sNN, not u50" in message
    assert "study.grids.1: 'weights' prunes single weights: it takes uNN or NofM, not s20" in (
        message
    )
    assert "grids.0" not in message
    criteria.pop("weights")
    assert len(Study.check(config(criteria, ["s20"]), "config.yaml").cells) == 3


@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
def test_a_family_that_is_not_in_the_table(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: str
) -> None:
    before = llama.masks
    monkeypatch.delitem(families.FAMILIES, "llama")
    with pytest.raises(UserError, match="parts of this family's blocks are not known") as error:
        prune_units(llama, tmp_path / "units", score, bias_compensation=False)
    assert "families.py" in str(error.value)
    assert str(error.value).startswith("llama: ")
    assert not (tmp_path / "units" / MANIFEST).exists()
    weights = prune(llama.model, llama.dense, tmp_path / "weights", "wanda", "u50")
    assert weights.files == before.files


def plan(
    criterion: dict[str, Any],
    pattern: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    **shapes: Any,
) -> Plan:
    """Plan a study of a model that only its `architecture` tells of."""
    monkeypatch.chdir(folder)
    criteria = {**MAGNITUDE, "other": criterion}
    return Plan.of(Study.check(config(criteria, [pattern], {**SHAPES, **shapes}), "config.yaml"))


def test_the_plan_refuses_biases_that_a_family_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flap = {"score": "flap"}
    with pytest.raises(UserError, match="1 problem in the grids") as error:
        plan(flap, "s20", tmp_path, monkeypatch, model_type="mistral")
    message = str(error.value)
    assert "tiny/other-s20" in message
    assert "mistral" in message
    assert "bias_compensation: false" in message
    assert not list(tmp_path.iterdir())
    plan({**flap, "bias_compensation": False}, "s20", tmp_path, monkeypatch, model_type="mistral")
    plan(flap, "s20", tmp_path, monkeypatch, model_type="llama")
    plan({"score": "wanda_sp"}, "s20", tmp_path, monkeypatch, model_type="mistral")


def test_the_plan_refuses_units_of_an_unknown_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="parts of this family's blocks are not known") as error:
        plan({"score": "wanda_sp"}, "s20", tmp_path, monkeypatch, model_type="unknown")
    assert "tiny/other-s20: unknown" in str(error.value)
    plan({"score": "wanda"}, "u50", tmp_path, monkeypatch, model_type="unknown")


def test_the_plan_waits_for_a_family_that_is_not_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`model_type` may be left out of an `architecture`; the model itself will say."""
    plan({"score": "wanda_sp"}, "s20", tmp_path, monkeypatch)


def test_the_plan_refuses_a_pattern_that_does_not_divide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = {"model_type": "llama", "hidden_size": 18, "head_dim": 4}
    with pytest.raises(UserError, match="1 problem in the grids") as error:
        plan({"score": "wanda"}, "2of4", tmp_path, monkeypatch, **shapes)
    message = str(error.value)
    assert "tiny/other-2of4: a linear layer has 18 inputs; expected a multiple of 4" in message
    plan({"score": "wanda"}, "u50", tmp_path, monkeypatch, **shapes)
    plan({"score": "wanda"}, "2of4", tmp_path, monkeypatch, model_type="llama")


def test_defaults_are_the_papers() -> None:
    """FLAP compares all units of a model and compensates; Wanda-sp each block's, and does not."""
    flap, wanda_sp = (with_defaults({"score": score}) for score in ("flap", "wanda_sp"))
    assert (flap["scope"], flap["metric"], flap["bias_compensation"]) == ("model", "WIFV", True)
    assert (wanda_sp["scope"], wanda_sp["bias_compensation"]) == ("block", False)
