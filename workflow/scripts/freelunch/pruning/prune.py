"""Choose masks for every block, and new weights if a criterion updates the weights that it keeps.

With statistics of the dense model's activations, pruning needs no pass through the model. With
statistics of the sparse model, each block sees the outputs of the pruned blocks before it.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from freelunch.core.artifact import Artifact, check_belongs
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.errors import UserError, run_again
from freelunch.core.progress import Report, silent
from freelunch.core.spent import Clock, Spent
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
from freelunch.pruning.sharing import Pruning
from freelunch.pruning.statistics import Collector, InputStatistics, need_gram
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
from freelunch.study.steps import CAPTURE_DENSE

log = logging.getLogger(__name__)
_LEFT = "%s is left to its own job, which will say why"
# Weights of small matrices that are pruned at once; the memory for larger ones would count.
_PRUNED_AT_ONCE = 2**22

Statistics = Mapping[str, InputStatistics]

# Returns the pruned block, given the block, its index and the statistics of its inputs.
Pruner = Callable[[nn.Module, int, Statistics], Pruned]


def prune_model(
    model: StreamedModel,
    dense: Artifact,
    pruning: Pruning,
    states: DenseStates,
    report: Report = silent,
) -> Artifact:
    """Write one file of bit-packed masks per block, and a shard for each block with updated
    weights.

    Args:
        model: The dense model.
        dense: Statistics of the dense model's activations on the calibration sample.
        pruning: What to prune by, and the folder for the masks.
        states: Hidden states of the calibration sample, for statistics of the sparse model.
        report: Called after each block.

    Raises:
        UserError: The activations belong to another model or lack what the criterion needs, the
            pattern does not divide a matrix, or a value is not finite.
    """
    check_belongs(dense, "calibration", states.calibration)
    making = _Making(model, dense, pruning)
    making.writer = ArtifactWriter(pruning.folder, KIND, pruning.fingerprint)
    passing = SparseStates(states) if pruning.criterion.statistics == "sparse" else None
    for done in _prune_blocks(model, dense, [making], passing):
        report(done, model.num_blocks, "blocks")
    return pruning.finish(making.writer, making.config, dense)


def prune_together(
    model: StreamedModel,
    dense: Artifact,
    prunings: Sequence[Pruning],
    report: Report = silent,
) -> Spent:
    """Choose masks for several jobs in one pass over the blocks, and leave them to these jobs.

    Masks that cannot be chosen are not left: their own job will say why.

    Args:
        model: The dense model.
        dense: Statistics of the dense model's activations on the calibration sample.
        prunings: The masks; all from dense statistics.
        report: Called after each block.

    Returns:
        What was spent on the masks. What serves several of them is counted for the first.
    """
    clock, spent = Clock(), Spent()
    makings: list[_Making] = []
    # Criteria of one kind follow each other and share what they computed.
    for pruning in sorted(prunings, key=lambda each: (each.criterion.score, each.pattern.name)):
        try:
            making = _Making(model, dense, pruning)
        # Whatever it is, it comes again in the job that the masks belong to.
        except Exception:
            log.info(_LEFT, pruning.folder, exc_info=True)
            continue
        writer = ArtifactWriter.of_another_job(pruning.folder, KIND, pruning.fingerprint, clock)
        if writer is not None:
            making.writer = writer
            makings.append(making)
    for done in _prune_blocks(model, dense, makings, for_others=True):
        number = sum(not making.failed for making in makings)
        report(done, model.num_blocks, f"blocks, for {number} jobs" if number > 1 else "blocks")
    for making in makings:
        spent += making.writer.release() if making.failed else making.writer.leave()
    return spent


class _Making:
    """Masks that are being made.

    Attributes:
        pruning: What to make.
        prune: Prunes a block.
        config: What the config of the pruned model has in addition to the dense model's.
        gram: Whether Gram matrices are needed.
        failed: Whether a block could not be pruned; the others are then not tried.
        writer: Fills the folder; set after all checks, so that a refused pruning leaves no folder.
    """

    writer: ArtifactWriter

    def __init__(self, model: StreamedModel, dense: Artifact, pruning: Pruning) -> None:
        check_belongs(dense, "model", model.artifact)
        criterion, pattern = pruning.criterion, pruning.pattern
        self.model, self.pruning, self.gram = model, pruning, criterion.needs_gram
        _check_before(model, dense, pattern, self.gram and criterion.statistics == "dense")
        self.config: dict[str, Any] = {}
        self.failed = False
        if isinstance(criterion, OfUnits):
            self.prune, self.config = _unit_pruner(model, dense, criterion, pattern)
        else:
            self.prune = _weight_pruner(model, criterion, pattern, pruning.seed)

    def lacks(self, index: int) -> bool:
        """Return whether the masks of a block are still to be chosen."""
        return not self.failed and masks_file(index) not in self.writer

    def write(self, index: int, block: nn.Module, statistics: Statistics) -> None:
        """Choose and write the masks of a block."""
        pruned = self.prune(block, index, statistics)
        write_pruned_block(self.writer, self.model, index, block, pruned)


def _prune_blocks(
    model: StreamedModel,
    dense: Artifact,
    makings: Sequence[_Making],
    passing: SparseStates | None = None,
    for_others: bool = False,
) -> Iterator[int]:
    """Choose masks block by block; yield how many blocks are done.

    Args:
        model: The dense model.
        dense: Its statistics.
        makings: What to make; a single one with `passing`.
        passing: Pass the pruned blocks before each block, for statistics of its inputs there.
        for_others: Whether to go on without those that fail. Otherwise their error is raised.
    """
    missing = [i for i in range(model.num_blocks) if any(making.lacks(i) for making in makings)]
    blocks = model.load_blocks(missing)
    for index in range(model.num_blocks):
        if index in missing:
            _, block = next(blocks)
            _check_weights(model, index, block)
            lacking = [making for making in makings if making.lacks(index)]
            gram = any(making.gram for making in lacking)
            statistics: Statistics
            if passing is None:
                statistics = read_statistics(dense, index, model.device, gram)
            else:
                prefix = model.sharding.name(index, "")
                statistics = _statistics(passing, index, block, prefix, gram)
            for _, alike in groupby(lacking, key=lambda making: making.pruning.criterion.score):
                for making in alike:
                    try:
                        making.write(index, block, statistics)
                    # Whatever it is, it comes again in the job that the masks belong to.
                    except Exception:
                        if not for_others:
                            raise
                        making.failed = True
                        log.info(_LEFT, making.pruning.folder, exc_info=True)
                # One criterion's factors need not be in memory beside another's work.
                _forget(statistics)
            # Free this block and its Gram matrices before others take their places.
            del statistics, block
        if passing is not None and index + 1 < model.num_blocks:
            (making,) = makings
            passing.on(index, load_pruned_block(model, making.pruning.folder, index)[0])
        yield index + 1


def _forget(statistics: Statistics) -> None:
    for inputs in statistics.values():
        inputs.memo.clear()


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


def _check_weights(model: StreamedModel, index: int, block: nn.Module) -> None:
    for name, linear in block_linears(block).items():
        where = model.sharding.name(index, name)
        check_finite(linear.weight, where, problem="a weight is not finite")


def _weight_pruner(
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
            found = prune_matrices(module, alike, inputs, pattern, criterion, seeds, where)
            for name, (keep, changed, notes) in zip(names, found, strict=True):
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
) -> list[tuple[Tensor, Tensor | None, dict[str, Any]]]:
    """Return, for each of some matrices with the same input, which weights are kept, the new weight
    if kept ones change, and notes.

    Args:
        module: Module of the criterion.
        weights: Dense weights, each (out, in).
        statistics: Statistics of the matrices' input.
        pattern: Unstructured or NofM.
        settings: Settings of the criterion.
        seeds: Seed of the random numbers for each matrix.
        where: Name of each weight, for error messages.

    Returns:
        For each matrix, the mask, (out, in), bool, True where the weight is kept; the new weight,
        (out, in), in the dtype of the old one, or None; the notes.
    """
    found: list[tuple[Tensor | None, Tensor, dict[str, Any]]]
    if hasattr(module, "prune"):
        found = module.prune(weights, statistics, pattern, settings, where[0])
    else:
        found = [
            (None, _keep_by_score(module, weight, statistics, pattern, settings, seed, name), {})
            for weight, seed, name in zip(weights, seeds, where, strict=True)
        ]
    return [
        _refined(weight, *each, statistics, pattern, settings, name)
        for weight, each, name in zip(weights, found, where, strict=True)
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
    notes: dict[str, Any],
    statistics: InputStatistics,
    pattern: Pattern,
    settings: OfWeights,
    where: object,
) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
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
