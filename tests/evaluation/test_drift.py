"""Activation drift against transformers' own hidden states, and what it has to be."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import tiny_models as tiny
from damage import note_anew
from freelunch.evaluation import drift
from freelunch.evaluation.drift import BLOCK, relative
from freelunch.model.checkpoint import StreamedModel, block_shard
from measuring import drift_of, perplexity_of
from tiny_models import BLOCKS, FAMILIES

SEQUENCES = 5


def changed_model(source: Path, target: Path) -> Path:
    """Save a copy of a model whose matrices lost their smallest half."""
    model = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and "head" not in name:
                weight = module.weight
                weight[weight.abs() < weight.abs().median()] = 0
    model.save_pretrained(target)
    for file in source.glob("token*"):
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.fixture(params=FAMILIES)
def models(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, Path, Path]:
    source = tiny.save_tiny_model(tmp_path / "source", request.param)
    changed = changed_model(source, tmp_path / "changed")
    dense = tiny.fetch_tiny_model(source, tmp_path / "dense").folder
    return source, changed, dense, tiny.fetch_tiny_model(changed, tmp_path / "checkpoint").folder


def measured(dense: Path, checkpoint: Path, input_ids: Tensor, scratch: Path) -> dict:
    scratch.mkdir()
    return drift_of(StreamedModel(dense), StreamedModel(checkpoint), input_ids, scratch)


@torch.no_grad()
def block_outputs(folder: Path, input_ids: Tensor) -> list[Tensor]:
    """Return what each block of transformers' own model puts out."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    (blocks,) = (
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == BLOCKS
    )
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor]) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    for block in blocks:
        block.register_forward_hook(note)
    model(input_ids=input_ids, use_cache=False)
    return seen


def test_accumulated_errors_equal_transformers(
    models: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    source, changed, dense, checkpoint = models
    input_ids = tiny.random_tokens(SEQUENCES)
    found = measured(dense, checkpoint, input_ids, tmp_path / "scratch")
    # The first block has only errors of its own, and the dense model none.
    assert found["drift"]["local"][0] == found["drift"]["accumulated"][0]
    none = measured(dense, dense, input_ids, tmp_path / "itself")["drift"]
    blocks = [facts for of_kind in none.values() for block in of_kind for facts in block.values()]
    assert not any(fact for facts in blocks for fact in facts.values())
    pairs = zip(block_outputs(source, input_ids), block_outputs(changed, input_ids), strict=True)
    for index, (wanted, output) in enumerate(pairs):
        errors = [
            math.dist(a, b) / math.hypot(*a)
            for a, b in zip(
                wanted.flatten(0, 1).tolist(), output.flatten(0, 1).tolist(), strict=True
            )
        ]
        facts = found["drift"]["accumulated"][index][BLOCK]
        assert facts["mean"] == pytest.approx(sum(errors) / len(errors), rel=1e-4)
        assert facts["median"] == pytest.approx(sorted(errors)[(len(errors) - 1) // 2], rel=1e-4)
        assert facts["max"] == pytest.approx(max(errors), rel=1e-4)


def test_the_loss_is_that_of_the_perplexity(
    models: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    _, _, dense, checkpoint = models
    input_ids = tiny.random_tokens(SEQUENCES)
    found = measured(dense, checkpoint, input_ids, tmp_path / "scratch")
    expected = perplexity_of(StreamedModel(checkpoint), input_ids, tmp_path)
    for key in found.keys() & expected.keys():
        assert found[key] == expected[key], key
    assert {"perplexity", "window_losses", "token_ids_sha256"} <= found.keys() & expected.keys()
    of_dense = perplexity_of(StreamedModel(dense), input_ids, tmp_path)
    assert found["dense"].items() <= of_dense.items()


def test_one_changed_block_drifts_from_there_on(tmp_path: Path) -> None:
    """Locally it alone is off; accumulated, so is what follows, and nothing before."""
    source = tiny.save_tiny_model(tmp_path / "source")
    dense = tiny.fetch_tiny_model(source, tmp_path / "dense").folder
    model = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.5)
    model.save_pretrained(source)
    checkpoint = tiny.fetch_tiny_model(source, tmp_path / "checkpoint").folder
    found = measured(dense, checkpoint, tiny.random_tokens(SEQUENCES), tmp_path / "scratch")[
        "drift"
    ]
    of_block = {kind: [block[BLOCK]["mean"] > 0 for block in found[kind]] for kind in drift.KINDS}
    assert of_block == {"local": [False, True, False], "accumulated": [False, True, True]}
    matrices = found["local"][1]
    assert matrices["mlp.up_proj"]["mean"] == pytest.approx(0.5, rel=1e-5)
    assert matrices["mlp.up_proj"]["max"] == pytest.approx(0.5, rel=1e-5)
    assert matrices["mlp.gate_proj"]["max"] == matrices["self_attn.q_proj"]["max"] == 0
    assert matrices["mlp.down_proj"]["mean"] > 0


def test_a_token_without_output_has_no_error() -> None:
    wanted = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])
    assert relative(wanted + 1, wanted).tolist() == pytest.approx([math.sqrt(2) / 5])


def test_what_is_not_finite_is_none(tmp_path: Path) -> None:
    source = tiny.save_tiny_model(tmp_path / "source")
    dense = tiny.fetch_tiny_model(source, tmp_path / "dense")
    other = tiny.fetch_tiny_model(source, tmp_path / "other")
    shard = other.folder / block_shard(1)
    tensors = load_file(shard)
    tensors["model.layers.1.mlp.up_proj.weight"].mul_(float("inf"))
    save_file(tensors, shard, metadata={"format": "pt"})
    note_anew(shard)
    model = StreamedModel(other.folder)
    (tmp_path / "scratch").mkdir()
    found = drift_of(
        StreamedModel(dense.folder), model, tiny.random_tokens(SEQUENCES), tmp_path / "scratch"
    )
    assert found["drift"]["local"][1][BLOCK]["mean"] is None
    assert found["drift"]["local"][2][BLOCK]["mean"] == 0
    assert found["perplexity"] is None
