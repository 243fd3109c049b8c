"""Assemble a checkpoint from the dense model and the blocks that changed."""

import json
from collections.abc import Sequence
from pathlib import Path

from freelunch.core.artifact import Artifact, check_belongs
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.errors import UserError
from freelunch.core.progress import Report, silent
from freelunch.model.checkpoint import (
    CONFIG,
    INDEX,
    KIND,
    OUTER,
    StreamedModel,
    block_shard,
    finish_checkpoint,
    link_shard,
    write_shard,
)
from freelunch.model.mask_store import load_pruned_block


def assemble_model(
    model: StreamedModel,
    masks: Artifact | None,
    adapted: Sequence[Artifact],
    folder: Path,
    fingerprint: str,
    report: Report = silent,
) -> Artifact:
    """Write a checkpoint of the dense model, of its masks, or of adapted blocks: the artifacts of a
    reconstruction's jobs, which together hold every block, or of a retraining. Shards that exist
    elsewhere are linked instead of copied.

    UserError if a block is in none of `adapted` or in two, or something was made from another
    model.
    """
    source = model.artifact
    # What is measured on a checkpoint changes more often than the checkpoint.
    writer = ArtifactWriter(folder, KIND, fingerprint, keep_journal=True)
    shards = {shard: part for part in adapted for shard in part.files}
    blocks = [block_shard(index) for index in range(model.num_blocks)]
    # A retraining may also have trained tensors outside the blocks.
    adapted_blocks = [shard for part in adapted for shard in part.files if shard != OUTER]
    if adapted and sorted(adapted_blocks) != blocks:
        raise UserError(
            "the adapted blocks are not exactly the model's blocks",
            where=", ".join(str(part.folder) for part in adapted),
            found=f"{len(adapted_blocks)} blocks",
            expected=f"{len(blocks)} blocks",
        )
    for part in [*([masks] if masks else []), *adapted]:
        check_belongs(part, "model", source)
    link_shard(writer, OUTER, shards.get(OUTER, source))
    for index, shard in enumerate(blocks):
        if adapted:
            link_shard(writer, shard, shards[shard])
        elif masks is None:
            link_shard(writer, shard, source)
        elif shard in masks.files:
            link_shard(writer, shard, masks)
        elif shard not in writer:
            block, _ = load_pruned_block(model, masks.folder, index)
            tensors = {
                model.sharding.name(index, key): value for key, value in block.state_dict().items()
            }
            write_shard(writer, shard, tensors)
        report(index + 1, model.num_blocks, "blocks")
    changes = masks.facts["config"] if masks else {}
    for name in source.files:
        if name == CONFIG and changes:
            config = json.loads(source.path(name).read_text())
            writer.add_text(name, json.dumps(config | changes, indent=2) + "\n")
        elif not name.endswith(".safetensors") and name != INDEX:
            writer.link(name, source, name)
    return finish_checkpoint(
        writer,
        [OUTER, *blocks],
        model=source.digest,
        masks=masks.digest if masks else None,
        adapted=[part.digest for part in adapted],
    )
