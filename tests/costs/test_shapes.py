"""The shapes of models against real parameters, operations and saved bytes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig

from freelunch.costs.shapes import DTYPE_BYTES, LinearShape, Shapes
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import meta_model
from freelunch.study.families import FAMILIES as TABLE
from freelunch.study.families import family_of
from tiny_models import BLOCKS, FAMILIES, LENGTH, save_tiny_model, tiny_config, tiny_model


def assert_shapes_fit(shapes: Shapes, config: PreTrainedConfig) -> None:
    """Compare with the parameters of the model that transformers makes of a config."""
    model = meta_model(config)
    blocks = next(
        module
        for module in model.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == config.num_hidden_layers
    )
    linears = block_linears(blocks[0]).values()
    assert shapes.block_weights == sum(linear.weight.numel() for linear in linears)
    family = family_of(config.model_type)
    for weights, width, names in zip(
        shapes.weights,
        shapes.inputs,
        (
            {family.query, family.key, family.value},
            {family.attention_output},
            set(family.mlp_inputs),
            {family.mlp_output},
        ),
        strict=True,
    ):
        fed = [blocks[0].get_submodule(name) for name in names]
        assert weights == sum(linear.weight.numel() for linear in fed)
        assert {linear.in_features for linear in fed} == {width}
    embeddings = {
        id(module.weight): module.weight.numel()
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    assert shapes.outer_weights == sum(embeddings.values())
    assert shapes.blocks == config.num_hidden_layers
    assert shapes.hidden == config.hidden_size
    assert shapes.vocabulary == config.vocab_size
    # What is left out (norms, biases, OPT's positions) is small in any model but these tiny ones.
    total = sum(parameter.numel() for parameter in model.parameters())
    counted = shapes.blocks * shapes.block_weights + shapes.outer_weights
    assert 0.8 * total < counted <= total


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_the_parameters(family: str, tie: bool) -> None:
    config = tiny_config(family, tie_word_embeddings=tie)
    assert_shapes_fit(Shapes.of(config.to_dict(), "float32"), config)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_from_a_config_file_that_leaves_defaults_out(tmp_path: Path, family: str) -> None:
    """As files on the hub do: whether Gemma's and OPT's embeddings are tied is not said there."""
    source = save_tiny_model(tmp_path, family)
    written = json.loads((source / "config.json").read_text())
    written.pop("tie_word_embeddings", None)
    config = tiny_config(family)
    assert len(written) < len(config.to_dict()), "nothing was left out"
    assert_shapes_fit(Shapes.of(written, "float32"), config)


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_are_named_as_in_the_model(family: str) -> None:
    model = tiny_model(family)
    shapes = Shapes.of(model.config.to_dict(), "float32")
    block = next(it for it in model.modules() if isinstance(it, nn.ModuleList))[0]
    found = {name: linear.weight.shape for name, linear in block_linears(block).items()}
    names = family_of(shapes.model_type).linears
    ours = zip(names, shapes.matrices, strict=True)
    assert {name: (matrix.outputs, matrix.inputs) for name, matrix in ours} == found


def test_outputs_of_a_block_are_counted_not_its_inputs() -> None:
    """In Phi-3-mini, queries, keys and values are one matrix, and so is what leads into the MLP."""
    phi = {
        "model_type": "phi3",
        "num_hidden_layers": 32,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32064,
        "tie_word_embeddings": False,
    }
    shapes = Shapes.of(phi, "bfloat16")
    assert shapes.matrices == (
        LinearShape(group=0, inputs=3072, outputs=9216),
        LinearShape(group=1, inputs=3072, outputs=3072),
        LinearShape(group=2, inputs=3072, outputs=16384),
        LinearShape(group=3, inputs=8192, outputs=3072),
    )
    assert shapes.output_width == 9216 + 3072 + 16384 + 3072 == 31744


def test_full_size_models() -> None:
    """Sizes that are printed on the models' own cards, of linear layers and embeddings."""
    llama = {
        "model_type": "llama",
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    }
    shapes = Shapes.of(llama, "bfloat16")
    assert shapes.model_bytes / 2 == pytest.approx(8.03e9, rel=1e-3)
    opt = {
        "model_type": "opt",
        "num_hidden_layers": 24,
        "hidden_size": 2048,
        "ffn_dim": 8192,
        "num_attention_heads": 32,
        "vocab_size": 50272,
    }
    shapes = Shapes.of(opt, "float16")
    assert shapes.model_bytes / 2 == pytest.approx(1.3158e9, rel=5e-3)
    assert shapes.bytes_each == DTYPE_BYTES["float16"] == 2


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
    block = next(it for it in model.modules() if isinstance(it, nn.ModuleList))[0]
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


def test_defaults_of_a_family_are_the_plans() -> None:
    """Qwen3's smallest model has heads of 128, which its hidden size does not tell."""
    sizes = {
        "num_hidden_layers": 28,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    }
    qwen = Shapes.of({**sizes, "model_type": "qwen3"}, "bfloat16")
    assert qwen.model_bytes / 2 == pytest.approx(0.596e9, rel=1e-3)
    assert Shapes.of(sizes, "bfloat16").head == 64


def test_sizes_under_other_names() -> None:
    """As the hub's own config.json of BLOOM-560m and of Falcon-7B and Falcon-40B names them."""
    bloom = {
        "model_type": "bloom",
        "n_embed": 1024,
        "n_layer": 24,
        "num_attention_heads": 16,
        "vocab_size": 250880,
    }
    found = Shapes.of(bloom, "float16")
    assert found.model_bytes / 2 == pytest.approx(0.559e9, rel=1e-3)
    falcon = {
        "model_type": "falcon",
        "hidden_size": 4544,
        "num_hidden_layers": 32,
        "num_attention_heads": 71,
        "vocab_size": 65024,
        "multi_query": True,
        "new_decoder_architecture": False,
    }
    seven = Shapes.of(falcon, "bfloat16")
    assert (seven.key_heads, seven.head) == (1, 64)
    assert seven.model_bytes / 2 == pytest.approx(6.92e9, rel=1e-3)
    larger = {
        "hidden_size": 8192,
        "num_hidden_layers": 60,
        "num_attention_heads": 128,
        "num_kv_heads": 8,
        "new_decoder_architecture": True,
    }
    forty = Shapes.of({**falcon, **larger}, "bfloat16")
    assert forty.model_bytes / 2 == pytest.approx(41.3e9, rel=5e-3)
