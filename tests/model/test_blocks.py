"""Streaming through blocks against transformers' own forward, for every family."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from freelunch.core.artifact import Artifact
from freelunch.model.blocks import BlockCall, block_linears, check_blocks, find_blocks, same_call
from freelunch.model.checkpoint import OUTER, StreamedModel, block_shard
from freelunch.model.hidden_states import BlockPass
from refusals import refused
from slow_units import streamed_logits
from tiny_models import (
    FAMILIES,
    LENGTH,
    VARIANTS,
    fetch_tiny_model,
    random_tokens,
    save_tiny_model,
    tiny_checkpoint,
    tiny_model,
)

WEIGHTS = "model.safetensors"


@dataclass
class Pair:
    """A model as `save_pretrained` wrote it, and our checkpoint of it."""

    source: Path
    checkpoint: Artifact

    @classmethod
    def below(cls, folder: Path, family: str, **changes: Any) -> "Pair":
        source = save_tiny_model(folder / "source", family, **changes)
        return cls(source, fetch_tiny_model(source, folder / "checkpoint"))

    def check_logits(self, batch: int) -> None:
        """Compare those of our passes with those that transformers makes of the source."""
        input_ids = random_tokens(batch)
        expected = own_logits(self.source, input_ids)
        assert expected.std() > 0.1, "logits without spread would make any comparison pass"
        found = streamed_logits(StreamedModel(self.checkpoint.folder), input_ids)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair.below(tmp_path_factory.mktemp(request.param), request.param)


@torch.no_grad()
def own_logits(folder: Path, input_ids: Tensor) -> Tensor:
    """Return what transformers makes of a folder, (batch, length, vocabulary)."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert not model.training
    return model(input_ids=input_ids, use_cache=False).logits


@pytest.mark.parametrize("batch", [1, 3])
def test_streamed_logits_are_those_of_transformers(pair: Pair, batch: int) -> None:
    pair.check_logits(batch)


@pytest.mark.parametrize(("family", "changes"), VARIANTS.values(), ids=VARIANTS)
def test_a_block_as_another_setting_makes_it(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    Pair.below(tmp_path, family, **changes).check_logits(3)


def test_the_checkpoint_loads_with_transformers_alone(pair: Pair) -> None:
    input_ids = random_tokens(2)
    found = own_logits(pair.checkpoint.folder, input_ids)
    assert torch.equal(found, own_logits(pair.source, input_ids))
    tokenizer = AutoTokenizer.from_pretrained(pair.checkpoint.folder)
    text = "the shells she sells"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_loaded_block_is_private(pair: Pair) -> None:
    """And ready for passes; its shard holds nothing else, and its linears are all its matrices."""
    model = StreamedModel(pair.checkpoint.folder)
    before = load_file(pair.checkpoint.path(block_shard(0)))
    path = model.sharding.path
    assert before and all(name.startswith(f"{path}.0.") for name in before)
    assert not any(path in name for name in load_file(pair.checkpoint.path(OUTER)))
    block = model.load_block(1)
    assert not any(module.training for module in block.modules())
    assert not any(parameter.requires_grad for parameter in block.parameters())
    assert not any(tensor.is_meta for tensor in [*block.parameters(), *block.buffers()])
    matrices = sum(parameter.numel() for parameter in block.parameters() if parameter.dim() == 2)
    assert sum(linear.weight.numel() for linear in block_linears(block).values()) == matrices
    with torch.no_grad():
        for parameter in model.load_block(0).parameters():
            parameter.zero_()
    name = next(iter(block_linears(model.load_block(0))))
    weight = model.load_block(0).get_submodule(name).weight
    assert torch.equal(weight, before[model.sharding.name(0, f"{name}.weight")])


def test_attention_types_differ_between_blocks_where_the_family_says_so(tmp_path: Path) -> None:
    """Without this the sliding-window families would test nothing that Llama does not."""
    for family in ("qwen2", "qwen3", "smollm3", "gemma2", "gemma3_text"):
        model = StreamedModel(tiny_checkpoint(tmp_path / family, family).folder)
        calls = model.calls(1, LENGTH)
        assert not all(same_call(calls[0], call) for call in calls[1:]), family


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "opt", "gemma2", "gpt_neox", "bloom"])
def test_ties_are_kept(tmp_path: Path, family: str, tie: bool) -> None:
    pair = Pair.below(tmp_path, family, tie_word_embeddings=tie)
    folder = pair.checkpoint.folder
    assert StreamedModel(folder).config.tie_word_embeddings is tie
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    tied = loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert tied is tie
    assert ("lm_head.weight" in load_file(folder / OUTER)) is not tie
    pair.check_logits(2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bfloat16_entry(tmp_path: Path, family: str) -> None:
    checkpoint = tiny_checkpoint(tmp_path, family, "bfloat16")
    for shard in [OUTER, block_shard(0)]:
        tensors = load_file(checkpoint.path(shard))
        assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    input_ids = random_tokens(2)
    model = StreamedModel(checkpoint.folder)
    assert model.dtype == torch.bfloat16
    found = streamed_logits(model, input_ids)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, own_logits(checkpoint.folder, input_ids))


def test_sequences_beyond_one_batch_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = StreamedModel(tiny_checkpoint(tmp_path).folder)
    input_ids = random_tokens(5)
    whole = streamed_logits(model, input_ids)
    monkeypatch.setattr("freelunch.model.hidden_states.BATCH_TOKENS", 2 * LENGTH)
    batches = BlockPass(model, 5, LENGTH).batches
    assert [(part.start, part.stop) for part in batches] == [(0, 2), (2, 4), (4, 5)]
    torch.testing.assert_close(streamed_logits(model, input_ids), whole, rtol=0, atol=1e-5)


class _Lists(nn.Module):
    """A module with lists of the given lengths."""

    def __init__(self, *lengths: int) -> None:
        super().__init__()
        for number, length in enumerate(lengths):
            modules = [nn.Linear(2, 2) for _ in range(length)]
            setattr(self, f"list{number}", nn.ModuleList(modules))


@pytest.mark.parametrize(
    "lengths", [(), (2,), (3, 3), None], ids=["none", "other length", "two", "mixed"]
)
def test_blocks_that_cannot_be_found(lengths: tuple[int, ...] | None) -> None:
    model = _Lists(*((3,) if lengths is None else lengths))
    if lengths is None:
        model.list0[1] = nn.Identity()
    with refused(found="module lists", expected="exactly one list of 3"):
        find_blocks(model, 3)


def test_calls_that_depend_on_the_tokens_are_refused(tmp_path: Path) -> None:
    model = StreamedModel(tiny_checkpoint(tmp_path).folder)
    rotary = model.outer.backbone.rotary_emb
    inner = rotary.forward

    def forward(hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        cosine, sine = inner(hidden, position_ids)
        return cosine + hidden.sum(), sine

    rotary.forward = forward
    with refused(where=model.folder, found="LlamaForCausalLM"):
        model.calls(1, LENGTH)


def test_same_call_sees_every_difference() -> None:
    one = BlockCall((torch.ones(2),), {"mask": None, "pair": (torch.zeros(1), 3)})
    assert same_call(one, BlockCall((torch.ones(2),), {"mask": None, "pair": (torch.zeros(1), 3)}))
    for other in (
        BlockCall((torch.zeros(2),), one.kwargs),
        BlockCall((), one.kwargs),
        BlockCall(one.args, {"mask": torch.ones(1), "pair": one.kwargs["pair"]}),
        BlockCall(one.args, {"mask": None, "pair": (torch.zeros(1), 4)}),
        BlockCall(one.args, {"mask": None}),
    ):
        assert not same_call(one, other)


Weights = dict[str, Tensor]


def _changed(folder: Path, change: Callable[[Weights], object], family: str, **config: Any) -> Path:
    """Save a model, and change its weights on disk."""
    source = save_tiny_model(folder / "source", family, **config)
    weights = load_file(source / WEIGHTS)
    change(weights)
    save_file(weights, source / WEIGHTS, metadata={"format": "pt"})
    return source


@pytest.mark.parametrize(
    ("tie", "name"),
    [
        (False, "model.layers.1.mlp.up_proj.weight"),
        (False, "model.norm.weight"),
        (False, "lm_head.weight"),
        # Stored once, for the head too: without it transformers would draw random embeddings.
        (True, "model.embed_tokens.weight"),
    ],
)
def test_a_checkpoint_that_lacks_a_tensor(tmp_path: Path, tie: bool, name: str) -> None:
    source = _changed(tmp_path, lambda weights: weights.pop(name), "llama", tie_word_embeddings=tie)
    with refused(where=source, found=name):
        fetch_tiny_model(source, tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint" / "manifest.json").exists()


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), "float32"), (1e5, "float16")])
def test_a_weight_that_is_not_finite(tmp_path: Path, value: float, dtype: str) -> None:
    """Or not once it is stored."""
    name = "model.layers.1.mlp.up_proj.weight"
    source = _changed(tmp_path, lambda weights: weights[name].view(-1)[3].fill_(value), "llama")
    with refused(where=name, found="1 of ", expected=f"as {dtype}"):
        fetch_tiny_model(source, tmp_path / "refused", dtype)
    if dtype == "float16":
        fetch_tiny_model(source, tmp_path / "single")


def _named_by_the_head(weights: Weights) -> None:
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")


def _without(prefix: str, family: str) -> Callable[[Weights], None]:
    """Rename as on the hub; each block of an old GPT-NeoX holds its causal mask, too."""

    def rename(weights: Weights) -> None:
        for name in list(weights):
            weights[name.replace(f"{family}.", prefix, 1)] = weights.pop(name)
        if family == "gpt_neox":
            assert "embed_out.weight" in weights, "transformers itself writes the old name"
            weights[f"{prefix}layers.0.attention.bias"] = torch.ones(1, 1, 4, 4)
            weights[f"{prefix}layers.0.attention.masked_bias"] = torch.tensor(-1e9)

    return rename


@pytest.mark.parametrize(
    ("family", "rename", "config"),
    [
        ("llama", _named_by_the_head, {"tie_word_embeddings": True}),
        # `decoder.layers...` for `model.decoder.layers...`.
        ("opt", _without("", "model"), {}),
        ("gpt_neox", _without("gpt_neox.", "gpt_neox"), {}),
        ("gpt_neox", _without("", "gpt_neox"), {}),
    ],
)
def test_a_checkpoint_with_names_as_on_the_hub(
    tmp_path: Path, family: str, rename: Callable[[Weights], None], config: dict[str, Any]
) -> None:
    expected = own_logits(save_tiny_model(tmp_path / "own", family, **config), random_tokens(1))
    checkpoint = fetch_tiny_model(
        _changed(tmp_path, rename, family, **config), tmp_path / "checkpoint"
    )
    assert torch.equal(own_logits(checkpoint.folder, random_tokens(1)), expected)


def test_blocks_with_matrices_outside_of_linear_layers() -> None:
    """GPT-2 has layers of its own; they would be left dense without a word."""
    model = AutoModelForCausalLM.from_config(GPT2Config(n_layer=2, n_embd=8, n_head=2))
    with refused(where="GPT2Block", expected="torch.nn.Linear"):
        check_blocks(model, "transformer.h")
    model = tiny_model("llama")
    check_blocks(model, "model.layers")
    model.model.layers[0].mlp.extra = nn.Parameter(torch.ones(2, 3, 4))
    with refused(where="LlamaForCausalLM", found="mlp.extra"):
        check_blocks(model, "model.layers")


def test_a_source_in_several_shards(tmp_path: Path) -> None:
    whole, parts = (save_tiny_model(tmp_path / name) for name in ("whole", "parts"))
    (parts / WEIGHTS).unlink()
    tiny_model("llama").save_pretrained(parts, max_shard_size="4KB")
    assert len(list(parts.glob("*.safetensors"))) > 2
    found, expected = (
        fetch_tiny_model(source, source.with_name(f"checkpoint-{source.name}"))
        for source in (parts, whole)
    )
    assert all(
        found.files[name]["sha256"] == expected.files[name]["sha256"]
        for name in expected.files
        if "block" in name
    )
