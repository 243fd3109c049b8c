"""How zeros are divided among blocks, against plain sums over whole models."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_models as tiny
from freelunch.core.artifact import Artifact
from freelunch.model.blocks import block_linears
from freelunch.model.mask_store import load_pruned_block
from freelunch.pruning.allocation import divide, outliers, sparsities
from freelunch.pruning.dense_pass import read_statistics
from freelunch.study.patterns import Pattern
from refusals import refused
from tiny_models import BLOCKS, Prepared


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return tiny.prepare(tmp_path_factory.mktemp("prepared"))


def zeros_of(prepared: Prepared, masks: Artifact) -> list[dict[str, int]]:
    blocks = [load_pruned_block(prepared.model, masks, index)[1] for index in range(BLOCKS)]
    return [{name: int((~keep).sum()) for name, keep in block.items()} for block in blocks]


@given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=40),
    percent=st.integers(20, 80),
    size=st.integers(5, 5000),
    spread=st.floats(0.001, 0.09),
)
def test_every_block_has_its_share_and_the_model_exactly_the_patterns(
    shares: list[float], percent: int, size: int, spread: float
) -> None:
    pattern = Pattern.parse(f"u{percent}")
    wanted = sparsities(shares, pattern.sparsity, spread)
    counts = divide(wanted, size, pattern)
    assert sum(counts) == len(shares) * pattern.zeros_in_group(size)
    for count, share in zip(counts, wanted, strict=True):
        assert 0 <= count <= size and abs(count - share * size) <= 2
        assert abs(share - pattern.sparsity) <= 2 * spread + 1e-9
    # The more outliers, the fewer zeros.
    ranked = [share for _, share in sorted(zip(shares, wanted, strict=True))]
    assert ranked == sorted(ranked, reverse=True)
    if max(shares) - min(shares) > 1e-6:
        assert max(wanted) - min(wanted) == pytest.approx(2 * spread)


def test_outliers_are_those_of_the_whole_block(prepared: Prepared) -> None:
    found = outliers(prepared.model, prepared.dense, 3.0)
    assert len(found) == BLOCKS and len(set(found)) > 1
    for index, share in enumerate(found):
        statistics = read_statistics(prepared.dense, index)
        scores = [
            abs(float(weight)) * float(squares) ** 0.5
            for name, linear in block_linears(prepared.model.load_block(index)).items()
            for row in linear.weight
            for weight, squares in zip(row, statistics[name].squared_norm, strict=True)
        ]
        mean = sum(scores) / len(scores)
        assert share == sum(score > 3 * mean for score in scores) / len(scores)


def test_a_block_that_would_lose_nothing_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    """A spread that leaves every block a share may leave it no weight of a short row."""
    allocation = {"by": "owl", "outliers": 3.0, "spread": 0.019}
    with refused(where="u04", found="lose 0 to", todo="spread"):
        tiny.prune(
            prepared.model,
            prepared.dense,
            tmp_path / "owl",
            "wanda",
            "u04",
            allocation=allocation,
        )


@pytest.mark.parametrize("name", ["magnitude", "wanda", "sparsegpt", "alps"])
@pytest.mark.parametrize("scope", ["row", "matrix"])
def test_blocks_with_more_outliers_keep_more(
    prepared: Prepared, tmp_path: Path, name: str, scope: str
) -> None:
    allocation = {"by": "owl", "outliers": 3.0, "spread": 0.1}
    pruned = tiny.prune(
        prepared.model, prepared.dense, tmp_path / "owl", name, scope=scope, allocation=allocation
    )
    zeros = zeros_of(prepared, pruned)
    uniform = zeros_of(
        prepared, tiny.prune(prepared.model, prepared.dense, tmp_path / "all", name, scope=scope)
    )
    for layer in zeros[0]:
        assert sum(block[layer] for block in zeros) == sum(block[layer] for block in uniform)
    shares = torch.tensor(outliers(prepared.model, prepared.dense, 3.0))
    totals = torch.tensor([sum(block.values()) for block in zeros])
    assert totals[shares.argmax()] < sum(uniform[0].values()) < totals[shares.argmin()]
