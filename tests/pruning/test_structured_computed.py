"""What a model without some heads and channels computes, against smaller and transformers' own."""

import copy
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from freelunch.core.artifact import MANIFEST
from freelunch.core.errors import UserError
from freelunch.model.checkpoint import CONFIG, INDEX, OUTER, StreamedModel, block_shard
from interrupts import contents
from slow_units import (
    BIASED,
    SEQUENCES,
    UNITS,
    assembled,
    assert_equal_logits,
    blocks_of,
    fed,
    inputs_of,
    logits_of,
    masks_of,
    output_names,
    prune_units,
    streamed_logits,
    transformers_model,
)
from tiny_models import (
    BLOCKS,
    CROSSED,
    OTHERS,
    VARIANTS,
    Prepared,
    prepare,
    random_tokens,
    reconstruct,
)

SCORES = ("wanda_sp", "flap")

# --- What a pruned model computes


@pytest.mark.parametrize(
    ("family", "changes", "score", "attention_unit"),
    [
        *((family, {}, *each) for family in CROSSED for each in product(SCORES, UNITS)),
        *((family, {}, "wanda_sp", "head") for family in OTHERS if family != "olmo2"),
        ("granite", {}, "flap", "head"),
        *(
            (family, changes, "wanda_sp", "head" if changes.get("multi_query", True) else "group")
            for family, changes in VARIANTS.values()
            if family == "falcon"
        ),
    ],
    ids=str,
)
def test_a_pruned_model_computes_what_is_left_of_the_dense_one(
    family: str, changes: dict[str, Any], score: str, attention_unit: str, tmp_path: Path
) -> None:
    prepared = prepare(tmp_path, family, sequences=SEQUENCES, **changes)
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


def test_heads_that_one_norm_spans_are_refused(tmp_path: Path) -> None:
    """A head of OLMo 2 that goes would change the norm of the queries of all others."""
    prepared = prepare(tmp_path, "olmo2", sequences=SEQUENCES)
    with pytest.raises(UserError, match="one norm spans the queries of all heads") as error:
        prune_units(prepared, tmp_path / "units", "wanda_sp")
    assert "uNN or NofM" in str(error.value)
    assert not (tmp_path / "units" / MANIFEST).exists()


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


def test_a_pruned_model_of_every_family_is_a_smaller_one(
    prepared: Prepared, tmp_path: Path
) -> None:
    if prepared.model.config.model_type == "opt":
        pytest.skip("OPT's config knows no head size: its heads always fill the hidden size")
    assert_as_a_smaller_model(prepared, tmp_path)


# --- Bias compensation


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
    with pytest.raises(UserError, match="cannot have the bias that compensation needs") as error:
        prune_units(prepared, folder, score, bias_compensation=True)
    assert "bias_compensation: false" in str(error.value)
    assert prepared.model.config.model_type in str(error.value)
    assert not (folder / MANIFEST).exists()


@pytest.mark.parametrize("family", ["smollm3", "granite", "gpt_neox", "bloom", "falcon"])
def test_other_families_with_biases(tmp_path: Path, family: str) -> None:
    prepared = prepare(tmp_path, family, sequences=SEQUENCES)
    masks = prune_units(prepared, tmp_path / "units", "flap")
    made = assembled(prepared, masks, tmp_path / "pruned")
    model, input_ids = transformers_model(made), random_tokens(2, seed=1)
    biases = [
        block.get_submodule(name).bias
        for block in blocks_of(prepared, model)
        for name in output_names(prepared)
    ]
    # FLAP may take nothing of a half.
    assert all(bias is not None for bias in biases) and any(bias.any() for bias in biases)
    found = streamed_logits(StreamedModel(made.folder), input_ids)
    assert_equal_logits(found, logits_of(model, input_ids))


def test_opt_without_biases(tmp_path: Path) -> None:
    """Its config can leave out what its family has."""
    prepared = prepare(tmp_path, "opt", sequences=SEQUENCES, enable_bias=False)
    masks = prune_units(prepared, tmp_path / "masks", "flap")
    transformers_model(assembled(prepared, masks, tmp_path / "pruned"))


# --- Reconstruction


@pytest.mark.parametrize("window", [1, 3, "attention_mlp"])
@pytest.mark.parametrize("attention_unit", UNITS)
def test_every_window_reconstructs(
    biased: Prepared, tmp_path: Path, attention_unit: str, window: int | str
) -> None:
    masks = prune_units(biased, tmp_path / "masks", "flap", attention_unit=attention_unit)
    adapted = reconstruct(replace(biased, masks=masks), tmp_path / "adapted", window=window, seed=0)
    result = assembled(biased, masks, tmp_path / "model", adapted)
    own, start = (
        transformers_model(made) for made in (result, assembled(biased, masks, tmp_path / "start"))
    )
    for index, keep_masks in enumerate(masks_of(biased, masks)):
        windows = adapted.files[block_shard(index)]["windows"]
        for facts in windows.values():
            assert not facts["kept_pruned"]
            # FLAP may take nothing of a half: then there is nothing to learn.
            assert facts["loss_after"] < facts["loss_before"] or facts["loss_before"] == 0
        block, before = (blocks_of(biased, model)[index] for model in (own, start))
        for name, keep in keep_masks.items():
            assert torch.equal(block.get_submodule(name).weight != 0, keep), f"{index}: {name}"
        for name in output_names(biased):
            bias, was = (each.get_submodule(name).bias for each in (block, before))
            half = f"{index}.{'attention' if 'attn' in name else 'mlp'}"
            facts = windows.get(half) or next(iter(windows.values()))
            assert torch.equal(bias, was) is (facts["loss_before"] == 0), f"{index}: {name}"
    input_ids = random_tokens(3, seed=1)
    found = streamed_logits(StreamedModel(result.folder), input_ids)
    assert_equal_logits(found, logits_of(own, input_ids))
