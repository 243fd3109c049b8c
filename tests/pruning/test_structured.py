"""Heads and channels that go, against plain loops, and what is left, against transformers."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import slow_units as slow
import tiny_models as tiny
from freelunch.core.artifact import MANIFEST
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import CONFIG, OUTER, StreamedModel, block_shard
from freelunch.model.mask_store import load_pruned_block
from freelunch.pruning.structured import Layout, choose_in_block, choose_in_model
from freelunch.study.criteria import read_criterion
from freelunch.study.patterns import Pattern
from interrupts import contents
from refusals import refused
from tiny_models import CROSSED, OTHERS, VARIANTS, Prepared


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return tiny.prepare(tmp_path_factory.mktemp("llama"), sequences=slow.SEQUENCES)


KINDS = [
    ("wanda_sp", "block", "WIFN"),
    ("wanda_sp", "model", "WIFN"),
    ("flap", "model", "WIFV"),
    ("flap", "model", "IFV"),
    ("flap", "model", "WIFN"),
    ("flap", "block", "WIFV"),
]


@pytest.mark.parametrize("attention_unit", slow.UNITS)
@pytest.mark.parametrize(
    ("family", "score", "scope", "metric"),
    [
        *((family, *kind) for family in CROSSED for kind in KINDS),
        # Their rows follow their key head.
        *((family, *KINDS[0]) for family in ("gpt_neox", "bloom", "falcon")),
    ],
)
def test_masks_are_those_of_the_slow_loop(
    family: str, score: str, scope: str, metric: str, attention_unit: str, tmp_path: Path
) -> None:
    prepared = tiny.prepare(tmp_path / family, family, sequences=slow.SEQUENCES)
    dense = slow.transformers_model(prepared.model.artifact)
    blocks, inputs = list(slow.blocks_of(prepared, dense)), slow.inputs_of(prepared, dense)
    settings = {"metric": metric} if score == "flap" else {}
    # Within a block the share of its two key heads has to be one at least.
    for percent in (30, 50) if scope == "model" else (50, 75):
        masks = slow.prune_units(
            prepared,
            tmp_path / f"{percent}",
            score,
            f"s{percent}",
            scope=scope,
            attention_unit=attention_unit,
            bias_compensation=False,
            **settings,
        )
        gone = slow.slow_gone(prepared, blocks, inputs, metric, scope, attention_unit, percent)
        assert any(one.channels for one in gone), "nothing goes: any comparison would pass"
        for index, found in enumerate(slow.masks_of(prepared, masks)):
            expected = slow.slow_masks(prepared, blocks[index], gone[index])
            assert found.keys() == expected.keys()
            for name, keep in expected.items():
                assert torch.equal(found[name], keep), f"s{percent}, block {index}: {name}"


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
    everything = sum(len(part) * each for part, each in zip(sets, weights, strict=True))
    _, first, _ = min(
        (score, number, unit) for number, part in enumerate(sets) for unit, score in enumerate(part)
    )
    if weights[first] * 100 > percent * everything:
        with refused(expected="scope: block"):
            choose_in_model([torch.tensor(scores) for scores in sets], weights, pattern)
        return
    keep = choose_in_model([torch.tensor(scores) for scores in sets], weights, pattern)
    assert [len(part) for part in keep] == [len(scores) for scores in sets]
    # Of equal scores the first: in the order of the sets, and in a set by index.
    order = sorted(
        (score, number, unit) for number, part in enumerate(sets) for unit, score in enumerate(part)
    )
    gone = {(number, int(unit)) for number, part in enumerate(keep) for unit in (~part).nonzero()}
    assert gone == {(number, unit) for _, number, unit in order[: len(gone)]}
    removed = sum(weights[number] for number, _ in gone)
    assert removed * 100 <= percent * everything
    _, number, _ = order[len(gone)]
    assert (removed + weights[number]) * 100 > percent * everything, "one more would fit"


@given(
    st.lists(st.integers(-3, 3).map(float) | st.floats(-10, 10, width=32), min_size=1, max_size=99),
    st.integers(1, 99),
)
def test_choosing_in_a_block(scores: list[float], percent: int) -> None:
    pattern = Pattern.parse(f"s{percent:02d}")
    if percent * len(scores) < 100:
        with refused(expected=f"one in {len(scores)}"):
            choose_in_block(torch.tensor(scores), pattern)
        return
    keep = choose_in_block(torch.tensor(scores), pattern)
    gone = {int(unit) for unit in (~keep).nonzero()}
    assert len(gone) == percent * len(scores) // 100
    assert gone == slow.lowest_units(scores, percent)


def test_equal_scores_are_all_the_mean(llama: Prepared) -> None:
    """A matrix whose scores say nothing neither loses all its units nor keeps them for that."""
    layout = Layout.of(llama.model.config, "group")
    block = llama.model.load_block(0)
    constant = SimpleNamespace(unit_score=lambda weight, *_: torch.full(weight.shape[1:], 0.1))
    statistics = dict.fromkeys(block_linears(block))
    settings = read_criterion({"score": "wanda_sp", "scope": "model"})
    for part in layout.scores(block, statistics, constant, settings, ""):
        assert torch.equal(part, torch.zeros(len(part)))


@pytest.mark.parametrize("bias_compensation", [False, True])
@torch.no_grad()
def test_sparse_statistics_are_of_the_pruned_blocks_before(
    biased: Prepared, tmp_path: Path, bias_compensation: bool
) -> None:
    """Prune transformers' own model block by block; the sample passes through it each time."""
    masks = slow.prune_units(
        biased,
        tmp_path / "masks",
        "wanda_sp",
        statistics="sparse",
        bias_compensation=bias_compensation,
    )
    loops = slow.transformers_model(biased.model.artifact)
    for index, block in enumerate(slow.blocks_of(biased, loops)):
        seen = slow.inputs_of(biased, loops)[index]
        (gone,) = slow.slow_gone(biased, [block], [seen], "WIFN", "block", "group", 50)
        expected = slow.slow_masks(biased, block, gone)
        found = load_pruned_block(biased.model, masks, index)[1]
        assert all(torch.equal(found[name], keep) for name, keep in expected.items()), index
        for name, keep in expected.items():
            linear = block.get_submodule(name)
            if bias_compensation and name in slow.output_names(biased):
                lost = (linear.weight * ~keep) @ seen[name].mean(dim=0)
                bias = lost if linear.bias is None else linear.bias + lost
                linear.bias = nn.Parameter(bias)
            linear.weight.masked_fill_(~keep, 0.0)
    input_ids = tiny.random_tokens(3, seed=1)
    pruned = slow.transformers_model(slow.assembled(biased, masks, tmp_path / "pruned"))
    slow.assert_equal_logits(slow.logits_of(pruned, input_ids), slow.logits_of(loops, input_ids))


SCORES = ("wanda_sp", "flap")


@pytest.mark.parametrize(
    ("family", "changes", "score", "attention_unit"),
    [
        *((family, {}, *each) for family in CROSSED for each in product(SCORES, slow.UNITS)),
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
    prepared = tiny.prepare(tmp_path, family, sequences=slow.SEQUENCES, **changes)
    masks = slow.prune_units(
        prepared,
        tmp_path / "masks",
        score,
        attention_unit=attention_unit,
        bias_compensation=False,
    )
    keep_masks = slow.masks_of(prepared, masks)
    dense = slow.transformers_model(prepared.model.artifact)
    input_ids = tiny.random_tokens(4, seed=1)

    def without(index: int, name: str, inputs: Tensor) -> Tensor:
        return inputs * keep_masks[index][name].any(dim=0)

    with slow.fed(prepared, dense, without):
        expected = slow.logits_of(dense, input_ids)
    assert not torch.allclose(expected, slow.logits_of(dense, input_ids), atol=1e-2)
    pruned = slow.assembled(prepared, masks, tmp_path / "pruned")
    slow.assert_equal_logits(slow.logits_of(slow.transformers_model(pruned), input_ids), expected)
    assert pruned.files[CONFIG]["sha256"] == prepared.model.artifact.files[CONFIG]["sha256"]


def test_heads_that_one_norm_spans_are_refused(tmp_path: Path) -> None:
    """A head of OLMo 2 that goes would change the norm of the queries of all others."""
    prepared = tiny.prepare(tmp_path, "olmo2", sequences=slow.SEQUENCES)
    with refused(expected="uNN or NofM"):
        slow.prune_units(prepared, tmp_path / "units", "wanda_sp")
    assert not (tmp_path / "units" / MANIFEST).exists()


@pytest.mark.parametrize("attention_unit", slow.UNITS)
@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
def test_with_compensation_what_goes_is_its_mean(
    biased: Prepared, tmp_path: Path, score: str, attention_unit: str
) -> None:
    masks = slow.prune_units(
        biased, tmp_path / "masks", score, attention_unit=attention_unit, bias_compensation=True
    )
    keep_masks = slow.masks_of(biased, masks)
    dense = slow.transformers_model(biased.model.artifact)
    seen = slow.inputs_of(biased, dense)
    input_ids = tiny.random_tokens(4, seed=1)

    def constant(index: int, name: str, inputs: Tensor) -> Tensor:
        keep = keep_masks[index][name].any(dim=0)
        return torch.where(keep, inputs, seen[index][name].mean(dim=0))

    with slow.fed(biased, dense, constant):
        expected = slow.logits_of(dense, input_ids)
    pruned = slow.assembled(biased, masks, tmp_path / "pruned")
    slow.assert_equal_logits(slow.logits_of(slow.transformers_model(pruned), input_ids), expected)


def test_the_dense_model_is_left_alone(biased: Prepared, tmp_path: Path) -> None:
    dense = biased.model.artifact
    before = contents(dense.folder)
    pruned = slow.assembled(
        biased, slow.prune_units(biased, tmp_path / "masks", "flap"), tmp_path / "pruned"
    )
    assert contents(dense.folder) == before
    config, changed = (json.loads(made.path(CONFIG).read_text()) for made in (dense, pruned))
    if config["model_type"] == "llama":
        assert (config["attention_bias"], config["mlp_bias"]) == (False, False)
        config |= {"attention_bias": True, "mlp_bias": True}
    assert changed == config
    assert pruned.path(OUTER).stat().st_ino == dense.path(OUTER).stat().st_ino
    slow.transformers_model(pruned)


@pytest.mark.parametrize("score", ["wanda_sp", "flap"])
def test_families_without_biases_say_what_to_change(
    prepared: Prepared, tmp_path: Path, score: str
) -> None:
    folder, family = tmp_path / "masks", prepared.model.config.model_type
    if family in slow.BIASED:
        pytest.skip("it can have them")
    with refused(where=family, todo="bias_compensation: false"):
        slow.prune_units(prepared, folder, score, bias_compensation=True)
    assert not (folder / MANIFEST).exists()


@pytest.mark.parametrize("family", ["smollm3", "granite", "gpt_neox", "bloom", "falcon"])
def test_other_families_with_biases(tmp_path: Path, family: str) -> None:
    prepared = tiny.prepare(tmp_path, family, sequences=slow.SEQUENCES)
    masks = slow.prune_units(prepared, tmp_path / "units", "flap")
    made = slow.assembled(prepared, masks, tmp_path / "pruned")
    model, input_ids = slow.transformers_model(made), tiny.random_tokens(2, seed=1)
    biases = [
        block.get_submodule(name).bias
        for block in slow.blocks_of(prepared, model)
        for name in slow.output_names(prepared)
    ]
    # FLAP may take nothing of a half.
    assert all(bias is not None for bias in biases) and any(bias.any() for bias in biases)
    found = slow.streamed_logits(StreamedModel(made.folder), input_ids)
    slow.assert_equal_logits(found, slow.logits_of(model, input_ids))


@pytest.mark.parametrize("window", [1, 3, "attention_mlp"])
@pytest.mark.parametrize("attention_unit", slow.UNITS)
def test_every_window_reconstructs(
    biased: Prepared, tmp_path: Path, attention_unit: str, window: int | str
) -> None:
    masks = slow.prune_units(biased, tmp_path / "masks", "flap", attention_unit=attention_unit)
    adapted = tiny.reconstruct(
        replace(biased, masks=masks), tmp_path / "adapted", window=window, seed=0
    )
    result = slow.assembled(biased, masks, tmp_path / "model", adapted)
    own, start = (
        slow.transformers_model(made)
        for made in (result, slow.assembled(biased, masks, tmp_path / "start"))
    )
    for index, keep_masks in enumerate(slow.masks_of(biased, masks)):
        windows = adapted.files[block_shard(index)]["windows"]
        for facts in windows.values():
            assert not facts["kept_pruned"]
            # FLAP may take nothing of a half: then there is nothing to learn.
            assert facts["loss_after"] < facts["loss_before"] or facts["loss_before"] == 0
        block, before = (slow.blocks_of(biased, model)[index] for model in (own, start))
        for name, keep in keep_masks.items():
            assert torch.equal(block.get_submodule(name).weight != 0, keep), f"{index}: {name}"
        for name in slow.output_names(biased):
            bias, was = (each.get_submodule(name).bias for each in (block, before))
            half = f"{index}.{'attention' if 'attn' in name else 'mlp'}"
            facts = windows.get(half) or next(iter(windows.values()))
            assert torch.equal(bias, was) is (facts["loss_before"] == 0), f"{index}: {name}"
    input_ids = tiny.random_tokens(3, seed=1)
    found = slow.streamed_logits(StreamedModel(result.folder), input_ids)
    slow.assert_equal_logits(found, slow.logits_of(own, input_ids))
