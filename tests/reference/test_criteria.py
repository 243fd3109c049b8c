"""Criteria against plain loops written from the papers' formulas."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from freelunch.activations import read_statistics
from freelunch.artifact import Artifact
from freelunch.blocks import block_linears
from freelunch.checkpoint import StreamedModel, block_shard
from freelunch.criteria import SCORES
from freelunch.errors import UserError
from freelunch.hidden import hidden_file, open_hidden
from freelunch.masks import keep_mask
from freelunch.patterns import Pattern
from freelunch.pruning import prune_block_, prune_model, read_masks
from freelunch.statistics import InputStatistics
from freelunch.streaming import BlockPass
from freelunch.study import DEFAULT_SCOPE
from tiny_models import BLOCKS, Prepared, capture, prepare, random_tokens, save_calibration

U50 = Pattern.parse("u50")


def statistics_of(inputs: Tensor) -> InputStatistics:
    """Return the statistics of inputs (tokens, features)."""
    return InputStatistics(len(inputs), inputs.mean(0), inputs.square().sum(0))


def slow_magnitude_mask(weight: Tensor, sparsity: float) -> Tensor:
    """Prune the smallest abs(W_ij) of the whole matrix."""
    rows, columns = weight.shape
    ranked = sorted((abs(float(weight[i, j])), i, j) for i in range(rows) for j in range(columns))
    keep = torch.ones(rows, columns, dtype=torch.bool)
    for _, i, j in ranked[: math.floor(sparsity * rows * columns)]:
        keep[i, j] = False
    return keep


def slow_wanda_mask(weight: Tensor, inputs: Tensor, sparsity: float) -> Tensor:
    """Prune in each row the smallest abs(W_ij) * sqrt(sum over tokens t of X_tj^2)."""
    rows, columns = weight.shape
    keep = torch.ones(rows, columns, dtype=torch.bool)
    norms = [math.sqrt(sum(float(x) ** 2 for x in inputs[:, j])) for j in range(columns)]
    for i in range(rows):
        ranked = sorted((abs(float(weight[i, j])) * norms[j], j) for j in range(columns))
        for _, j in ranked[: math.floor(sparsity * columns)]:
            keep[i, j] = False
    return keep


def mask_of(name: str, weight: Tensor, inputs: Tensor, pattern: Pattern = U50) -> Tensor:
    scores = SCORES[name](weight, statistics_of(inputs))
    return keep_mask(scores, pattern, DEFAULT_SCOPE[name])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("percent", [10, 50, 75])
def test_masks_are_those_of_the_formulas(seed: int, percent: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(9, 14, generator=generator)
    # Features of very different size: without them Wanda would choose as magnitude does.
    scale = torch.logspace(-2, 2, 14)[torch.randperm(14, generator=generator)]
    inputs = torch.randn(20, 14, generator=generator) * scale
    pattern = Pattern.parse(f"u{percent}")
    magnitude = mask_of("magnitude", weight, inputs, pattern)
    wanda = mask_of("wanda", weight, inputs, pattern)
    assert torch.equal(magnitude, slow_magnitude_mask(weight, percent / 100))
    assert torch.equal(wanda, slow_wanda_mask(weight, inputs, percent / 100))
    assert not torch.equal(magnitude, wanda)


def test_the_published_case_of_torchao() -> None:
    """Weights 1, 2, 3, 4 with input norms 100, 10, 1, 0.1 keep 1 and 2."""
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    inputs = torch.tensor([[100.0, 10.0, 1.0, 0.1]])
    assert mask_of("wanda", weight, inputs).tolist() == [[True, True, False, False]]
    assert mask_of("magnitude", weight, inputs).tolist() == [[False, False, True, True]]


def test_default_scopes() -> None:
    """Wanda compares within rows, magnitude within the matrix, and both cover every score."""
    assert DEFAULT_SCOPE.keys() == SCORES.keys()
    weight = torch.tensor([[1.0, 2.0], [10.0, 20.0]])
    inputs = torch.ones(3, 2)
    assert mask_of("magnitude", weight, inputs).tolist() == [[False, False], [True, True]]
    assert mask_of("wanda", weight, inputs).tolist() == [[False, True], [False, True]]


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_float32_and_leave_the_weight_alone(name: str) -> None:
    weight = torch.randn(4, 6).to(torch.bfloat16)
    before = weight.clone()
    statistics = statistics_of(torch.randn(8, 6))
    scores = SCORES[name](weight, statistics)
    assert scores.dtype == torch.float32
    assert scores.shape == weight.shape
    assert torch.equal(weight, before)
    # The sign of a weight says nothing about its worth.
    assert torch.equal(SCORES[name](-weight, statistics), scores)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("factor", [2.0**-8, 2.0**8])
def test_scale_invariance(name: str, factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(9, 14, generator=generator)
    inputs = torch.randn(20, 14, generator=generator)
    expected = mask_of(name, weight, inputs)
    assert torch.equal(mask_of(name, weight * factor, inputs), expected)
    assert torch.equal(mask_of(name, weight, inputs * factor), expected)


def test_order_of_the_tokens_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(9, 14, generator=generator), torch.randn(20, 14)
    assert torch.equal(mask_of("wanda", weight, inputs), mask_of("wanda", weight, inputs.flip(0)))


# --- Of a whole model


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("prepared"))


def dense_of(prepared: Prepared, folder: Path, input_ids: Tensor) -> Artifact:
    sample = save_calibration(prepared.model.artifact, folder / "sample", input_ids)
    return capture(prepared.model, sample, folder / "dense")


def prune(prepared: Prepared, dense: Artifact, name: str, folder: Path) -> Artifact:
    criterion = {"score": name, "scope": DEFAULT_SCOPE[name]}
    return prune_model(prepared.model, dense, criterion, U50, folder, "fingerprint")


def inputs_of(prepared: Prepared, index: int) -> dict[str, Tensor]:
    """Return what each linear layer of a block is fed, (tokens, features)."""
    block = prepared.model.load_block(index)
    seen: dict[str, list[Tensor]] = {}
    for name, linear in block_linears(block).items():
        linear.register_forward_pre_hook(
            lambda _, args, name=name: seen.setdefault(name, []).append(args[0].flatten(0, -2))
        )
    hidden = open_hidden(prepared.dense.path(hidden_file(index)))
    passes = BlockPass(prepared.model, *hidden.shape[:2])
    passes.through_(index, block, hidden, torch.empty_like(hidden))
    return {name: torch.cat(parts) for name, parts in seen.items()}


@pytest.mark.parametrize("name", SCORES)
def test_masks_of_a_model(prepared: Prepared, tmp_path: Path, name: str) -> None:
    masks = prune(prepared, prepared.dense, name, tmp_path / "masks")
    for index in range(BLOCKS):
        linears = block_linears(prepared.model.load_block(index))
        inputs = inputs_of(prepared, index)
        found = read_masks(masks, index, linears)
        assert found.keys() == linears.keys()
        for linear_name, linear in linears.items():
            expected = (
                slow_magnitude_mask(linear.weight, 0.5)
                if name == "magnitude"
                else slow_wanda_mask(linear.weight, inputs[linear_name], 0.5)
            )
            assert torch.equal(found[linear_name], expected), f"block {index}: {linear_name}"
        pruned = masks.files[block_shard(index)]["pruned"]
        assert pruned == {key: int((~mask).sum()) for key, mask in found.items()}


def test_pruning_a_block_sets_zeros_and_nothing_else(prepared: Prepared) -> None:
    before = prepared.model.load_block(1)
    block = prepared.model.load_block(1)
    keep_masks = prune_block_(block, prepared.masks, 1)
    for name, value in before.state_dict().items():
        linear = name.removesuffix(".weight")
        expected = value * keep_masks[linear] if linear in keep_masks else value
        assert torch.equal(block.state_dict()[name], expected), name
    assert all(int((~mask).sum()) * 2 == mask.numel() for mask in keep_masks.values())


def test_other_calibration_data_change_wandas_masks_only(
    prepared: Prepared, tmp_path: Path
) -> None:
    other = dense_of(prepared, tmp_path, random_tokens(6, seed=1))
    for name, equal in (("magnitude", True), ("wanda", False)):
        one = prune(prepared, prepared.dense, name, tmp_path / f"{name}-one")
        two = prune(prepared, other, name, tmp_path / f"{name}-two")
        shard = block_shard(1)
        assert (one.files[shard]["sha256"] == two.files[shard]["sha256"]) is equal, name


def test_the_order_of_the_sequences_changes_nothing(prepared: Prepared, tmp_path: Path) -> None:
    other = dense_of(prepared, tmp_path, random_tokens(6).flip(0))
    for index in range(BLOCKS):
        one, two = read_statistics(prepared.dense, index), read_statistics(other, index)
        for name in one:
            torch.testing.assert_close(one[name].squared_norm, two[name].squared_norm)
            torch.testing.assert_close(one[name].mean, two[name].mean, rtol=1e-5, atol=1e-6)
    masks = prune(prepared, other, "wanda", tmp_path / "masks")
    assert masks.files == prepared.masks.files


def test_activations_of_another_model_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    other = prepare(tmp_path, seed=1)
    with pytest.raises(UserError, match="made from other model"):
        prune(prepared, other.dense, "wanda", tmp_path / "refused")


def test_a_score_that_is_not_finite_names_the_matrix(prepared: Prepared, tmp_path: Path) -> None:
    source = prepared.model.artifact
    folder = tmp_path / "model"
    shutil.copytree(source.folder, folder)
    shard = folder / block_shard(2)
    tensors = load_file(shard)
    tensors["model.layers.2.mlp.up_proj.weight"][1, 2] = float("nan")
    save_file(tensors, shard, metadata={"format": "pt"})
    spoilt = Prepared(StreamedModel(folder), prepared.dense, prepared.masks)
    with pytest.raises(UserError, match="not finite") as error:
        prune(spoilt, prepared.dense, "magnitude", tmp_path / "masks")
    assert "model.layers.2.mlp.up_proj" in str(error.value)
    assert not (tmp_path / "masks" / "manifest.json").exists()
