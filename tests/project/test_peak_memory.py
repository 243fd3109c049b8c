"""Peak memory, measured in processes of their own: what neither a model's depth nor the size of the
sample changes, and models larger than what the process may use.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma2Config

from freelunch.core.artifact import Artifact
from freelunch.core.digest import file_digest
from freelunch.costs.pass_costs import capture_dense as plan_of_dense_pass
from freelunch.costs.shapes import Shapes
from freelunch.costs.window_costs import reconstruct as plan_of_windows
from freelunch.model import token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.pruning import dense_pass
from freelunch.study.methods import FULL
from freelunch.study.retraining import read_adaptation
from random_models import llama, prune_by_wanda, run_step, status, write_model
from tiny_models import (
    Prepared,
    capture,
    prune,
    random_tokens,
    reconstruct,
    save_calibration,
    tiny_checkpoint,
)

pytestmark = pytest.mark.long

WIDE = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 32,
}
# Of one block's four distinct inputs, float32.
GRAM_BYTES = 4 * (3 * 256**2 + 1024**2)
# What a process may allocate beyond its imports: less than half of the large model's weights.
LIMIT = 230 * 2**20
# A streamed retraining by `full` also reads the next block's trained weights, in float32. That is
# still less than the model's weights alone.
FULL_LIMIT = 330 * 2**20
BLOCK_BYTES = 4 * (4 * 256**2 + 3 * 256 * 1024)


def peak_of(base: Path) -> int:
    """Return the peak resident memory of capturing, pruning and adapting, bytes."""
    run = [sys.executable, __file__, str(base)]
    path = ":".join(entry for entry in sys.path if entry)
    done = subprocess.run(run, capture_output=True, text=True, env={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_step_holds_one_block_however_many_there_are(tmp_path: Path) -> None:
    peaks = {}
    for blocks in (2, 8):
        base = tmp_path / str(blocks)
        checkpoint = tiny_checkpoint(base, num_hidden_layers=blocks, **WIDE)
        save_calibration(checkpoint, base / "calibration", random_tokens(4))
        peaks[blocks] = peak_of(base)
    # Six blocks more would hold 30 MB of Gram matrices, and 25 MB of weights.
    growth = peaks[8] - peaks[2]
    assert growth < 2 * (GRAM_BYTES + BLOCK_BYTES), f"{growth / 1e6:.0f} MB for six blocks more"


ADAPTATIONS: list[dict[str, Any]] = [
    {"window": 1},
    {"window": "attention_mlp"},
    {"window": "matrix", "train_norms": False},
    {"window": 1, "inputs": "sparse", "targets": "local"},
]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_step_holds_a_few_sequences_however_many_there_are(tmp_path: Path) -> None:
    # Few sequences already fill two batches.
    length, few, many = 64, 64, 512
    config = llama(hidden_size=256, intermediate_size=512, num_hidden_layers=1)
    steps: list[tuple[str, dict[str, Any] | None]] = [
        *(("capture", None), ("prune", None)),
        *(("reconstruct", {"method": "reconstruction", **each}) for each in ADAPTATIONS),
        *(("assemble", None), ("evaluate", None), ("retrain", {"method": "masklora", "rank": 1})),
    ]
    peaks: dict[int, list[int]] = {}
    for sequences in (few, many):
        folder = tmp_path / str(sequences)
        write_model(folder, config, torch.float32, tokens=sequences * length, length=length)
        peaks[sequences] = [
            run_step(folder, step, entry and read_adaptation(entry)) for step, entry in steps
        ]
    hidden = 4 * (many - few) * length * config.hidden_size
    for (step, entry), before, after in zip(steps, peaks[few], peaks[many], strict=True):
        growth = after - before
        assert growth < hidden / 4, f"{step} {entry}: {growth / 1e6:.0f} MB more"


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process")
@pytest.mark.parametrize("settings", ADAPTATIONS[1:], ids=str)
def test_a_model_larger_than_memory(large: Path, settings: dict[str, Any]) -> None:
    """Every step with less memory than the model has weights; the limit is enforced."""
    entry = read_adaptation({"method": "reconstruction", **settings})
    run_step(large, "reconstruct", entry, limit=LIMIT)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    config = llama(hidden_size=512, intermediate_size=2048, num_hidden_layers=30)
    write_model(folder, config, torch.float32, tokens=128, length=64)
    weights = sum(path.stat().st_size for path in (folder / "checkpoint").glob("*.safetensors"))
    assert weights > 2 * LIMIT and weights > FULL_LIMIT
    for step in ("capture", "prune"):
        run_step(folder, step, limit=LIMIT)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_of_a_long_window_are_not_in_memory_all_at_once(tmp_path: Path, dtype: str) -> None:
    """They would take half a gigabyte, twice; the plan counts those of some tokens."""
    length = 2048
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    config = llama(**sizes, vocab_size=2**16, max_position_embeddings=length)
    write_model(tmp_path, config, getattr(torch, dtype), tokens=2 * length, length=length)
    shapes = Shapes.of(config.to_dict(), dtype)
    planned = plan_of_dense_pass(shapes, 2, length, gram=False, keep="all").memory_bytes
    assert 0.9 < planned / run_step(tmp_path, "capture") < 1.15


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_of_a_long_sequence_are_planned(tmp_path: Path, dtype: str) -> None:
    """Where no kernel computes attention, they are most of what a pass and a training hold."""
    length = 2048
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32}
    config = Gemma2Config(**sizes, **heads, vocab_size=512, max_position_embeddings=length)
    write_model(tmp_path, config, getattr(torch, dtype), tokens=2 * length, length=length)
    shapes = Shapes.of(config.to_dict(), dtype)
    planned = plan_of_dense_pass(shapes, 2, length, gram=False, keep="all").memory_bytes
    assert 0.85 < planned / run_step(tmp_path, "capture") < 1.15
    run_step(tmp_path, "prune")
    block = read_adaptation({"method": "reconstruction", "window": 1, "batch": 1})
    planned = plan_of_windows(shapes, 2, length, block).memory_bytes
    assert 0.95 < planned / run_step(tmp_path, "reconstruct", block) < 1.3


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_windows_are_planned_with_the_holes_that_a_job_has(tmp_path: Path) -> None:
    """With SmolLM2's shapes, a window of all blocks takes a sixth more than what is in it."""
    sizes = {"num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 10}
    config = llama(hidden_size=576, intermediate_size=1536, **sizes)
    write_model(tmp_path, config, torch.float32, tokens=4 * 256)
    prune_by_wanda(tmp_path)
    for window in (1, 5, "all", "attention_mlp", "matrix"):
        entry = {"method": "reconstruction", "window": window, "train_norms": False, "epochs": 4}
        settings = read_adaptation(entry)
        planned = plan_of_windows(Shapes.of(config.to_dict(), "float32"), 4, 256, settings)
        measured = run_step(tmp_path, "reconstruct", settings, as_job=True)
        shutil.rmtree(tmp_path / "adapted")
        assert 0.9 < planned.memory_bytes / measured < 1.1, f"{window}: {measured / 1e6:.0f} MB"


# Adapters of all blocks are in memory: of rank 1, they are small beside a block.
RETRAINING: list[dict[str, Any]] = [
    {"method": "full"},
    {"method": "lora", "rank": 1},
    {"method": "masklora", "rank": 1},
]


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process")
@pytest.mark.parametrize("entry", RETRAINING, ids=lambda entry: entry["method"])
def test_a_model_larger_than_memory_is_retrained(large: Path, entry: dict[str, Any]) -> None:
    """Block by block; of `full`, weights, moments and gradients are on disk.

    The result is that of a training in memory, and is evaluated in as little.
    """
    settings = read_adaptation({**entry, "micro_batch": 1})
    limit = FULL_LIMIT if settings.trained.weights == FULL else LIMIT
    run_step(large, "retrain", settings, limit=limit, streamed=True)
    run_step(large, "assemble", settings, limit=LIMIT)
    run_step(large, "evaluate", limit=LIMIT)
    found = _digests(large / "retrained")
    run_step(large, "retrain", settings)
    assert _digests(large / "retrained") == found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_streamed_retraining_holds_one_block_however_many_there_are(tmp_path: Path) -> None:
    peaks: dict[str, list[int]] = {entry["method"]: [] for entry in RETRAINING}
    for blocks in (4, 32):
        folder = tmp_path / str(blocks)
        config = llama(hidden_size=384, intermediate_size=1152, num_hidden_layers=blocks)
        write_model(folder, config, torch.float32, tokens=64, length=16)
        prune_by_wanda(folder)
        for entry in RETRAINING:
            settings = read_adaptation(entry)
            peaks[entry["method"]].append(run_step(folder, "retrain", settings, streamed=True))
    # These are peaks of whole processes. Net of libraries, the blocks of a model this small are
    # less than what allocators keep from one run to the next.
    grown = {name: deep / shallow for name, (shallow, deep) in peaks.items()}
    assert max(grown.values()) <= 1.15, f"peak of 32 blocks / peak of 4 blocks: {grown}"


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process")
def test_what_follows_a_reconstruction_is_as_small(large: Path) -> None:
    block, whole = (
        read_adaptation({"method": "reconstruction", "window": window}) for window in (1, "all")
    )
    run_step(large, "reconstruct", block, limit=LIMIT)
    run_step(large, "assemble", limit=LIMIT)
    run_step(large, "evaluate", limit=LIMIT)
    with pytest.raises(AssertionError, match=r"(?i)memory|allocate"):
        # All blocks together do not fit: the limit is one.
        run_step(large, "reconstruct", whole, limit=LIMIT)


def _digests(folder: Path) -> dict[str, str]:
    shards = sorted(folder.glob("*.safetensors"))
    assert shards
    return {path.name: file_digest(path) for path in shards}


def main(base: Path) -> None:
    model = StreamedModel(base / "checkpoint")
    sample = Artifact(base / "calibration", token_ids.KIND)
    capture(model, sample, base / "dense", gram=True)
    dense = Artifact(base / "dense", dense_pass.KIND)
    prune(model, dense, base / "sparsegpt", "sparsegpt")
    masks = prune(model, dense, base / "swaps", "wanda", "2of4", swaps=1)
    windows = [range(index, index + 1) for index in range(model.num_blocks)]
    for number, settings in enumerate(ADAPTATIONS):
        prepared = Prepared(model, dense, masks)
        reconstruct(prepared, base / f"adapted{number}", windows, **settings)
    print(status("VmHWM"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
