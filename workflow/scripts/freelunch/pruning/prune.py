"""Choose masks for every block, and new weights if a criterion updates the weights that it keeps.

With statistics of the dense model's activations, pruning needs no pass through the model. With
statistics of the sparse model, each block sees the outputs of the pruned blocks before it.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from torch import nn

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
    check_finite,
    load_pruned_block,
    masks_file,
    write_pruned_block,
)
from freelunch.pruning.dense_pass import read_statistics
from freelunch.pruning.masks import check_divides
from freelunch.pruning.pruners import Statistics, unit_pruner, weight_pruner
from freelunch.pruning.sharing import Pruning
from freelunch.pruning.statistics import Collector
from freelunch.study.criteria import OfUnits
from freelunch.study.patterns import Pattern
from freelunch.study.steps import CAPTURE_DENSE

log = logging.getLogger(__name__)
_LEFT = "%s is left to its own job, which will say why"


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
            self.prune, self.config = unit_pruner(model, dense, criterion, pattern)
        else:
            self.prune = weight_pruner(model, criterion, pattern, pruning.seed)

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


def _statistics(
    states: SparseStates, index: int, block: nn.Module, prefix: str, gram: bool
) -> Statistics:
    """Return the statistics of a block's inputs, as the pruned blocks before it produce them."""
    collector = Collector(block, prefix, gram)
    with collector.watching():
        states.blocks.through_(index, block, states.hidden, None)
    return collector.by_layer()
