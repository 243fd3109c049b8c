"""An adaptation that starts from another's result is the two steps done by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import tiny_models as tiny
from freelunch.adaptation.reconstruction.windows_in_turn import reconstruct_windows
from freelunch.adaptation.retraining.training_run import retrain_model
from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.model.checkpoint import block_shard
from freelunch.model.mask_store import KIND, assemble_model, masks_file
from freelunch.study.retraining import read_adaptation
from freelunch.study.windows import split_windows
from tiny_models import BLOCKS, SEED, SEQUENCES, Prepared


def by_hand(prepared: Prepared, start: Artifact, folder: Path) -> Prepared:
    """Return a model whose pruned weights are those of a checkpoint, as after SparseGPT."""
    writer = ArtifactWriter(folder, KIND, start.digest)
    for index in range(BLOCKS):
        writer.link(masks_file(index), prepared.masks, masks_file(index))
        writer.link(block_shard(index), start, block_shard(index))
    return replace(prepared, masks=writer.finish(**prepared.masks.facts))


def adapted(prepared: Prepared, folder: Path, start: Artifact | None, **entry: Any) -> Artifact:
    streamed = entry.pop("residency", None) == "streamed"
    settings = read_adaptation({"learning_rate": 0.003, **entry})
    with tiny.dense_states(prepared.model, prepared.dense) as states:
        job = replace(prepared.job(states, settings, SEED, folder, str(folder)), start=start)
        if settings.is_retraining:
            return retrain_model(job, streamed)
        return reconstruct_windows(job, settings.window, split_windows(BLOCKS, settings.window))


@pytest.mark.parametrize(
    "entry",
    [
        {"method": "full"},
        {"method": "full", "residency": "streamed"},
        {"method": "masklora", "rank": 2, "loss": "distillation"},
        {"method": "reconstruction", "window": "all"},
        {"method": "reconstruction", "window": "matrix", "train_norms": False, "inputs": "sparse"},
    ],
    ids=lambda entry: "-".join(map(str, entry.values())),
)
def test_a_chain_is_its_two_steps_done_by_hand(
    llama: Prepared, tmp_path: Path, entry: dict[str, Any]
) -> None:
    first = tiny.reconstruct(llama, tmp_path / "first")
    start = assemble_model(llama.model, llama.masks, [first], tmp_path / "checkpoint", "code")
    hand = by_hand(llama, start, tmp_path / "masks")
    chain = adapted(llama, tmp_path / "chain", start, **entry)
    expected = adapted(hand, tmp_path / "hand", None, **entry)
    fresh = adapted(llama, tmp_path / "fresh", None, **entry)
    assert chain.facts["start"] == start.digest and "start" not in expected.facts
    for name in chain.files:
        assert chain.files[name]["sha256"] == expected.files[name]["sha256"]
        assert chain.files[name]["sha256"] != fresh.files[name]["sha256"]
    if entry["method"] == "full":
        input_ids = tiny.random_tokens(SEQUENCES)
        model = AutoModelForCausalLM.from_pretrained(start.folder)
        loss = model(input_ids=input_ids, labels=input_ids).loss.item()
        assert tiny.retrained_facts(chain)["loss_before"] == pytest.approx(loss, rel=1e-5)
