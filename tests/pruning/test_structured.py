"""The heads and channels that go, against plain loops."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from freelunch.core.errors import UserError
from freelunch.model.blocks import block_linears
from freelunch.model.mask_store import load_pruned_block
from freelunch.pruning.structured import Layout, choose_in_block, choose_in_model
from freelunch.study.criteria import read_criterion
from freelunch.study.patterns import Pattern
from slow_units import (
    SEQUENCES,
    UNITS,
    assembled,
    assert_equal_logits,
    blocks_of,
    inputs_of,
    logits_of,
    lowest_units,
    masks_of,
    output_names,
    prune_units,
    slow_gone,
    slow_masks,
    transformers_model,
)
from tiny_models import (
    CROSSED,
    Prepared,
    prepare,
    random_tokens,
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("llama"), sequences=SEQUENCES)


# --- Masks


KINDS = [
    ("wanda_sp", "block", "WIFN"),
    ("wanda_sp", "model", "WIFN"),
    ("flap", "model", "WIFV"),
    ("flap", "model", "IFV"),
    ("flap", "model", "WIFN"),
    ("flap", "block", "WIFV"),
]


@pytest.mark.parametrize("attention_unit", UNITS)
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
    prepared = prepare(tmp_path / family, family, sequences=SEQUENCES)
    dense = transformers_model(prepared.model.artifact)
    blocks, inputs = list(blocks_of(prepared, dense)), inputs_of(prepared, dense)
    settings = {"metric": metric} if score == "flap" else {}
    # Within a block the share of its two key heads has to be one at least.
    for percent in (30, 50) if scope == "model" else (50, 75):
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
    everything = sum(len(part) * each for part, each in zip(sets, weights, strict=True))
    _, first, _ = min(
        (score, number, unit) for number, part in enumerate(sets) for unit, score in enumerate(part)
    )
    if weights[first] * 100 > percent * everything:
        with pytest.raises(UserError, match="less than one unit"):
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
        with pytest.raises(UserError, match=f"of {len(scores)} units rounds down to none"):
            choose_in_block(torch.tensor(scores), pattern)
        return
    keep = choose_in_block(torch.tensor(scores), pattern)
    gone = {int(unit) for unit in (~keep).nonzero()}
    assert len(gone) == percent * len(scores) // 100
    assert gone == lowest_units(scores, percent)


def test_equal_scores_are_all_the_mean(llama: Prepared) -> None:
    """A matrix whose scores say nothing neither loses all its units nor keeps them for that."""
    layout = Layout.of(llama.model.config, "group")
    block = llama.model.load_block(0)
    constant = SimpleNamespace(unit_score=lambda weight, *_: torch.full(weight.shape[1:], 0.1))
    statistics = dict.fromkeys(block_linears(block))
    settings = read_criterion({"score": "wanda_sp", "scope": "model"})
    for part in layout.scores(block, statistics, constant, settings, ""):
        assert torch.equal(part, torch.zeros(len(part)))


# --- Statistics of the sparse model


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
