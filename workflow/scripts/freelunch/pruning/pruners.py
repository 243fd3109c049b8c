"""Prune one block: by a criterion of single weights, matrix by matrix, or by one of whole units."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor, nn

from freelunch.core.artifact import Artifact
from freelunch.core.errors import UserError
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.mask_store import Pruned
from freelunch.pruning import criteria
from freelunch.pruning.dense_pass import read_statistics
from freelunch.pruning.masks import keep_mask
from freelunch.pruning.statistics import InputStatistics, need_gram
from freelunch.pruning.structured import (
    Layout,
    choose_in_block,
    choose_in_model,
    compensating_biases,
)
from freelunch.pruning.swaps import refine
from freelunch.study.cell import derive_seed
from freelunch.study.criteria import OfUnits, OfWeights
from freelunch.study.families import biases_of
from freelunch.study.patterns import Pattern

# Weights of small matrices that are pruned at once; the memory for larger ones would count.
_PRUNED_AT_ONCE = 2**22

Statistics = Mapping[str, InputStatistics]
# What a criterion notes about a matrix.
Notes = dict[str, float]

# Returns the pruned block, given the block, its index and the statistics of its inputs.
Pruner = Callable[[nn.Module, int, Statistics], Pruned]


def weight_pruner(
    model: StreamedModel, criterion: OfWeights, pattern: Pattern, seed: int
) -> Pruner:
    """Return the function that prunes a block by a criterion of single weights."""
    module = criteria.load(criterion.score)

    def prune(block: nn.Module, index: int, statistics: Statistics) -> Pruned:
        pruned = Pruned({})
        weights = {name: linear.weight for name, linear in block_linears(block).items()}
        for names in _alike(weights, statistics):
            where = [model.sharding.name(index, name) for name in names]
            seeds = [derive_seed(seed, "criterion", name) for name in where]
            alike, inputs = [weights[name] for name in names], statistics[names[0]]
            result = prune_matrices(module, alike, inputs, pattern, criterion, seeds, where)
            for name, (keep, changed, notes) in zip(names, result, strict=True):
                pruned.masks[name] = keep
                if changed is not None:
                    pruned.changed[f"{name}.weight"] = changed
                if notes:
                    pruned.notes[name] = notes
        return pruned

    return prune


def _alike(weights: Mapping[str, Tensor], statistics: Statistics) -> Iterator[list[str]]:
    """Yield names of matrices that have one input and are small enough to be pruned at once."""
    names: list[str] = []
    for name, weight in weights.items():
        size = sum(weights[each].numel() for each in names) + weight.numel()
        if names and (statistics[name] is not statistics[names[0]] or size > _PRUNED_AT_ONCE):
            yield names
            names = []
        names.append(name)
    yield names


def prune_matrices(
    module: ModuleType,
    weights: Sequence[Tensor],
    statistics: InputStatistics,
    pattern: Pattern,
    settings: OfWeights,
    seeds: Sequence[int],
    where: Sequence[object],
) -> list[tuple[Tensor, Tensor | None, Notes]]:
    """Prune matrices with the same input by a criterion, and refine their masks by swaps if the
    settings ask for them.

    Args:
        module: Module of the criterion.
        weights: Dense weights, each (out, in).
        statistics: Statistics of the matrices' input.
        pattern: Unstructured or NofM.
        settings: Settings of the criterion.
        seeds, where: For each matrix, the seed of its random numbers, and its name.

    Returns:
        For each matrix, the mask, (out, in), bool, True where the weight is kept; the new weight,
        (out, in), in the dtype of the old one, or None; the notes.
    """
    pruned: list[tuple[Tensor | None, Tensor, Notes]]
    if hasattr(module, "prune"):
        pruned = module.prune(weights, statistics, pattern, settings, where[0])
    else:
        pruned = [
            (None, _keep_by_score(module, weight, statistics, pattern, settings, seed, name), {})
            for weight, seed, name in zip(weights, seeds, where, strict=True)
        ]
    return [
        _refined(weight, *each, statistics, pattern, settings, name)
        for weight, each, name in zip(weights, pruned, where, strict=True)
    ]


def _keep_by_score(
    module: ModuleType,
    weight: Tensor,
    statistics: InputStatistics,
    pattern: Pattern,
    settings: OfWeights,
    seed: int,
    where: object,
) -> Tensor:
    """Return which weights of a matrix stay, for a criterion that only scores weights."""
    scores = module.score(weight, statistics, settings, seed)
    if scores.shape != weight.shape:
        raise UserError(
            f"the criterion {settings.score} returned scores whose shape differs from the weight's",
            where=where,
            found=tuple(scores.shape),
            expected=tuple(weight.shape),
            todo=f"correct workflow/scripts/freelunch/pruning/criteria/{settings.score}.py",
        )
    return keep_mask(scores, pattern, settings.scope, where)


def _refined(
    weight: Tensor,
    changed: Tensor | None,
    keep: Tensor,
    notes: Notes,
    statistics: InputStatistics,
    pattern: Pattern,
    settings: OfWeights,
    where: object,
) -> tuple[Tensor, Tensor | None, Notes]:
    """Return a mask, the new weight and notes after swaps, if the settings ask for them."""
    # As bytes: torch takes 40 times as long for `all`.
    if keep.view(torch.uint8).min():
        raise UserError(
            f"{pattern.name} prunes no weight of this matrix",
            where=where,
            found=f"{weight.shape[0]} x {weight.shape[1]} weights, scope: {settings.scope}",
            expected="a share of at least one weight",
            todo="choose a larger share, or scope: matrix",
        )
    if settings.swaps:
        dense, gram = weight.float(), need_gram(statistics, where)
        pruned = dense * keep if changed is None else changed
        refined = refine(dense, pruned, keep, gram, pattern.group, settings.swaps)
        keep, changed = refined.keep, None if changed is None else refined.weight
        notes |= {
            "swaps": refined.swaps,
            "error_before": refined.error_before,
            "error_after": refined.error_after,
        }
    return keep, None if changed is None else changed.to(weight.dtype), notes


def unit_pruner(
    model: StreamedModel, dense: Artifact, criterion: OfUnits, pattern: Pattern
) -> Pruner:
    """Return the function that prunes whole units of a block.

    Raises:
        UserError: The units of the model's family are not known, or its output projections cannot
            have the biases that compensation needs.
    """
    module = criteria.load(criterion.score)
    layout = Layout.of(model.config, criterion.attention_unit)
    if criterion.bias_compensation:
        biases_of(model.config.model_type)

    def scores(block: nn.Module, index: int, statistics: Statistics) -> tuple[Tensor, Tensor]:
        where = model.sharding.name(index, "")
        return layout.scores(block, statistics, module, criterion, where)

    chosen: list[Tensor] = []
    if criterion.scope == "model":
        of_model: list[Tensor] = []
        for index, block in model.load_blocks(range(model.num_blocks)):
            of_model += scores(block, index, read_statistics(dense, index, model.device))
        weights = list(layout.unit_weights(model.shapes_of_block())) * model.num_blocks
        chosen = choose_in_model(of_model, weights, pattern)

    def prune(block: nn.Module, index: int, statistics: Statistics) -> Pruned:
        if chosen:
            attention, channels = chosen[2 * index : 2 * index + 2]
        else:
            where = model.sharding.name(index, "").removesuffix(".")
            attention, channels = (
                choose_in_block(part, pattern, f"{where}, {name}")
                for part, name in zip(
                    scores(block, index, statistics), ("attention", "MLP"), strict=True
                )
            )
        pruned = Pruned(layout.keep_masks(block, attention, channels))
        if criterion.bias_compensation:
            pruned.changed = compensating_biases(block, pruned.masks, statistics, layout)
        return pruned

    return prune
