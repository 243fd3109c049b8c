"""Structured pruning: whole attention heads and MLP channels are pruned.

A pruned unit is zero in the rows of the matrices that feed it, and in the columns of the matrix
that it feeds. The checkpoint keeps its shapes and computes what the smaller model would compute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from freelunch.core.errors import UserError
from freelunch.model.blocks import block_linears, has_bias
from freelunch.model.mask_store import check_finite
from freelunch.pruning.masks import lowest
from freelunch.pruning.statistics import InputStatistics
from freelunch.study.criteria import OfUnits
from freelunch.study.families import Family, sizes_of, units_of
from freelunch.study.patterns import Pattern


@dataclass(frozen=True)
class Layout:
    """How the units of a family's blocks lie in their matrices: the query heads; the groups of them
    that share a key (and value) head; and the query heads in a unit of attention, one or a
    group.
    """

    family: Family
    heads: int
    groups: int
    unit_heads: int

    @classmethod
    def of(cls, config: PreTrainedConfig, attention_unit: str) -> "Layout":
        """Return the layout of a model. A unit of attention is a "group", a key head with all query
        heads that share it, so that every matrix of the attention loses the same share; or a
        single query "head", where a key head is pruned once all query heads that share it are.
        UserError: the family is not in the table, or its heads depend on each other.
        """
        sizes = sizes_of(config.to_dict())
        heads, groups = sizes["num_attention_heads"], sizes["num_key_value_heads"]
        unit = heads // groups if attention_unit == "group" else 1
        return cls(units_of(sizes["model_type"]), heads, groups, unit)

    def kept_units(self, block: nn.Module) -> tuple[Tensor, Tensor]:
        """Return which query heads, (heads,), and MLP channels, (channels,), of a block feed an
        output projection through a weight that is not zero, bool.
        """
        linears = block_linears(block)
        output, down = linears[self.family.attention_output], linears[self.family.mlp_output]
        heads = (output.weight != 0).any(dim=0).reshape(self.heads, -1).any(dim=1)
        return heads, (down.weight != 0).any(dim=0)

    def unit_weights(self, block: nn.Module) -> tuple[int, int]:
        """Return how many weights are pruned with a unit of attention, and with an MLP channel. A
        single query head counts with its part of the key and value heads, although these are
        pruned only with the last query head that shares them: the count is never below what is
        pruned.
        """
        linears = block_linears(block)
        output, down = linears[self.family.attention_output], linears[self.family.mlp_output]
        head = output.in_features // self.heads * output.out_features
        shared = -(-2 * head * self.unit_heads * self.groups // self.heads)
        mlp = (len(self.family.mlp_inputs) + 1) * down.out_features
        return 2 * self.unit_heads * head + shared, mlp

    def keep_masks(
        self, block: nn.Module, attention: Tensor, channels: Tensor
    ) -> dict[str, Tensor]:
        """Return the mask of each linear layer, (out, in), bool, by its name in the block, from
        which units of attention, (units,), and MLP channels, (channels,), are kept, bool.
        """
        family, linears = self.family, block_linears(block)
        heads = attention.repeat_interleave(self.unit_heads)
        groups = heads.reshape(self.groups, -1).any(dim=1)
        size = linears[family.attention_output].in_features // self.heads
        rows = [
            (family.query, heads.repeat_interleave(size)),
            (family.key, groups.repeat_interleave(size)),
            (family.value, groups.repeat_interleave(size)),
            *((name, channels) for name in family.mlp_inputs),
        ]
        columns = {
            family.attention_output: heads.repeat_interleave(size),
            family.mlp_output: channels,
        }
        masks = {}
        for name, linear in linears.items():
            # A fused layer stacks the rows of its parts, in whole or for each key head.
            parts = [keep for part, keep in rows if part == name]
            if family.by_key_head and name == family.query:
                parts = [torch.cat([keep.reshape(self.groups, -1) for keep in parts], 1).flatten()]
            if name in columns:
                mask = columns[name][None, :].expand(linear.weight.shape)
            elif parts:
                mask = torch.cat(parts)[:, None].expand(linear.weight.shape)
            else:
                mask = torch.ones_like(linear.weight, dtype=torch.bool)
            masks[name] = mask.contiguous()
        return masks

    def scores(
        self,
        block: nn.Module,
        statistics: Mapping[str, InputStatistics],
        criterion: ModuleType,
        settings: OfUnits,
        where: object,
    ) -> tuple[Tensor, Tensor]:
        """Return the scores of a block's units of attention, (units,), and of its MLP channels,
        (channels,), float64: the mean score of the inputs that the unit feeds.

        With `scope: model`, the scores of each matrix's inputs are standardised first (FLAP), so
        that units of different blocks, and heads and channels, can be compared.
        """
        of_halves = []
        for name in (self.family.attention_output, self.family.mlp_output):
            linear: nn.Linear = block.get_submodule(name)  # type: ignore[assignment]
            scores = criterion.unit_score(linear.weight, statistics[name], settings).double()
            check_finite(scores, f"{where}{name}", problem="a pruning score is not finite")
            if settings.scope == "model":
                mean = scores.mean()
                # If all scores are equal, their deviations are only rounding: each score becomes
                # the mean.
                least = 1e-12 * mean.abs() + torch.finfo(torch.float64).tiny
                scores = (scores - mean) / scores.std().clamp(min=least) * (scores.std() > least)
            of_halves.append(scores)
        attention, mlp = of_halves
        return attention.reshape(self.heads // self.unit_heads, -1).mean(dim=1), mlp


def choose_in_block(scores: Tensor, pattern: Pattern, where: object = None) -> Tensor:
    """Return which units of a block are kept, (units,), bool; those with the lowest scores are
    pruned. UserError: the pattern's share is less than one unit.
    """
    count = pattern.zeros_in_group(len(scores))
    if not count:
        raise UserError(
            f"{pattern.name} of {len(scores)} units rounds down to none",
            where=where,
            expected=f"a share of at least one in {len(scores)}",
        )
    return ~lowest(scores[None, :], count)[0]


def choose_in_model(
    scores: Sequence[Tensor], weights: Sequence[int], pattern: Pattern
) -> list[Tensor]:
    """Return which units are kept if all units of a model are compared with each other, (units,),
    bool, for each set of units (the heads or channels of a block), given by their scores,
    (units,), and by how many weights are pruned with one unit.

    The units with the lowest scores are pruned as long as they hold no more than the pattern's
    share of all weights; ties: the first unit is pruned. UserError: no unit would be pruned.
    """
    sizes = [len(part) for part in scores]
    order = torch.cat([part.cpu() for part in scores]).argsort(stable=True)
    each = torch.tensor(weights).repeat_interleave(torch.tensor(sizes))
    allowed = pattern.zeros_in_group(int(each.sum()))
    keep = torch.ones(len(each), dtype=torch.bool)
    keep[order[each[order].cumsum(0) <= allowed]] = False
    if keep.all():
        raise UserError(
            f"{pattern.name} of the weights of all units is less than one unit",
            expected="a larger share, or scope: block",
        )
    return [part.to(here.device) for part, here in zip(keep.split(sizes), scores, strict=True)]  # type: ignore[no-untyped-call]


def compensating_biases(
    block: nn.Module,
    masks: Mapping[str, Tensor],
    statistics: Mapping[str, InputStatistics],
    layout: Layout,
) -> dict[str, Tensor]:
    """Return biases, (out,), in the weight's dtype, by parameter name, that make up for the mean of
    what was pruned (FLAP's bias compensation): an output projection loses W_:j X_j for each
    pruned input j, so W_:j times the mean of X_j is added to its bias.

    A layer without a bias starts from 0, because the config of the pruned model gives a bias to all
    layers.
    """
    biases = {}
    for name, linear in block_linears(block).items():
        bias = torch.zeros(linear.out_features, device=linear.weight.device)
        if has_bias(linear):
            bias += linear.bias.float()
        if name in (layout.family.attention_output, layout.family.mlp_output):
            gone = ~masks[name][0]
            bias += linear.weight[:, gone].float() @ statistics[name].mean[gone]
        biases[f"{name}.bias"] = bias.to(linear.weight.dtype)
    return biases
