"""The shapes of models against real parameters, operations and saved bytes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from freelunch.costs.shapes import Shapes
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import meta_model
from freelunch.study.families import FAMILIES as TABLE
from freelunch.study.families import family_of
from tiny_models import BLOCKS, FAMILIES, LENGTH, save_tiny_model, tiny_config, tiny_model


@pytest.mark.parametrize("says", ["all", "untied", "little"])
@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_are_those_of_the_parameters(tmp_path: Path, family: str, says: str) -> None:
    """Also from a config file that leaves defaults out, as files on the hub do: whether Gemma's and
    OPT's embeddings are tied is not said there.
    """
    config = tiny_config(family, **({"tie_word_embeddings": False} if says == "untied" else {}))
    written = config.to_dict()
    if says == "little":
        source = save_tiny_model(tmp_path, family)
        written = json.loads((source / "config.json").read_text())
        written.pop("tie_word_embeddings", None)
        assert len(written) < len(config.to_dict()), "nothing was left out"
    shapes, model = Shapes.of(written, "float32"), meta_model(config)
    block = block_of(model)
    linears = block_linears(block)
    found = {name: linear.weight.shape for name, linear in linears.items()}
    table = family_of(config.model_type)
    attention = (table.query, table.key, table.value, table.attention_output)
    names = dict.fromkeys((*attention, *table.mlp_inputs, table.mlp_output))
    named = zip(names, shapes.matrices, strict=True)
    assert {name: (matrix.outputs, matrix.inputs) for name, matrix in named} == found
    assert shapes.block_weights == sum(linear.weight.numel() for linear in linears.values())
    groups = (
        {table.query, table.key, table.value},
        {table.attention_output},
        set(table.mlp_inputs),
        {table.mlp_output},
    )
    for weights, width, names in zip(shapes.weights, shapes.inputs, groups, strict=True):
        fed = [block.get_submodule(name) for name in names]
        assert weights == sum(linear.weight.numel() for linear in fed)
        assert {linear.in_features for linear in fed} == {width}
    embeddings = {
        id(module.weight): module.weight.numel()
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    assert shapes.outer_weights == sum(embeddings.values())
    assert (shapes.blocks, shapes.hidden) == (config.num_hidden_layers, config.hidden_size)
    assert shapes.vocabulary == config.vocab_size
    # What is left out (norms, biases, OPT's positions) is small in any model but these tiny ones.
    total = sum(parameter.numel() for parameter in model.parameters())
    counted = shapes.blocks * shapes.block_weights + shapes.outer_weights
    assert 0.8 * total < counted <= total


def block_of(model: nn.Module) -> Any:
    """Return the first block of a model."""
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList))[0]


FALCON = {
    "model_type": "falcon",
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "vocab_size": 65024,
    "multi_query": True,
    "new_decoder_architecture": False,
}
# Configs as the hub has them, and the billions of weights on the models' own cards.
PUBLISHED: dict[str, tuple[dict[str, Any], float]] = {
    # Its embeddings are tied by default.
    "OPT-1.3B": (
        {
            "model_type": "opt",
            "num_hidden_layers": 24,
            "hidden_size": 2048,
            "ffn_dim": 8192,
            "num_attention_heads": 32,
            "vocab_size": 50272,
        },
        1.3158,
    ),
    # Its heads are 128 wide, which its hidden size does not tell.
    "Qwen3-0.6B": (
        {
            "model_type": "qwen3",
            "num_hidden_layers": 28,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
        0.596,
    ),
    "BLOOM-560m": (
        {
            "model_type": "bloom",
            "n_embed": 1024,
            "n_layer": 24,
            "num_attention_heads": 16,
            "vocab_size": 250880,
        },
        0.559,
    ),
    "Falcon-7B": (FALCON, 6.92),
    "Falcon-40B": (
        {
            **FALCON,
            "hidden_size": 8192,
            "num_hidden_layers": 60,
            "num_attention_heads": 128,
            "num_kv_heads": 8,
            "new_decoder_architecture": True,
        },
        41.3,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_the_weights_of_their_cards(name: str) -> None:
    config, billions = PUBLISHED[name]
    assert Shapes.of(config, "bfloat16").model_bytes / 2e9 == pytest.approx(billions, rel=5e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_of_a_forward_pass(family: str) -> None:
    """Torch counts every product of the attention, we its lower half: what is needed."""
    changes: dict[str, Any] = {"attn_implementation": "eager"}
    model = tiny_model(family, **changes)
    shapes = Shapes.of(model.config.to_dict(), "float32")
    sequences = 2
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(sequences, LENGTH, dtype=torch.long), use_cache=False)
    tokens = sequences * LENGTH
    ours = shapes.forward_flops(tokens, LENGTH)
    linear = BLOCKS * 2 * tokens * shapes.block_weights
    attention = ours - linear
    head = shapes.head_flops(tokens)
    counted = {str(key): value for key, value in counter.get_flop_counts()["Global"].items()}
    # BLOOM adds its biases to the scores in one operation.
    products = counted.pop("aten.bmm") + counted.pop("aten.baddbmm", 0)
    assert sum(counted.values()) == linear + head
    least = attention * (1 if shapes.family.scores else 2)
    assert least <= products <= 1.5 * least


@pytest.mark.parametrize("family", FAMILIES)
def test_who_holds_scores_is_what_the_model_says(family: str) -> None:
    """No kernel of torch computes an attention that transformers calls eager."""
    held = TABLE[family].scores is not None
    assert (meta_model(tiny_config(family)).config._attn_implementation == "eager") == held


# With long sequences, scores are most of what a family that holds them keeps.
LONG = [(family, 1024) for family in FAMILIES if TABLE[family].scores]


@pytest.mark.parametrize(("family", "length"), [*((family, 64) for family in FAMILIES), *LONG])
def test_bytes_that_a_backward_pass_needs(family: str, length: int) -> None:
    """What autograd saves of a block, but for small things, such as a norm's one number a token."""
    wide = {"hidden_size": 256, "num_attention_heads": 4, "word_embed_proj_dim": 256}
    width = {"intermediate_size": 384, "ffn_dim": 384, "ffn_hidden_size": 384, "head_dim": 64}
    known = tiny_config(family).to_dict()
    changes = {key: value for key, value in (wide | width).items() if key in (*known, *wide)}
    model = tiny_model(family, **changes)
    block = block_of(model)
    calls: list[tuple[Any, Any]] = []
    block.register_forward_pre_hook(lambda _, *given: calls.append(given), with_kwargs=True)
    with torch.no_grad():
        model(input_ids=torch.zeros(1, length, dtype=torch.long), use_cache=False)
    ((hidden, *more), named) = calls[0]
    # All blocks share one mask.
    given = [it for it in (*more, *named.values()) if isinstance(it, torch.Tensor)]
    own = {it.untyped_storage().data_ptr() for it in (*model.parameters(), *given)}
    saved: dict[int, int] = {}
    kept = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        block(hidden.clone().requires_grad_(True), *more, **named)
    predicted = Shapes.of(model.config.to_dict(), "float32").saved_bytes(length, length)
    # LayerNorm and ReLU save less than RMSNorm and SiLU; a cut of a fused output saves all of it,
    # and under the mask of a sliding window each query head has its own copy of the keys.
    most = 1.4 if family in ("opt", "bloom", "falcon") else 1.0
    least = 0.8 if family in ("phi3", "mistral", "gemma2", "gemma3_text") else 0.93
    assert least <= predicted / sum(saved.values()) <= most
