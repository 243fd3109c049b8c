"""Choose masks for every block from dense statistics; no pass through the model is needed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from freelunch.activations import read_statistics
from freelunch.artifact import Artifact, ArtifactWriter, check_belongs
from freelunch.blocks import block_linears
from freelunch.checkpoint import StreamedModel, block_shard
from freelunch.criteria import SCORES
from freelunch.masks import keep_mask, pack, unpack
from freelunch.patterns import Pattern
from freelunch.report import Report, silent

KIND = "masks"


def prune_model(
    model: StreamedModel,
    dense: Artifact,
    criterion: Mapping[str, Any],
    pattern: Pattern,
    folder: Path,
    fingerprint: str,
    report: Report = silent,
) -> Artifact:
    """Write one file of bit-packed masks a block.

    Args:
        model: The dense model.
        dense: Its activations on the calibration sample.
        criterion: `score` and `scope`.
        pattern: Which share becomes zero.
        folder: Where the masks go.
        fingerprint: Digest of everything the result depends on.
        report: Told of each block.

    Raises:
        UserError: The activations belong to another model, or a score is not finite.
    """
    check_belongs(dense, "model", model.artifact)
    score = SCORES[criterion["score"]]
    writer = ArtifactWriter(folder, KIND, fingerprint)
    for index in range(model.num_blocks):
        name = block_shard(index)
        if name not in writer:
            statistics = read_statistics(dense, index)
            bits, pruned = {}, {}
            for linear_name, linear in block_linears(model.load_block(index)).items():
                scores = score(linear.weight, statistics[linear_name])
                where = model.sharding.name(index, linear_name)
                keep = keep_mask(scores, pattern, criterion["scope"], where)
                bits[linear_name] = pack(keep)
                pruned[linear_name] = int((~keep).sum())
            writer.add(name, lambda path, bits=bits: save_file(bits, path), pruned=pruned)  # type: ignore[misc]
        report(index + 1, model.num_blocks, "blocks")
    return writer.finish(
        settings={"criterion": dict(criterion), "pattern": pattern.name},
        model=model.artifact.digest,
        dense=dense.digest,
        calibration=dense.facts["calibration"],
    )


def read_masks(masks: Artifact, block: int, linears: Mapping[str, nn.Linear]) -> dict[str, Tensor]:
    """Return the keep mask of each linear layer of a block, (out, in), bool."""
    with safe_open(masks.path(block_shard(block)), framework="pt") as file:
        return {
            name: unpack(file.get_tensor(name), linear.weight.shape).to(linear.weight.device)
            for name, linear in linears.items()
        }


@torch.no_grad()
def prune_block_(block: nn.Module, masks: Artifact, index: int) -> dict[str, Tensor]:
    """Set the pruned weights of a block to zero, in place, and return its keep masks."""
    linears = block_linears(block)
    keep_masks = read_masks(masks, index, linears)
    for name, linear in linears.items():
        linear.weight.masked_fill_(~keep_masks[name], 0.0)
    return keep_masks
