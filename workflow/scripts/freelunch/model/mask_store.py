"""A pruned model on disk, and the checkpoint that is assembled from it.

Each block has a file of bit-packed masks and, if kept parameters changed, a shard as in a
checkpoint.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from freelunch.core.artifact import Artifact, check_belongs, united_digest
from freelunch.core.artifact_writer import ArtifactWriter, Files
from freelunch.core.errors import UserError
from freelunch.core.progress import Report, silent
from freelunch.model import checkpoint
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import OUTER, StreamedModel, block_shard, write_shard
from freelunch.model.tensor_file import TensorFile
from freelunch.model.transfer import read_tensor
from freelunch.study.steps import MASKS

KIND = MASKS
# Integer dtypes by their bytes.
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Weights that are masked together on a processor, so that little memory is needed beside them.
_MASKED_TOGETHER = 2**17


@dataclass
class Pruned:
    """A pruned block: the mask of each linear layer, (out, in), bool, True where the weight stays;
    new values of parameters, by name, if kept ones changed; what the criterion notes about layers.
    """

    masks: dict[str, Tensor]
    changed: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, dict[str, float]] = field(default_factory=dict)


def masks_file(block: int) -> str:
    """Return the name of the file with a block's masks."""
    return f"masks-{block:03d}.safetensors"


def write_pruned_block(
    writer: ArtifactWriter, model: StreamedModel, index: int, block: nn.Module, pruned: Pruned
) -> None:
    """Write a block's masks, and before them its shard if a kept parameter changed."""
    if pruned.changed:
        state = dict(block.state_dict()) | pruned.changed
        for name, keep in pruned.masks.items():
            state[f"{name}.weight"] = weight = state[f"{name}.weight"].clone()
            mask_(weight, keep)
        tensors = {model.sharding.name(index, name): value for name, value in state.items()}
        for name, value in tensors.items():
            check_finite(
                value, name, problem="a changed parameter is not finite in the model's dtype"
            )
        write_shard(writer, block_shard(index), tensors)
    bits = {name: pack(keep) for name, keep in pruned.masks.items()}
    name_of = model.sharding.name
    counts = {name_of(index, name): int((~keep).sum()) for name, keep in pruned.masks.items()}
    notes = {name_of(index, name): of_layer for name, of_layer in pruned.notes.items()}
    facts = {"pruned": counts, **({"notes": notes} if notes else {})}
    writer.add(masks_file(index), lambda path: save_file(bits, path), **facts)


@torch.no_grad()
def load_pruned_block(
    model: StreamedModel, files: Files | None, index: int, start: Files | None = None
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a block of the dense model as masks in `files` prune it, or the block of `start`, a
    checkpoint with these masks, in eval mode and the model's dtype, and the mask of each linear
    layer, (out, in), bool, True where the weight stays. Without files, all weights stay.
    """
    changed = files if files is not None and block_shard(index) in files else None
    block = model.load_block(index, start or changed)
    masks = load_masks(files, index, block)
    for name, linear in block_linears(block).items():
        mask_(linear.weight, masks[name])
    return block, masks


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
    writer = ArtifactWriter(folder, checkpoint.KIND, fingerprint, keep_journal=True)
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
    checkpoint.link_shard(writer, OUTER, shards.get(OUTER, source))
    for index, shard in enumerate(blocks):
        if adapted:
            checkpoint.link_shard(writer, shard, shards[shard])
        elif masks is None:
            checkpoint.link_shard(writer, shard, source)
        elif shard in masks.files:
            checkpoint.link_shard(writer, shard, masks)
        elif shard not in writer:
            block, _ = load_pruned_block(model, masks, index)
            tensors = {
                model.sharding.name(index, key): value for key, value in block.state_dict().items()
            }
            write_shard(writer, shard, tensors)
        report(index + 1, model.num_blocks, "blocks")
    changes = masks.facts["config"] if masks else {}
    for name in source.files:
        if name == checkpoint.CONFIG and changes:
            config = json.loads(source.path(name).read_text())
            writer.add_text(name, json.dumps(config | changes, indent=2) + "\n")
        elif not name.endswith(".safetensors") and name != checkpoint.INDEX:
            writer.link(name, source, name)
    return checkpoint.finish_checkpoint(
        writer,
        [OUTER, *blocks],
        model=source.digest,
        masks=masks.digest if masks else None,
        adapted=[united_digest(part.folder for part in adapted)] if adapted else [],
    )


def load_masks(files: Files | None, index: int, block: nn.Module) -> dict[str, Tensor]:
    """Return the mask of each linear layer of a block, where the layer is: (out, in), bool."""
    weights = {name: linear.weight for name, linear in block_linears(block).items()}
    if files is None:
        return {name: torch.ones_like(each, dtype=torch.bool) for name, each in weights.items()}
    file = TensorFile(files.path(masks_file(index)))
    return {
        name: unpack(read_tensor(file, name, each.device), each.shape)
        for name, each in weights.items()
    }


def pack(mask: Tensor) -> Tensor:
    """Return a boolean mask packed into bits, row by row: (ceil(numel / 8),), uint8."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy()))


def unpack(bits: Tensor, shape: torch.Size) -> Tensor:
    """Return the boolean mask that `pack` packed, where the bits are; ValueError if they are not of
    its size.
    """
    if bits.numel() != -(-shape.numel() // 8):
        raise ValueError(f"{bits.numel()} bytes do not hold a mask of shape {tuple(shape)}")
    if bits.device.type == "cpu":
        flat = np.unpackbits(bits.numpy(), count=shape.numel()).view(np.bool_)
        return torch.from_numpy(flat).reshape(shape)
    return unpack_there(bits, shape)


def unpack_there(bits: Tensor, shape: torch.Size) -> Tensor:
    """Unpack on the device of `bits`: packed, a mask travels as an eighth of its bytes."""
    places = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    return (bits[:, None] & places).bool().flatten()[: shape.numel()].reshape(shape)


def check_finite(values: Tensor, where: object, *, problem: str) -> None:
    """Raise UserError if some values are not finite, and say how many."""
    # A sum is finite only if all of its terms are, and takes a thirtieth of the time.
    if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
        raise UserError(
            problem,
            where=where,
            found=f"{int((~torch.isfinite(values)).sum())} of {values.numel()} not finite",
            todo="look for non-finite weights or activations of this layer",
        )


def count_pruned(masks: Artifact | None) -> int:
    """Return how many weights the masks of all blocks remove."""
    entries = masks.files.values() if masks else ()
    return sum(sum(entry.get("pruned", {}).values()) for entry in entries)


@torch.no_grad()
def round_(
    parameters: Iterable[Tensor], masked: Iterable[tuple[nn.Linear, Tensor]], dtype: torch.dtype
) -> None:
    """Round parameters to the values that a checkpoint of a dtype holds, in place; their own dtype
    stays the same. In `masked` linear layers, a kept weight that became exactly 0 becomes the
    smallest positive number.
    """
    for parameter in parameters:
        if parameter.dtype != dtype:
            parameter.copy_(parameter.to(dtype))
    for linear, keep in masked:
        rounded = linear.weight.to(dtype)
        fill_kept_zeros_(rounded, keep)
        linear.weight.copy_(rounded)


def mask_(weight: Tensor, keep: Tensor) -> None:
    """Set the weights that a mask removes to 0, in place; both are (out, in). A kept weight that
    happens to be 0 becomes the smallest positive number, so that the zeros are exactly the mask.
    """
    if weight.device.type == "cpu":
        mask_bits_(weight, keep)
    else:
        mask_values_(weight, keep)


def mask_bits_(weight: Tensor, keep: Tensor) -> None:
    """Mask on a processor, with one thread.

    Streamed retraining masks each block in a thread that reads ahead, where torch's threads would
    compete with those of the product that is computed meanwhile. NumPy has no bfloat16, but can
    mask the bits.
    """
    integers = _INTEGERS[weight.element_size()]
    least = torch.tensor(_least(weight.dtype), dtype=weight.dtype).view(integers).item()
    whole, mask = weight.detach().view(integers).numpy(), keep.numpy()
    rows = max(1, _MASKED_TOGETHER // max(1, whole.shape[1]))
    for row in range(0, len(whole), rows):
        bits, kept = whole[row : row + rows], mask[row : row + rows]
        bits &= np.negative(kept.view(np.int8)).astype(bits.dtype)
        # The first bit is the sign: there are two zeros.
        bits[(bits << 1 == 0) & kept] = least


def mask_values_(weight: Tensor, keep: Tensor) -> None:
    """Mask on the device of a weight."""
    weight.masked_fill_(~keep, 0.0)
    fill_kept_zeros_(weight, keep)


def fill_kept_zeros_(weight: Tensor, keep: Tensor) -> None:
    """Replace kept weights that are exactly 0 by the smallest positive number, in place."""
    weight.masked_fill_((weight == 0) & keep, _least(weight.dtype))


def _least(dtype: torch.dtype) -> float:
    """Return the smallest normal number; in float16, where it is not small beside a weight, the
    smallest subnormal one.
    """
    return 2.0**-24 if dtype == torch.float16 else torch.finfo(dtype).tiny
