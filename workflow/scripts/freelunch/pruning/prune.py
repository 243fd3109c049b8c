"""Choose masks for every block, and new weights if a criterion updates the weights that it keeps.

With statistics of the dense model's activations, pruning needs no pass through the model. With
statistics of the sparse model, each block sees the outputs of the pruned blocks before it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from freelunch.core.artifact import Artifact, check_belongs
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.errors import UserError, run_again
from freelunch.core.progress import Report, silent
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import DenseStates, SparseStates
from freelunch.model.mask_store import (
    KIND,
    Pruned,
    check_finite,
    load_pruned_block,
    masks_file,
    write_pruned_block,
)
from freelunch.pruning import criteria
from freelunch.pruning.dense_pass import read_statistics
from freelunch.pruning.masks import check_divides, keep_mask
from freelunch.pruning.statistics import Collector, InputStatistics, need_gram
from freelunch.pruning.structured import (
    Layout,
    choose_in_block,
    choose_in_model,
    compensating_biases,
)
from freelunch.pruning.swaps import refine
from freelunch.study.cell import derive_seed
from freelunch.study.criteria import Criterion, OfUnits, OfWeights
from freelunch.study.families import biases_of
from freelunch.study.patterns import Pattern
from freelunch.study.steps import CAPTURE_DENSE

_NOT_FINITE = "a weight is not finite"

Statistics = Mapping[str, InputStatistics]

# Returns the pruned block, given the block, its index and the statistics of its inputs.
Pruner = Callable[[nn.Module, int, Statistics], Pruned]


def prune_model(
    model: StreamedModel,
    dense: Artifact,
    criterion: Criterion,
    pattern: Pattern,
    seed: int,
    folder: Path,
    fingerprint: str,
    states: DenseStates,
    report: Report = silent,
) -> Artifact:
    """Write one file of bit-packed masks per block, and a shard for each block with updated
    weights.

    Args:
        model: The dense model.
        dense: Statistics of the dense model's activations on the calibration sample.
        criterion: Settings of the criterion, an entry of `criteria`.
        pattern: Which share of the weights is pruned, and where.
        seed: Seed of the cell, for criteria that draw random numbers.
        folder: Folder for the masks.
        fingerprint: Digest of everything the result depends on.
        states: Hidden states of the calibration sample, for statistics of the sparse model.
        report: Called after each block.

    Raises:
        UserError: The activations belong to another model or lack what the criterion needs, the
            pattern does not divide a matrix, or a value is not finite.
    """
    check_belongs(dense, "model", model.artifact)
    check_belongs(dense, "calibration", states.calibration)
    sparse = criterion.statistics == "sparse"
    gram = criterion.needs_gram
    _check_before(model, dense, pattern, gram and not sparse)
    if isinstance(criterion, OfUnits):
        pruner, config = _unit_pruner(model, dense, criterion, pattern)
    else:
        pruner, config = _weight_pruner(model, criterion, pattern, seed), {}
    writer = ArtifactWriter(folder, KIND, fingerprint)
    passing = SparseStates(states) if sparse else None
    missing = [index for index in range(model.num_blocks) if masks_file(index) not in writer]
    blocks = model.load_blocks(missing)
    for index in range(model.num_blocks):
        if index in missing:
            _, block = next(blocks)
            statistics: Statistics
            if passing is None:
                statistics = read_statistics(dense, index, model.device, gram)
            else:
                prefix = model.sharding.name(index, "")
                statistics = _statistics(passing, index, block, prefix, gram)
            write_pruned_block(writer, model, index, block, pruner(block, index, statistics))
            # Free this block and its Gram matrices before others take their places.
            del statistics, block
        if passing is not None and index + 1 < model.num_blocks:
            passing.on(index, load_pruned_block(model, folder, index)[0])
        report(index + 1, model.num_blocks, "blocks")
    return writer.finish(
        settings={"criterion": criterion.as_json(), "pattern": pattern.name, "seed": seed},
        config=config,
        model=model.artifact.digest,
        dense=dense.digest,
        calibration=dense.facts["calibration"],
    )


def _check_before(model: StreamedModel, dense: Artifact, pattern: Pattern, gram: bool) -> None:
    """Check the requirements on the whole model before any long computation."""
    for name, linear in block_linears(model.shapes_of_block()).items():
        check_divides(pattern, linear.in_features, model.sharding.name(0, name))
    if gram and not dense.facts["gram"]:
        raise UserError(
            "this criterion needs Gram matrices, which the dense pass did not collect",
            where=dense.folder,
            found="gram = false",
            expected="gram = true",
            todo=run_again(CAPTURE_DENSE),
        )


def _weight_pruner(
    model: StreamedModel, criterion: OfWeights, pattern: Pattern, seed: int
) -> Pruner:
    """Return the function that prunes a block by a criterion of single weights."""
    module = criteria.load(criterion.score)

    def prune(block: nn.Module, index: int, statistics: Statistics) -> Pruned:
        pruned = Pruned({})
        for name, linear in block_linears(block).items():
            where = model.sharding.name(index, name)
            check_finite(linear.weight, where, problem=_NOT_FINITE)
            own = derive_seed(seed, "criterion", where)
            keep, changed, notes = prune_matrix(
                module, linear.weight, statistics[name], pattern, criterion, own, where
            )
            pruned.masks[name] = keep
            if changed is not None:
                pruned.changed[f"{name}.weight"] = changed
            if notes:
                pruned.notes[name] = notes
        return pruned

    return prune


def prune_matrix(
    module: ModuleType,
    weight: Tensor,
    statistics: InputStatistics,
    pattern: Pattern,
    settings: OfWeights,
    seed: int,
    where: object = None,
) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
    """Return which weights of a matrix are kept, the new weight if kept ones change, and notes.

    Args:
        module: Module of the criterion.
        weight: Dense weight, (out, in).
        statistics: Statistics of the matrix's input.
        pattern: Unstructured or NofM.
        settings: Settings of the criterion.
        seed: Seed of the random numbers for this matrix.
        where: Name of the weight, for error messages.

    Returns:
        The mask, (out, in), bool, True where the weight is kept; the new weight, (out, in), in the
        dtype of the old one, or None; the notes.
    """
    notes: dict[str, Any] = {}
    changed = None
    if hasattr(module, "prune"):
        changed, keep, notes = module.prune(weight, statistics, pattern, settings, where)
    else:
        scores = module.score(weight, statistics, settings, seed)
        if scores.shape != weight.shape:
            raise UserError(
                f"the criterion {settings.score} returned scores whose shape differs from the "
                "weight's",
                where=where,
                found=tuple(scores.shape),
                expected=tuple(weight.shape),
                todo=f"correct workflow/scripts/freelunch/pruning/criteria/{settings.score}.py",
            )
        keep = keep_mask(scores, pattern, settings.scope, where)
    if keep.all():
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


def _unit_pruner(
    model: StreamedModel, dense: Artifact, criterion: OfUnits, pattern: Pattern
) -> tuple[Pruner, dict[str, Any]]:
    """Return the function that prunes whole units of a block, and the config of the pruned model.

    The config holds only the entries that the pruned model needs in addition to its own.
    """
    module = criteria.load(criterion.score)
    layout = Layout.of(model.config, criterion.attention_unit)
    compensate = criterion.bias_compensation
    shapes = model.shapes_of_block()
    config = biases_of(model.config.model_type) if compensate else {}

    def scores(block: nn.Module, index: int, statistics: Statistics) -> tuple[Tensor, Tensor]:
        where = model.sharding.name(index, "")
        return layout.scores(block, statistics, module, criterion, where)

    chosen: list[Tensor] = []
    if criterion.scope == "model":
        found: list[Tensor] = []
        for index, block in model.load_blocks(range(model.num_blocks)):
            statistics = read_statistics(dense, index, model.device)
            found += scores(block, index, statistics)
        weights = list(layout.unit_weights(shapes)) * model.num_blocks
        chosen = choose_in_model(found, weights, pattern)

    def prune(block: nn.Module, index: int, statistics: Statistics) -> Pruned:
        for name, linear in block_linears(block).items():
            check_finite(linear.weight, model.sharding.name(index, name), problem=_NOT_FINITE)
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
        if compensate:
            pruned.changed = compensating_biases(block, pruned.masks, statistics, layout)
        return pruned

    return prune, config


def _statistics(
    states: SparseStates, index: int, block: nn.Module, prefix: str, gram: bool
) -> Statistics:
    """Return the statistics of a block's inputs, as the pruned blocks before it produce them."""
    collector = Collector(block, prefix, gram)
    with collector.watching():
        states.blocks.through_(index, block, states.hidden, None)
    return collector.by_layer()
