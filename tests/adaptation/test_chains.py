"""An adaptation that starts from another's result is the two steps done by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny_models as tiny
from freelunch.adaptation.reconstruction.windows_in_turn import reconstruct_windows
from freelunch.adaptation.retraining.training_run import retrain_model
from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.model.checkpoint import block_shard
from freelunch.model.mask_store import KIND, assemble_model, masks_file
from freelunch.study.retraining import read_adaptation
from freelunch.study.windows import split_windows
from tiny_models import BLOCKS, SEED, Prepared


def adapted(prepared: Prepared, folder: Path, start: Artifact | None, **entry: Any) -> Artifact:
    settings = read_adaptation({"learning_rate": 0.003, **entry})
    with tiny.dense_states(prepared.model, prepared.dense) as states:
        job = replace(prepared.job(states, settings, SEED, folder, str(folder)), start=start)
        if settings.is_retraining:
            return retrain_model(job, settings.residency == "streamed")
        return reconstruct_windows(job, settings.window, split_windows(BLOCKS, settings.window))


@pytest.mark.parametrize(
    "entry",
    [
        {"method": "full"},
        {"method": "full", "residency": "streamed"},
        {"method": "masklora", "rank": 2, "loss": "distillation"},
        {"method": "reconstruction", "window": "matrix", "train_norms": False, "inputs": "sparse"},
    ],
    ids=lambda entry: "-".join(map(str, entry.values())),
)
def test_a_chain_is_its_two_steps_done_by_hand(
    llama: Prepared, tmp_path: Path, entry: dict[str, Any]
) -> None:
    first = tiny.reconstruct(llama, tmp_path / "first")
    start = assemble_model(llama.model, llama.masks, [first], tmp_path / "checkpoint", "code")
    # By hand, these are the weights that pruning left, as after SparseGPT.
    writer = ArtifactWriter(tmp_path / "masks", KIND, "code")
    for index in range(BLOCKS):
        writer.link(masks_file(index), llama.masks, masks_file(index))
        writer.link(block_shard(index), start, block_shard(index))
    hand = replace(llama, masks=writer.finish(**llama.masks.facts))
    chain = adapted(llama, tmp_path / "chain", start, **entry)
    expected = adapted(hand, tmp_path / "hand", None, **entry)
    fresh = adapted(llama, tmp_path / "fresh", None, **entry)
    assert chain.facts["start"] == start.digest and "start" not in expected.facts
    for name in chain.files:
        assert chain.files[name]["sha256"] == expected.files[name]["sha256"]
        assert chain.files[name]["sha256"] != fresh.files[name]["sha256"]
