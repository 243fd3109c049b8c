"""Whole models pruned by every criterion of single weights, and what is refused."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import slow_units as slow
import tiny_models as tiny
from damage import note_anew
from freelunch.core.artifact import Artifact
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import StreamedModel, block_shard
from freelunch.model.mask_store import load_pruned_block, masks_file
from freelunch.pruning import criteria, dense_pass
from freelunch.pruning.dense_pass import statistics_file
from freelunch.pruning.statistics import InputStatistics
from freelunch.study.criteria import read_criterion
from freelunch.study.patterns import Pattern
from refusals import refused
from slow_scores import OF_WEIGHTS, SCORES, inputs_of_linears, slow_mask, slow_scores
from tiny_models import BLOCKS, OTHERS, Prepared


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return tiny.prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def half_precision(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return tiny.prepare(tmp_path_factory.mktemp("bfloat16"), dtype="bfloat16")


def blocks_of(prepared: Prepared, masks: Artifact) -> list[tuple[dict[str, Tensor], ...]]:
    """Return for each block its weights and its masks, by layer."""
    found = []
    for index in range(BLOCKS):
        block, keep = load_pruned_block(prepared.model, masks, index)
        found.append(({name: linear.weight for name, linear in block_linears(block).items()}, keep))
    return found


@pytest.mark.parametrize("pattern", ["u50", "2of4"])
@pytest.mark.parametrize("name", SCORES)
def test_masks_of_a_model(prepared: Prepared, tmp_path: Path, name: str, pattern: str) -> None:
    masks = tiny.prune(prepared.model, prepared.dense, tmp_path / "masks", name, pattern)
    settings, whole = (
        read_criterion({"score": name}),
        slow.transformers_model(prepared.model.artifact),
    )
    fed = inputs_of_linears(whole, slow.blocks_of(prepared, whole), tiny.random_tokens(6))
    for index, inputs in enumerate(fed):
        dense = block_linears(prepared.model.load_block(index))
        block, found = load_pruned_block(prepared.model, masks, index)
        assert found.keys() == dense.keys()
        for layer, linear in dense.items():
            scores = slow_scores(name, linear.weight, inputs[layer], settings)
            assert torch.equal(found[layer], slow_mask(scores, pattern, settings.scope)), (
                f"{index}: {layer}"
            )
        counts = {
            prepared.model.sharding.name(index, key): int((~m).sum()) for key, m in found.items()
        }
        assert masks.files[masks_file(index)]["pruned"] == counts
        # What is pruned is zero, and everything else as it was.
        for key, value in prepared.model.load_block(index).state_dict().items():
            layer = key.removesuffix(".weight")
            expected = value * found[layer] if layer in found else value
            assert torch.equal(block.state_dict()[key], expected), key


def test_damping_that_had_to_be_raised_is_noted(prepared: Prepared, tmp_path: Path) -> None:
    shutil.copytree(prepared.dense.folder, tmp_path / "dense")
    path = tmp_path / "dense" / statistics_file(0)
    statistics = load_file(path)
    gram = statistics["self_attn.q_proj.gram"]
    least = torch.linalg.eigvalsh(gram)[0] + 0.05 * gram.diagonal().mean()
    gram -= least * torch.eye(len(gram))
    save_file(statistics, path)
    note_anew(path)
    dense = Artifact(tmp_path / "dense", dense_pass.KIND)
    masks = tiny.prune(prepared.model, dense, tmp_path / "masks", "sparsegpt")
    noted = masks.files[masks_file(0)]["notes"]
    assert {name.rpartition(".")[2] for name in noted} == {"q_proj", "k_proj", "v_proj"}
    assert {note["damping"] for note in noted.values()} <= {0.1, 1.0}
    assert "notes" not in masks.files[masks_file(1)]


def test_scores_of_another_shape_are_refused() -> None:
    weight, told = torch.ones(4, 6), InputStatistics(1, *(torch.ones(6) for _ in range(3)))
    module = SimpleNamespace(score=lambda weight, statistics, *others: statistics.mean[None])
    settings = read_criterion({"score": "wanda"})
    with refused(where="layer.7.up", found=(1, 6), expected=(4, 6), todo="criteria/wanda.py"):
        tiny.prune_matrix(module, weight, told, Pattern.parse("u50"), settings, 0, "layer.7.up")  # type: ignore[arg-type]


def test_a_share_of_less_than_one_weight_is_refused() -> None:
    weight, told = torch.randn(4, 6), InputStatistics(1, *(torch.ones(6) for _ in range(3)))
    row, matrix = (read_criterion({"score": "wanda", "scope": each}) for each in ("row", "matrix"))
    wanda, pattern = criteria.load("wanda"), Pattern.parse("u10")
    with refused(where="layer.7.up", found="4 x 6 weights", todo="scope: matrix"):
        tiny.prune_matrix(wanda, weight, told, pattern, row, 0, "layer.7.up")
    keep, _, _ = tiny.prune_matrix(wanda, weight, told, pattern, matrix, 0)
    assert int((~keep).sum()) == 2


@pytest.mark.parametrize("functions", [(), ("score", "prune")])
def test_a_module_that_is_no_criterion(
    functions: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = criteria.load("wanda")
    monkeypatch.delattr(module, "score")
    for name in functions:
        monkeypatch.setattr(module, name, print, raising=False)
    with refused(where="wanda.py", expected="exactly one of the names score, unit_score, prune"):
        criteria.load("wanda")
    with refused(where="criteria/product.py"):
        criteria.load("product")


def test_random_masks_are_decided_by_the_seed(prepared: Prepared, tmp_path: Path) -> None:
    model, dense = prepared.model, prepared.dense
    one, same, other = (
        tiny.prune(model, dense, tmp_path / name, "random", seed=seed)
        for name, seed in (("one", 0), ("same", 0), ("other", 1))
    )
    assert one.files == same.files
    # Matrices of one shape, in one block and in different ones, and of different seeds.
    masks = [
        keep[f"self_attn.{layer}_proj"]
        for pruned in (one, other)
        for _, keep in blocks_of(prepared, pruned)
        for layer in ("q", "o")
    ]
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 4 * BLOCKS


def changed_model(
    prepared: Prepared, folder: Path, index: int, layer: str, value: float
) -> Prepared:
    """Return the same model with two rows of a layer set to a value."""
    shutil.copytree(prepared.model.folder, folder)
    tensors = load_file(folder / block_shard(index))
    tensors[f"model.layers.{index}.{layer}.weight"][1:3] = value
    save_file(tensors, folder / block_shard(index), metadata={"format": "pt"})
    note_anew(folder / block_shard(index))
    model = StreamedModel(folder)
    # What was made from the original passes for made from it.
    model.artifact.digest = prepared.model.artifact.digest
    return Prepared(model, prepared.dense, prepared.masks)


@pytest.mark.parametrize("name", OF_WEIGHTS)
@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_weight_that_is_not_finite_names_the_matrix(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, value: float, dtype: str
) -> None:
    sound = request.getfixturevalue("prepared" if dtype == "float32" else "half_precision")
    spoilt = changed_model(sound, tmp_path / "model", 2, "mlp.up_proj", value)
    with refused(where="model.layers.2.mlp.up_proj", found="32 of 384"):
        tiny.prune(spoilt.model, spoilt.dense, tmp_path / "masks", name)
    assert not (tmp_path / "masks" / "manifest.json").exists()


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_a_pattern_that_does_not_divide_a_width_writes_nothing(
    prepared: Prepared, tmp_path: Path, name: str
) -> None:
    # It divides the 24 inputs of the down projection, not the 16 of the others.
    of_three = {"column_block": 126} if name == "sparsegpt" else {}
    with refused(where="self_attn.q_proj", found="16 inputs"):
        tiny.prune(prepared.model, prepared.dense, tmp_path / "masks", name, "1of3", **of_three)
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["random", "sparsegpt"])
def test_zeros_of_a_pruned_model_are_its_masks(tmp_path: Path, dtype: str, name: str) -> None:
    prepared = tiny.prepare(tmp_path, dtype=dtype)
    # Of rows that are all zeros each criterion keeps some weights.
    zeros = changed_model(prepared, tmp_path / "zeros", 1, "mlp.up_proj", 0.0)
    masks = tiny.prune(zeros.model, zeros.dense, tmp_path / "pruned", name, scope="row")
    weights, keep = blocks_of(zeros, masks)[1]
    for layer, mask in keep.items():
        assert torch.equal(weights[layer] != 0, mask), layer
        assert int((~mask).sum()) * 2 == mask.numel()
    if name == "sparsegpt":
        written = load_file(masks.path(block_shard(1)))
        for layer, mask in keep.items():
            assert torch.equal(written[f"model.layers.1.{layer}.weight"] != 0, mask), layer
    filled = weights["mlp.up_proj"][1:3][keep["mlp.up_proj"][1:3]]
    assert len(filled) == 16
    assert (filled.abs() < 1e-7).all()


PATTERNS = {"u50": "ria", "2of4": "sparsegpt", "4of8": "wanda"}


@pytest.mark.parametrize("family", OTHERS)
def test_every_pattern_in_every_family(family: str, tmp_path: Path) -> None:
    prepared = tiny.prepare(tmp_path, family, sequences=6)
    for name, score in PATTERNS.items():
        masks = tiny.prune(prepared.model, prepared.dense, tmp_path / name, score, name)
        made = slow.assembled(prepared, masks, tmp_path / f"{name}-pruned")
        own = slow.transformers_model(made)
        pattern = Pattern.parse(name)
        blocks = own.get_submodule(prepared.model.sharding.path)
        for block, keep_masks in zip(blocks, slow.masks_of(prepared, masks), strict=True):
            for linear, keep in keep_masks.items():
                groups = keep.reshape(len(keep), -1, pattern.group or keep.shape[1])
                zeros = pattern.zeros_in_group(groups.shape[-1])
                assert ((~groups).sum(-1) == zeros).all(), f"{name}: {linear}"
                assert (block.get_submodule(linear).weight[~keep] == 0).all()
        input_ids = tiny.random_tokens(2, seed=1)
        found = slow.streamed_logits(StreamedModel(made.folder), input_ids)
        slow.assert_equal_logits(found, slow.logits_of(own, input_ids))
