"""Random models of any size, written to disk and passed through each step block by block.

`python tests/support/random_models.py <folder> <step> <settings> <limit> <streamed>` runs one step
in its own process and prints the peak memory of the process, for tests and benchmarks of memory.
"""

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

from freelunch.adaptation.job import AdaptationJob
from freelunch.adaptation.reconstruction.windows_in_turn import reconstruct_windows
from freelunch.adaptation.retraining.training_run import retrain_model
from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.job import keep_freed_memory
from freelunch.core.job_cost import status_bytes
from freelunch.model import mask_store, token_ids
from freelunch.model.blocks import find_blocks
from freelunch.model.checkpoint import (
    CONFIG,
    KIND,
    OUTER,
    Sharding,
    StreamedModel,
    finish_checkpoint,
    meta_model,
    write_shard,
)
from freelunch.model.hidden_states import open_states
from freelunch.model.mask_store import assemble_model
from freelunch.pruning import dense_pass
from freelunch.pruning.dense_pass import capture_dense
from freelunch.pruning.prune import prune_model
from freelunch.pruning.sharing import Pruning
from freelunch.study.adaptations import Adaptation
from freelunch.study.criteria import read_criterion
from freelunch.study.patterns import Pattern
from freelunch.study.retraining import Retraining, read_adaptation
from freelunch.study.steps import ADAPTED_BLOCKS
from freelunch.study.windows import split_windows
from measuring import perplexity_of

WANDA = read_criterion({"score": "wanda"})
STEPS = ("import", "capture", "prune", "reconstruct", "retrain", "assemble", "evaluate")
# glibc gives freed arrays of a megabyte back at once, so that a peak is what a step holds. By
# itself it keeps as much as its threads happened to free: peaks of one step differed by a fifth.
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
AS_JOB = "FREELUNCH_TEST_AS_JOB"


def llama(**sizes: Any) -> LlamaConfig:
    """Return a Llama config, with heads of size 64 and untied embeddings."""
    heads = sizes["hidden_size"] // 64
    given = {"num_attention_heads": heads, "num_key_value_heads": heads, "vocab_size": 512}
    return LlamaConfig(**{**given, "tie_word_embeddings": False, **sizes})


def one_block(sizes: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the config of one block of a large model, with a small vocabulary."""
    return AutoConfig.for_model(**{**sizes, "num_hidden_layers": 1, "vocab_size": 512})


def write_model(
    folder: Path, config: PreTrainedConfig, dtype: torch.dtype, tokens: int, length: int = 256
) -> None:
    """Write a random checkpoint below `folder`, and a calibration sample of sequences of `length`
    tokens.
    """
    config.dtype = dtype
    writer = ArtifactWriter(folder / "checkpoint", KIND, "random")
    meta, blocks = meta_model(config), config.num_hidden_layers
    sharding = Sharding(find_blocks(meta, blocks), blocks)
    generator = torch.Generator().manual_seed(0)
    names: dict[str, dict[str, torch.Size]] = {shard: {} for shard in sharding.shards}
    tensors_by_name = meta.state_dict(keep_vars=True)
    # A head that is tied to the embedding is the same tensor, and is stored once.
    first = {id(tensor): name for name, tensor in reversed(tensors_by_name.items())}
    for name, tensor in tensors_by_name.items():
        if first[id(tensor)] == name:
            names[sharding.shard(name)][name] = tensor.shape
    for shard, shapes in names.items():
        tensors = {
            name: torch.ones(shape, dtype=dtype)
            if len(shape) == 1
            else torch.empty(shape, dtype=dtype).normal_(std=0.02, generator=generator)
            for name, shape in shapes.items()
        }
        write_shard(writer, shard, tensors)
    writer.add_text(CONFIG, config.to_json_string(use_diff=False))
    model = finish_checkpoint(writer, [OUTER, *sharding.shards[1:]])
    sample = ArtifactWriter(folder / "calibration", token_ids.KIND, "random")
    shape = tokens // length, length
    ids = torch.randint(config.vocab_size, shape, generator=generator)
    sample.add(token_ids.TOKENS, lambda path: save_file({"input_ids": ids}, path))
    sample.finish(model=model.digest)


def run_step(
    folder: Path,
    step: str,
    settings: Adaptation | None = None,
    limit: int | None = None,
    streamed: bool = False,
    *,
    as_job: bool = False,
) -> int:
    """Run one of STEPS in a process of its own, which may allocate `limit` bytes beyond what its
    imports take; return its peak resident memory in bytes. A job of the workflow does not give
    freed arrays back at once.
    """
    written = json.dumps(settings and settings.as_json())
    command = [sys.executable, __file__, str(folder), step, written, str(limit or 0)]
    command.append(str(int(streamed)))
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path, **({AS_JOB: "1"} if as_job else GIVES_BACK)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{step}: {done.stderr[-2000:]}"
    return int(done.stdout.split()[-1])


def prune_by_wanda(folder: Path) -> None:
    """Capture and prune the model of `write_model` in this process; masks are below its folder."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for step in ("capture", "prune"):
            take_step(folder, step, None, False, Path(scratch))


def status(field: str) -> int:
    """Return a size of this process in bytes, as Linux tells it."""
    found = status_bytes(field)
    assert found is not None, field
    return found


def written() -> int:
    """Return how many bytes this process has written so far, to disk or to the page cache."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def take_step(
    folder: Path,
    step: str,
    written: Mapping[str, Any] | None,
    streamed: bool,
    scratch: Path,
    device: str = "cpu",
) -> None:
    """Run a step in this process on a device, with scratch files in a folder; the rest is as in
    `run_step`.
    """
    if step == "import":
        return
    model = StreamedModel(folder / "checkpoint", device)
    sample = Artifact(folder / "calibration", token_ids.KIND)
    hidden = folder / "hidden"
    if step == "capture":
        places = folder / "dense", hidden, "random", scratch
        capture_dense(model, sample, *places, keep="all", gram=False, dense_limit=float("inf"))
        return
    states = open_states(model, sample, hidden, scratch)
    if step == "prune":
        dense = Artifact(folder / "dense", dense_pass.KIND)
        pruning = Pruning(WANDA, Pattern.parse("u50"), 0, folder / "masks", "random")
        prune_model(model, dense, pruning, states)
        return
    masks = Artifact(folder / "masks", mask_store.KIND)
    settings = None if written is None else read_adaptation(written)
    target = folder / ("retrained" if isinstance(settings, Retraining) else "adapted")
    if step in ("reconstruct", "retrain"):
        code = json.dumps(written)
        job: AdaptationJob[Any] = AdaptationJob(model, masks, states, settings, 0, target, code)
        if step == "retrain":
            retrain_model(job, streamed)
        else:
            windows = split_windows(model.num_blocks, settings.window)
            reconstruct_windows(job, settings.window, windows)
    elif step == "assemble":
        adapted = [Artifact(target, ADAPTED_BLOCKS)]
        assemble_model(model, masks, adapted, folder / "assembled", "random")
    elif step == "evaluate":
        assembled = StreamedModel(folder / "assembled")
        perplexity_of(assembled, token_ids.read_tokens(sample), scratch)


def main(folder: Path, step: str, settings: str, limit: str, streamed: str) -> None:
    # What transformers imports when it makes a model, including scipy, is not part of a step.
    importlib.import_module("transformers.loss.loss_utils")
    if AS_JOB in os.environ:
        keep_freed_memory()
        torch.set_num_threads(1)
    if int(limit):
        allowed = status("VmData") + int(limit)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        take_step(folder, step, json.loads(settings), bool(int(streamed)), Path(scratch))
    print(status("VmHWM"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
