"""What pruning makes of a model: masks, and new values where a criterion changes what it keeps.

One file of bit-packed masks a block; beside it the block's shard, as a checkpoint has it, if kept
parameters changed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from freelunch.core.artifact import Artifact, ArtifactWriter
from freelunch.core.errors import UserError
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import StreamedModel, block_shard, write_shard
from freelunch.study.steps import MASKS

KIND = MASKS


@dataclass
class Pruned:
    """What pruning makes of a block.

    Attributes:
        masks: For each linear layer, (out, in), bool, True where the weight stays.
        changed: New values of parameters, by name in the block; empty if kept weights stay as they
            were.
        notes: For each linear layer that has some, what is worth noting.
    """

    masks: dict[str, Tensor]
    changed: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)


def masks_file(block: int) -> str:
    """Return the name of the file with a block's masks."""
    return f"masks-{block:03d}.safetensors"


def write_pruned_block(
    writer: ArtifactWriter, model: StreamedModel, index: int, block: nn.Module, pruned: Pruned
) -> None:
    """Write a block's masks, and before them its shard if any kept parameter changed."""
    if pruned.changed:
        state = dict(block.state_dict()) | pruned.changed
        for name, keep in pruned.masks.items():
            weight = state[f"{name}.weight"].clone().masked_fill_(~keep, 0.0)
            fill_kept_zeros_(weight, keep)
            state[f"{name}.weight"] = weight
        tensors = {model.sharding.name(index, name): value for name, value in state.items()}
        for name, value in tensors.items():
            check_finite(value, "a changed parameter is not finite in the model's dtype", name)
        write_shard(writer, block_shard(index), tensors)
    bits = {name: pack(keep) for name, keep in pruned.masks.items()}
    facts: dict[str, Any] = {
        "pruned": {
            model.sharding.name(index, name): int((~keep).sum())
            for name, keep in pruned.masks.items()
        }
    }
    if pruned.notes:
        facts["notes"] = {
            model.sharding.name(index, name): notes for name, notes in pruned.notes.items()
        }
    writer.add(masks_file(index), lambda path: save_file(bits, path), **facts)


@torch.no_grad()
def load_pruned_block(
    model: StreamedModel, folder: Path, index: int
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a pruned block and its keep masks.

    A kept weight that happens to be 0 becomes the least number that is not: the zeros of a matrix
    are its mask, whatever the dense model holds.

    Args:
        model: The dense model.
        folder: Where `prune_model` wrote.
        index: Which block.

    Returns:
        The block in eval mode, in the model's dtype, and for each linear layer (out, in), bool.
    """
    changed = (folder / block_shard(index)).is_file()
    block = model.load_block(index, folder if changed else None)
    linears = block_linears(block)
    with safe_open(folder / masks_file(index), framework="pt") as file:
        masks = {
            name: unpack(file.get_tensor(name), linear.weight.shape).to(model.device)
            for name, linear in linears.items()
        }
    for name, linear in linears.items():
        linear.weight.masked_fill_(~masks[name], 0.0)
        fill_kept_zeros_(linear.weight, masks[name])
    return block, masks


def pack(mask: Tensor) -> Tensor:
    """Return a boolean mask as bits: (ceil(numel / 8),), uint8, row by row."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy()))


def unpack(bits: Tensor, shape: torch.Size) -> Tensor:
    """Return the boolean mask that `pack` made bits of; ValueError if they are not of its size."""
    if bits.numel() != -(-shape.numel() // 8):
        raise ValueError(f"{bits.numel()} bytes are no mask of shape {tuple(shape)}")
    flat = np.unpackbits(bits.numpy(), count=shape.numel())
    return torch.from_numpy(flat).bool().reshape(shape)


def check_finite(values: Tensor, problem: str, where: object) -> None:
    """Raise UserError, with how many, if some values are not finite."""
    # A sum is finite only if all of its terms are, and thirty times as fast as looking at each.
    if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
        raise UserError(
            problem,
            where=where,
            found=f"{int((~torch.isfinite(values)).sum())} of {values.numel()} not finite",
            todo="look for non-finite weights or activations of this layer",
        )


def count_pruned(masks: Artifact) -> int:
    """Return how many weights masks remove, of all blocks."""
    return sum(sum(entry.get("pruned", {}).values()) for entry in masks.files.values())


@torch.no_grad()
def round_(
    parameters: Iterable[Tensor], masked: Iterable[tuple[nn.Linear, Tensor]], dtype: torch.dtype
) -> None:
    """Round parameters to what a checkpoint holds of them, in place; they keep their precision.

    A kept weight that training or rounding brought to exactly 0 is made the least that is not.

    Args:
        parameters: All of them.
        masked: The linear layers among them, each with its mask.
        dtype: The checkpoint's.
    """
    for parameter in parameters:
        if parameter.dtype != dtype:
            parameter.copy_(parameter.to(dtype))
    for linear, keep in masked:
        rounded = linear.weight.to(dtype)
        fill_kept_zeros_(rounded, keep)
        linear.weight.copy_(rounded)


def fill_kept_zeros_(weight: Tensor, keep: Tensor) -> None:
    """Give kept weights that are exactly 0 the least value that is not, in place."""
    # The least normal number; but float16's is not small beside a weight: there, the subnormal one.
    least = 2.0**-24 if weight.dtype == torch.float16 else torch.finfo(weight.dtype).tiny
    weight.masked_fill_((weight == 0) & keep, least)
