"""Criteria against plain loops written from the papers' formulas."""

import json
import math
import pkgutil
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from freelunch import criteria, study
from freelunch.activations import read_statistics
from freelunch.artifact import Artifact
from freelunch.blocks import block_linears
from freelunch.checkpoint import StreamedModel, block_shard
from freelunch.errors import UserError
from freelunch.hidden import hidden_file, open_hidden
from freelunch.patterns import Pattern
from freelunch.pruned import load_pruned_block, masks_file
from freelunch.pruning import prune_matrix
from freelunch.statistics import InputStatistics
from freelunch.streaming import BlockPass
from freelunch.study import with_defaults
from tiny_models import (
    BLOCKS,
    Prepared,
    capture,
    prepare,
    prune,
    random_tokens,
    save_calibration,
)

SCORES = ("magnitude", "wanda", "ria")
OF_WEIGHTS = ("random", *SCORES, "sparsegpt")


def statistics_of(inputs: Tensor) -> InputStatistics:
    """Return the statistics of inputs (tokens, features)."""
    squares = inputs.square().sum(0)
    return InputStatistics(
        len(inputs), inputs.mean(0), inputs.var(0, correction=0), squares, inputs.T @ inputs
    )


def mask_of(
    name: str, weight: Tensor, inputs: Tensor, pattern: str = "u50", **settings: Any
) -> Tensor:
    filled = with_defaults({"score": name, **settings}) | {"seed": 0}
    module, told = criteria.load(name), statistics_of(inputs)
    keep, changed, notes = prune_matrix(module, weight, told, Pattern.parse(pattern), filled)
    assert changed is None and not notes, "a score changes no weight"
    return keep


def random_case(seed: int, rows: int = 9, columns: int = 24) -> tuple[Tensor, Tensor]:
    """Return a weight, and inputs of which some features are far larger than others."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    weight *= torch.logspace(-1, 1, rows)[:, None]
    scale = torch.logspace(-2, 2, columns)[torch.randperm(columns, generator=generator)]
    return weight, torch.randn(20, columns, generator=generator) * scale


def slow_scores(name: str, weight: Tensor, inputs: Tensor, exponent: float) -> list[list[float]]:
    """Return what each weight is worth.

    Magnitude: abs(W_ij). Wanda: abs(W_ij) ||X_j||, with the norm over all tokens. RIA:
    (abs(W_ij) / sum over k of abs(W_kj) + abs(W_ij) / sum over k of abs(W_ik)) ||X_j||^exponent.
    """
    size = [[abs(value) for value in row] for row in weight.tolist()]
    norms = [math.sqrt(sum(x * x for x in feature)) for feature in inputs.T.tolist()]
    rows, columns = range(len(size)), range(len(norms))
    if name == "magnitude":
        return size
    if name == "wanda":
        return [[size[i][j] * norms[j] for j in columns] for i in rows]
    of_row = [sum(size[i][k] for k in columns) for i in rows]
    of_column = [sum(size[k][j] for k in rows) for j in columns]
    return [
        [
            (size[i][j] / of_column[j] + size[i][j] / of_row[i]) * norms[j] ** exponent
            for j in columns
        ]
        for i in rows
    ]


def compared(rows: int, columns: int, pattern: str, scope: str) -> Iterator[list[tuple[int, int]]]:
    """Yield the places of weights that are compared with each other."""
    if "of" in pattern:
        size = int(pattern.partition("of")[2])
        for i in range(rows):
            for start in range(0, columns, size):
                yield [(i, j) for j in range(start, start + size)]
    elif scope == "row":
        for i in range(rows):
            yield [(i, j) for j in range(columns)]
    else:
        yield [(i, j) for i in range(rows) for j in range(columns)]


def slow_mask(scores: list[list[float]], pattern: str, scope: str) -> Tensor:
    """Prune the share of each set of compared weights that is worth the least."""
    zeros, _, group = pattern.partition("of")
    share = Fraction(int(zeros), int(group)) if group else Fraction(int(pattern[1:]), 100)
    rows, columns = len(scores), len(scores[0])
    keep = torch.ones(rows, columns, dtype=torch.bool)
    for places in compared(rows, columns, pattern, scope):
        ranked = sorted((scores[i][j], i, j) for i, j in places)
        for _, i, j in ranked[: math.floor(share * len(places))]:
            keep[i, j] = False
    return keep


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scope", ["row", "matrix"])
@pytest.mark.parametrize("pattern", ["u10", "u50", "u75", "2of4", "4of8", "1of3"])
def test_masks_are_those_of_the_formulas(pattern: str, scope: str, seed: int) -> None:
    weight, inputs = random_case(seed)
    found = []
    for name, settings in (
        ("magnitude", {}),
        ("wanda", {}),
        ("ria", {"exponent": 0.5}),
        ("ria", {"exponent": 1.3}),
    ):
        found.append(mask_of(name, weight, inputs, pattern, scope=scope, **settings))
        scores = slow_scores(name, weight, inputs, settings.get("exponent", 0.0))
        assert torch.equal(found[-1], slow_mask(scores, pattern, scope)), name
    assert len({tuple(mask.flatten().tolist()) for mask in found}) == 4, "two criteria agree"


def test_a_row_or_column_of_zeros_is_worth_nothing_to_ria() -> None:
    weight, inputs = random_case(0, 4, 6)
    weight[1], weight[:, 2] = 0.0, 0.0
    scores = criteria.load("ria").score(weight, statistics_of(inputs), {"exponent": 0.5})
    assert torch.equal(scores == 0, weight == 0)


def test_the_published_cases_of_torchao() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    inputs = torch.tensor([[100.0, 10.0, 1.0, 0.1]])
    assert mask_of("wanda", weight, inputs).tolist() == [[True, True, False, False]]
    assert mask_of("magnitude", weight, inputs).tolist() == [[False, False, True, True]]
    ascending = torch.arange(1.0, 9.0)[None, :]
    kept = ascending[mask_of("wanda", ascending, torch.ones(5, 8), "2of4")]
    assert kept.tolist() == [3, 4, 7, 8]


def test_default_scopes() -> None:
    weight, inputs = torch.tensor([[1.0, 2.0], [10.0, 20.0]]), torch.ones(3, 2)
    assert mask_of("magnitude", weight, inputs).tolist() == [[False, False], [True, True]]
    for name in ("wanda", "ria"):
        assert mask_of(name, weight, inputs).tolist() == [[False, True], [False, True]]
    scopes = [with_defaults({"score": name})["scope"] for name in OF_WEIGHTS]
    assert scopes == ["matrix", "matrix", "row", "row", "matrix"]


@pytest.mark.parametrize("name", ["random", *SCORES])
def test_scores_are_float32_and_leave_the_weight_alone(name: str) -> None:
    weight = torch.randn(4, 6).to(torch.bfloat16)
    before, told = weight.clone(), statistics_of(torch.randn(8, 6))
    settings = with_defaults({"score": name}) | {"seed": 0}
    scores = criteria.load(name).score(weight, told, settings)
    assert scores.dtype == torch.float32
    assert scores.shape == weight.shape
    assert torch.equal(weight, before)
    # The sign of a weight says nothing about its worth.
    assert torch.equal(criteria.load(name).score(-weight, told, settings), scores)


@given(
    st.sampled_from(SCORES),
    st.integers(0, 2**31),
    st.sampled_from([2.0**-16, 0.25, 4.0, 2.0**16]),
    st.sampled_from(["u50", "2of4"]),
    st.sampled_from(["row", "matrix"]),
)
def test_scale_changes_nothing(
    name: str, seed: int, factor: float, pattern: str, scope: str
) -> None:
    # Powers of 4: square roots of them are exact, so that no rounding decides.
    weight, inputs = random_case(seed)
    expected = mask_of(name, weight, inputs, pattern, scope=scope)
    assert torch.equal(mask_of(name, weight * factor, inputs, pattern, scope=scope), expected)
    assert torch.equal(mask_of(name, weight, inputs * factor, pattern, scope=scope), expected)


@given(st.integers(0, 2**31), st.sampled_from(["row", "matrix"]))
def test_what_magnitude_prunes_stays_pruned_at_a_higher_sparsity(seed: int, scope: str) -> None:
    weight, inputs = random_case(seed)
    half, more = (
        mask_of("magnitude", weight, inputs, name, scope=scope) for name in ("u50", "u60")
    )
    assert not (~half & more).any()
    assert int(half.sum()) > int(more.sum())


# --- The modules and the schema


def test_every_criterion_is_in_the_schema_and_the_other_way_round() -> None:
    schema = json.loads(study.SCHEMA.read_text())["$defs"]
    modules = {module.name for module in pkgutil.iter_modules(criteria.__path__)}
    enum = schema["criterion"]["properties"]["score"]["enum"]
    assert set(enum) == modules and len(enum) == len(modules)
    prefix = "criterion_"
    definitions = {name.removeprefix(prefix) for name in schema if name.startswith(prefix)}
    assert definitions == modules
    branches = {
        branch["if"]["properties"]["score"]["const"]: branch["then"]["$ref"]
        for branch in schema["criterion"]["allOf"]
    }
    assert branches == {name: f"#/$defs/criterion_{name}" for name in modules}
    for name in modules:
        module, definition = criteria.load(name), schema[prefix + name]
        assert definition["properties"]["score"] == {"const": name}
        found = [what for what in ("score", "unit_score", "prune") if hasattr(module, what)]
        assert len(found) == 1, f"{name} has {found}"
        assert definition.get("x-structured", False) == (found == ["unit_score"])
        entry = with_defaults({"score": name})
        assert entry.keys() == definition["properties"].keys(), "a setting without a default"
        assert study.needs_gram(entry) is criteria.needs_gram(entry) is (name == "sparsegpt")
        if "swaps" in entry:
            entry["swaps"] = 1
            assert study.needs_gram(entry) is criteria.needs_gram(entry) is True


# --- Of a whole model


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def half_precision(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("bfloat16"), dtype="bfloat16")


def dense_of(prepared: Prepared, folder: Path, input_ids: Tensor) -> Artifact:
    sample = save_calibration(prepared.model.artifact, folder / "sample", input_ids)
    return capture(prepared.model, sample, folder / "dense")


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


def blocks_of(prepared: Prepared, masks: Artifact) -> list[tuple[dict[str, Tensor], ...]]:
    """Return for each block its weights and its masks, by layer."""
    found = []
    for index in range(BLOCKS):
        block, keep = load_pruned_block(prepared.model, masks.folder, index)
        found.append(({name: linear.weight for name, linear in block_linears(block).items()}, keep))
    return found


@pytest.mark.parametrize("pattern", ["u50", "2of4"])
@pytest.mark.parametrize("name", SCORES)
def test_masks_of_a_model(prepared: Prepared, tmp_path: Path, name: str, pattern: str) -> None:
    masks = prune(prepared.model, prepared.dense, tmp_path / "masks", name, pattern)
    scope = "matrix" if name == "magnitude" else "row"
    for index in range(BLOCKS):
        dense, inputs = block_linears(prepared.model.load_block(index)), inputs_of(prepared, index)
        block, found = load_pruned_block(prepared.model, masks.folder, index)
        assert found.keys() == dense.keys()
        for layer, linear in dense.items():
            scores = slow_scores(name, linear.weight, inputs[layer], 0.5)
            assert torch.equal(found[layer], slow_mask(scores, pattern, scope)), f"{index}: {layer}"
        counts = {
            prepared.model.sharding.name(index, key): int((~m).sum()) for key, m in found.items()
        }
        assert masks.files[masks_file(index)]["pruned"] == counts
        # What is pruned is zero, and everything else as it was.
        for key, value in prepared.model.load_block(index).state_dict().items():
            layer = key.removesuffix(".weight")
            expected = value * found[layer] if layer in found else value
            assert torch.equal(block.state_dict()[key], expected), key


@pytest.mark.parametrize(("pattern", "share"), [("u30", 0.3), ("2of4", 0.5)])
@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_counts_of_a_model(
    prepared: Prepared, tmp_path: Path, name: str, pattern: str, share: float
) -> None:
    for scope in ("row", "matrix"):
        masks = prune(prepared.model, prepared.dense, tmp_path / scope, name, pattern, scope=scope)
        for _, keep in blocks_of(prepared, masks):
            for layer, mask in keep.items():
                for places in compared(*mask.shape, pattern, scope):
                    gone = sum(not mask[place] for place in places)
                    assert gone == math.floor(share * len(places)), layer


def test_random_masks_are_decided_by_the_seed(prepared: Prepared, tmp_path: Path) -> None:
    model, dense = prepared.model, prepared.dense
    one, same, other = (
        prune(model, dense, tmp_path / name, "random", seed=seed)
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


def test_other_calibration_data_change_masks_by_activations(
    prepared: Prepared, tmp_path: Path
) -> None:
    other = dense_of(prepared, tmp_path, random_tokens(6, seed=1))
    for name in OF_WEIGHTS:
        one = prune(prepared.model, prepared.dense, tmp_path / f"{name}-one", name)
        two = prune(prepared.model, other, tmp_path / f"{name}-two", name)
        for index in range(BLOCKS):
            equal = one.files[masks_file(index)] == two.files[masks_file(index)]
            assert equal is (name in ("random", "magnitude")), name


def test_the_order_of_the_sequences_changes_nothing(prepared: Prepared, tmp_path: Path) -> None:
    other = dense_of(prepared, tmp_path, random_tokens(6).flip(0))
    for index in range(BLOCKS):
        one, two = (read_statistics(dense, index, gram=True) for dense in (prepared.dense, other))
        for name in one:
            for what in ("squared_norm", "mean", "variance", "gram"):
                pair = getattr(one[name], what), getattr(two[name], what)
                torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)
    for name in ("wanda", "ria", "sparsegpt"):
        before = prune(prepared.model, prepared.dense, tmp_path / f"{name}-one", name)
        after = prune(prepared.model, other, tmp_path / f"{name}-two", name)
        for one, two in zip(blocks_of(prepared, before), blocks_of(prepared, after), strict=True):
            for layer, keep in one[1].items():
                assert torch.equal(keep, two[1][layer]), f"{name}: {layer}"
                torch.testing.assert_close(one[0][layer], two[0][layer], rtol=1e-3, atol=1e-4)


# --- What is refused, and zeros of the dense model


def changed_model(
    prepared: Prepared, folder: Path, index: int, layer: str, value: float
) -> Prepared:
    """Return the same model with two rows of a layer set to a value."""
    shutil.copytree(prepared.model.folder, folder)
    tensors = load_file(folder / block_shard(index))
    tensors[f"model.layers.{index}.{layer}.weight"][1:3] = value
    save_file(tensors, folder / block_shard(index), metadata={"format": "pt"})
    return Prepared(StreamedModel(folder), prepared.dense, prepared.masks)


@pytest.mark.parametrize("name", OF_WEIGHTS)
@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_weight_that_is_not_finite_names_the_matrix(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, value: float, dtype: str
) -> None:
    sound = request.getfixturevalue("prepared" if dtype == "float32" else "half_precision")
    spoilt = changed_model(sound, tmp_path / "model", 2, "mlp.up_proj", value)
    with pytest.raises(UserError, match="a weight is not finite") as error:
        prune(spoilt.model, spoilt.dense, tmp_path / "masks", name)
    assert "model.layers.2.mlp.up_proj" in str(error.value)
    assert "32 of 384" in str(error.value)
    assert not (tmp_path / "masks" / "manifest.json").exists()


def test_activations_of_another_model_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    other = prepare(tmp_path, seed=1)
    with pytest.raises(UserError, match="made from other model"):
        prune(prepared.model, other.dense, tmp_path / "refused", "wanda")


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_a_pattern_that_does_not_divide_a_width_writes_nothing(
    prepared: Prepared, tmp_path: Path, name: str
) -> None:
    # It divides the 24 inputs of the down projection, not the 16 of the others.
    with pytest.raises(UserError, match="does not divide") as error:
        prune(prepared.model, prepared.dense, tmp_path / "masks", name, "1of3", column_block=126)
    assert "16 inputs" in str(error.value)
    assert "self_attn.q_proj" in str(error.value)
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["random", "sparsegpt"])
def test_zeros_of_a_pruned_model_are_its_masks(tmp_path: Path, dtype: str, name: str) -> None:
    prepared = prepare(tmp_path, dtype=dtype)
    # Of rows that are all zeros each criterion keeps some weights.
    zeros = changed_model(prepared, tmp_path / "zeros", 1, "mlp.up_proj", 0.0)
    masks = prune(zeros.model, zeros.dense, tmp_path / "pruned", name, scope="row")
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
