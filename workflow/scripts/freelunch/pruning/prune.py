"""Choose masks for every block, and new weights if a criterion updates the weights that it keeps.

With statistics of the dense model's activations, pruning needs no pass through the model. With
statistics of the sparse model, each block sees the outputs of the pruned blocks before it.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from types import ModuleType

import torch
from torch import Tensor, nn

from freelunch.core.artifact import Artifact, check_belongs
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.errors import UserError, run_again
from freelunch.core.job_cost import Clock, Spent
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
from freelunch.pruning.allocation import allocate
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
    source: Artifact,
    pruning: Pruning,
    states: DenseStates,
    report: Report = silent,
) -> Artifact:
    """Write a file of bit-packed masks per block, and a shard for each block with updated weights,
    from the source of the statistics: the dense pass, or the calibration sample, which passes
    through the sparse model. UserError: the activations belong to another model or lack what the
    criterion needs, the pattern does not divide a matrix, or a value is not finite.
    """
    is_sparse = pruning.criterion.statistics == "sparse"
    if not is_sparse:
        check_belongs(source, "calibration", states.calibration)
    masks = _Masks(model, source, pruning)
    masks.writer = ArtifactWriter(pruning.folder, KIND, pruning.fingerprint)
    passing = SparseStates(states) if is_sparse else None
    for done in _prune_blocks(model, source, [masks], passing):
        report(done, model.num_blocks, "blocks")
    criterion, config = pruning.criterion, {}
    if isinstance(criterion, OfUnits) and criterion.bias_compensation:
        config = biases_of(model.config.model_type)
    return pruning.finish(masks.writer, source, config)


def prune_together(
    model: StreamedModel, dense: Artifact, prunings: Sequence[Pruning], report: Report = silent
) -> Spent:
    """Choose masks for several jobs, all from dense statistics, in one pass over the blocks, and
    leave them to these jobs. Masks that cannot be chosen are not left: their own job will say why.

    Returns:
        What was spent on the masks. What serves several of them is counted for the first.
    """
    clock, spent = Clock(), Spent()
    chosen: list[_Masks] = []
    # Criteria of one kind follow each other and share what they computed.
    for pruning in sorted(prunings, key=lambda each: (each.criterion.score, each.pattern.name)):
        try:
            masks = _Masks(model, dense, pruning)
        # Whatever it is, it comes again in the job that the masks belong to.
        except Exception:
            log.info(_LEFT, pruning.folder, exc_info=True)
            continue
        writer = ArtifactWriter.of_another_job(pruning.folder, KIND, pruning.fingerprint, clock)
        if writer is not None:
            masks.writer = writer
            chosen.append(masks)
    for done in _prune_blocks(model, dense, chosen, for_others=True):
        number = sum(not masks.failed for masks in chosen)
        report(done, model.num_blocks, f"blocks, for {number} jobs" if number > 1 else "blocks")
    for masks in chosen:
        spent += masks.writer.release() if masks.failed else masks.writer.leave()
    return spent


class _Masks:
    """Masks that are being chosen: whether Gram matrices are needed; whether a block could not be
    pruned, so that the others are not tried; and what fills the folder, set after all checks, so
    that a refused pruning leaves no folder.
    """

    writer: ArtifactWriter

    def __init__(self, model: StreamedModel, source: Artifact, pruning: Pruning) -> None:
        check_belongs(source, "model", model.artifact)
        criterion, pattern = pruning.criterion, pruning.pattern
        self.pruning, self.gram, self.failed = pruning, criterion.needs_gram, False
        for name, linear in block_linears(model.shapes_of_block()).items():
            check_divides(pattern, linear.in_features, model.sharding.name(0, name))
        if self.gram and criterion.statistics == "dense" and not source.facts["gram"]:
            raise UserError(
                "this criterion needs Gram matrices, which the dense pass did not collect",
                where=source.folder,
                found="gram = false",
                expected="gram = true",
                todo=run_again(CAPTURE_DENSE),
            )
        if isinstance(criterion, OfUnits):
            self.prune = _unit_pruner(model, source, criterion, pattern)
        else:
            self.prune = _weight_pruner(model, source, criterion, pattern, pruning.seed)

    def lack(self, index: int) -> bool:
        return not self.failed and masks_file(index) not in self.writer


def _prune_blocks(
    model: StreamedModel,
    source: Artifact,
    chosen: Sequence[_Masks],
    passing: SparseStates | None = None,
    for_others: bool = False,
) -> Iterator[int]:
    """Choose masks block by block; yield how many blocks are done. `passing` passes the pruned
    blocks before each block, for statistics of its inputs there. `for_others` goes on without
    masks that fail; otherwise their error is raised.
    """
    missing = [i for i in range(model.num_blocks) if any(masks.lack(i) for masks in chosen)]
    blocks = model.load_blocks(missing)
    for index in range(model.num_blocks):
        if index in missing:
            _, block = next(blocks)
            for name, linear in block_linears(block).items():
                where = model.sharding.name(index, name)
                check_finite(linear.weight, where, problem="a weight is not finite")
            lacking = [masks for masks in chosen if masks.lack(index)]
            gram = any(masks.gram for masks in lacking)
            statistics: Statistics
            if passing is None:
                statistics = read_statistics(source, index, model.device, gram)
            else:
                collector = Collector(block, model.sharding.name(index, ""), gram, ends_pass=True)
                with collector.watching():
                    passing.blocks.through_(index, block, passing.hidden, None)
                statistics = collector.by_layer()
                del collector
            for _, alike in groupby(lacking, key=lambda masks: masks.pruning.criterion.score):
                for masks in alike:
                    try:
                        pruned = masks.prune(block, index, statistics)
                        write_pruned_block(masks.writer, model, index, block, pruned)
                    # Whatever it is, it comes again in the job that the masks belong to.
                    except Exception:
                        if not for_others:
                            raise
                        masks.failed = True
                        log.info(_LEFT, masks.pruning.folder, exc_info=True)
                # One criterion's factors need not be in memory beside another's work.
                _forget(statistics)
            # Free this block and its Gram matrices before others take their places.
            del statistics, block
        if passing is not None and index + 1 < model.num_blocks:
            (masks,) = chosen
            passing.on(index, load_pruned_block(model, masks.writer, index)[0])
        yield index + 1


def _forget(statistics: Statistics) -> None:
    # In a function, since a name here would keep the last Gram matrix in memory.
    for inputs in statistics.values():
        inputs.memo.clear()


def _weight_pruner(
    model: StreamedModel, source: Artifact, criterion: OfWeights, pattern: Pattern, seed: int
) -> Pruner:
    module = criteria.load(criterion.score)
    allocated = allocate(model, source, criterion, pattern)

    def prune(block: nn.Module, index: int, statistics: Statistics) -> Pruned:
        pruned = Pruned({})
        weights = {name: linear.weight for name, linear in block_linears(block).items()}
        # Matrices are pruned at once only by the same pattern.
        alone = ([name] for name in weights)
        for names in alone if allocated else _alike(weights, statistics):
            each = allocated[index][names[0]] if allocated else pattern
            where = [model.sharding.name(index, name) for name in names]
            seeds = [derive_seed(seed, "criterion", name) for name in where]
            alike, inputs = [weights[name] for name in names], statistics[names[0]]
            result = prune_matrices(module, alike, inputs, each, criterion, seeds, where)
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
) -> list[tuple[Tensor, Tensor | None, dict[str, float]]]:
    """Prune matrices with the same input by the module of a criterion, and refine their masks by
    swaps if the settings ask for them.

    Return for each matrix, (out, in), the mask, bool, True where the weight is kept; the new
    weight, in the dtype of the old one, or None; what the criterion notes about it. For each,
    `seeds` has the seed of its random numbers, and `where` its name.
    """
    if hasattr(module, "prune"):
        pruned = module.prune(weights, statistics, pattern, settings, where[0])
    else:
        pruned = []
        for weight, seed, name in zip(weights, seeds, where, strict=True):
            scores = module.score(weight, statistics, settings, seed)
            if scores.shape != weight.shape:
                raise UserError(
                    "a criterion's scores have another shape than the weight",
                    where=name,
                    found=tuple(scores.shape),
                    expected=tuple(weight.shape),
                    todo=f"correct workflow/scripts/freelunch/pruning/criteria/{settings.score}.py",
                )
            pruned.append((None, keep_mask(scores, pattern, settings.scope, name), {}))
    results = []
    for weight, (changed, keep, notes), name in zip(weights, pruned, where, strict=True):
        # As bytes: torch takes 40 times as long for `all`.
        if keep.view(torch.uint8).min():
            raise UserError(
                f"{pattern.name} prunes no weight of this matrix",
                where=name,
                found=f"{weight.shape[0]} x {weight.shape[1]} weights, scope: {settings.scope}",
                expected="a share of at least one weight",
                todo="choose a larger share, or scope: matrix",
            )
        if settings.swaps:
            dense, gram = weight.float(), need_gram(statistics, name)
            start = dense * keep if changed is None else changed
            refined = refine(dense, start, keep, gram, pattern.group, settings.swaps)
            keep, changed = refined.keep, None if changed is None else refined.weight
            notes |= {
                "swaps": refined.swaps,
                "error_before": refined.error_before,
                "error_after": refined.error_after,
            }
        results.append((keep, None if changed is None else changed.to(weight.dtype), notes))
    return results


def _unit_pruner(
    model: StreamedModel, source: Artifact, criterion: OfUnits, pattern: Pattern
) -> Pruner:
    """Return the function that prunes whole units of a block. UserError: the units of the model's
    family are not known, or its output projections cannot have the biases of a compensation.
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
            of_model += scores(block, index, read_statistics(source, index, model.device))
        weights = list(layout.unit_weights(model.shapes_of_block())) * model.num_blocks
        chosen = choose_in_model(of_model, weights, pattern)

    def prune(block: nn.Module, index: int, statistics: Statistics) -> Pruned:
        if chosen:
            attention, channels = chosen[2 * index : 2 * index + 2]
        else:
            where = model.sharding.name(index, "").removesuffix(".")
            halves = zip(scores(block, index, statistics), ("attention", "MLP"), strict=True)
            attention, channels = (
                choose_in_block(part, pattern, f"{where}, {name}") for part, name in halves
            )
        pruned = Pruned(layout.keep_masks(block, attention, channels))
        if criterion.bias_compensation:
            pruned.changed = compensating_biases(block, pruned.masks, statistics, layout)
        return pruned

    return prune
