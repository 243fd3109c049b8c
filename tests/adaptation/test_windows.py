"""Windows of every size: what none of them may change."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from freelunch.adaptation.reconstruction.train_window import LOSSES
from tiny_models import (
    BLOCKS,
    SEQUENCES,
    Prepared,
    keep_everything,
    prepare,
    reconstruct,
    shards,
    weights,
)
from windows_for_tests import MODES, WINDOWS, facts_of


@pytest.fixture(scope="module")
def unpruned(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return keep_everything(tmp_path_factory.mktemp("unpruned"), SEQUENCES)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("window", WINDOWS)
def test_without_pruning_there_is_nothing_to_learn(
    unpruned: Prepared, tmp_path: Path, window: str, loss: str
) -> None:
    """And dense and sparse inputs are the same."""
    found = {}
    for mode, (inputs, targets) in MODES.items():
        settings = {**WINDOWS[window], "inputs": inputs, "targets": targets}
        if window != "exact":
            settings["loss"] = loss
        found[mode] = reconstruct(unpruned, tmp_path / f"adapted-{mode}", **settings)
        assert all(facts["loss_before"] < 1e-12 for facts in facts_of(found[mode]).values())
        for index in range(BLOCKS):
            dense = unpruned.model.load_block(index).state_dict()
            for name, value in weights(found[mode], index).items():
                # A matrix solved anew is equal to rounding.
                close = (
                    {"rtol": 1e-4, "atol": 1e-5} if window == "exact" else {"rtol": 0, "atol": 0}
                )
                torch.testing.assert_close(value, dense[name], **close)


def test_one_window_over_a_model_of_one_block(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, sequences=SEQUENCES, num_hidden_layers=1)
    one, whole, sparse, local = (
        reconstruct(prepared, tmp_path / name, [range(1)], **settings)
        for name, settings in {
            "one": {"window": 1},
            "all": {"window": "all"},
            "sparse": {"window": 1, "inputs": "sparse"},
            "local": {"window": 1, "inputs": "sparse", "targets": "local"},
        }.items()
    )
    # Before the first block nothing is pruned.
    assert shards(one) == shards(whole) == shards(sparse) == shards(local)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("window", WINDOWS)
def test_which_hidden_states_are_kept_changes_nothing(
    prepare_once: Callable[..., Prepared], tmp_path: Path, window: str, mode: str
) -> None:
    inputs, targets = MODES[mode]
    settings = {**WINDOWS[window], "inputs": inputs, "targets": targets}
    found = []
    for keep in ("all", "every_2", "none"):
        prepared = prepare_once(sequences=SEQUENCES, keep=keep)
        found.append(shards(reconstruct(prepared, tmp_path / keep, **settings)))
    assert found[0] == found[1] == found[2]
