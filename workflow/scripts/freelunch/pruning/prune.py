"""Choose masks for every block, and new weights if a criterion updates the weights that it keeps.

With statistics of the dense model's activations, pruning needs no pass through the model. With
statistics of the sparse model, each block sees the outputs of the pruned blocks before it.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby

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
from freelunch.study.families import biases_of
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
    masks = _Masks(model, dense, pruning)
    masks.writer = ArtifactWriter(pruning.folder, KIND, pruning.fingerprint)
    passing = SparseStates(states) if pruning.criterion.statistics == "sparse" else None
    for done in _prune_blocks(model, dense, [masks], passing):
        report(done, model.num_blocks, "blocks")
    criterion, config = pruning.criterion, {}
    if isinstance(criterion, OfUnits) and criterion.bias_compensation:
        config = biases_of(model.config.model_type)
    return pruning.finish(masks.writer, dense, config)


def prune_together(
    model: StreamedModel,
    dense: Artifact,
    prunings: Sequence[Pruning],
    report: Report = silent,
) -> Spent:
    """Choose masks for several jobs in one pass over the blocks, and leave them to these jobs.

    Masks that cannot be chosen are not left: their own job will say why.

    Args:
        model, dense, report: As in `prune_model`.
        prunings: The masks; all from dense statistics.

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
    """Masks that are being chosen.

    Attributes:
        pruning: What to prune by.
        gram: Whether Gram matrices are needed.
        failed: Whether a block could not be pruned; the others are then not tried.
        writer: Fills the folder; set after all checks, so that a refused pruning leaves no folder.
    """

    writer: ArtifactWriter

    def __init__(self, model: StreamedModel, dense: Artifact, pruning: Pruning) -> None:
        check_belongs(dense, "model", model.artifact)
        criterion, pattern = pruning.criterion, pruning.pattern
        self.pruning, self.gram, self.failed = pruning, criterion.needs_gram, False
        for name, linear in block_linears(model.shapes_of_block()).items():
            check_divides(pattern, linear.in_features, model.sharding.name(0, name))
        if self.gram and criterion.statistics == "dense" and not dense.facts["gram"]:
            raise UserError(
                "this criterion needs Gram matrices, which the dense pass did not collect",
                where=dense.folder,
                found="gram = false",
                expected="gram = true",
                todo=run_again(CAPTURE_DENSE),
            )
        if isinstance(criterion, OfUnits):
            self._prune = unit_pruner(model, dense, criterion, pattern)
        else:
            self._prune = weight_pruner(model, criterion, pattern, pruning.seed)
        self._model = model

    def lack(self, index: int) -> bool:
        """Return whether the masks of a block are still to be chosen."""
        return not self.failed and masks_file(index) not in self.writer

    def write(self, index: int, block: nn.Module, statistics: Statistics) -> None:
        """Choose and write the masks of a block."""
        pruned = self._prune(block, index, statistics)
        write_pruned_block(self.writer, self._model, index, block, pruned)


def _prune_blocks(
    model: StreamedModel,
    dense: Artifact,
    chosen: Sequence[_Masks],
    passing: SparseStates | None = None,
    for_others: bool = False,
) -> Iterator[int]:
    """Choose masks block by block; yield how many blocks are done.

    Args:
        model, dense: As in `prune_model`.
        chosen: Masks to choose; a single one with `passing`.
        passing: Pass the pruned blocks before each block, for statistics of its inputs there.
        for_others: Whether to go on without those that fail. Otherwise their error is raised.
    """
    missing = [i for i in range(model.num_blocks) if any(masks.lack(i) for masks in chosen)]
    blocks = model.load_blocks(missing)
    for index in range(model.num_blocks):
        if index in missing:
            _, block = next(blocks)
            _check_weights(model, index, block)
            lacking = [masks for masks in chosen if masks.lack(index)]
            gram = any(masks.gram for masks in lacking)
            statistics: Statistics
            if passing is None:
                statistics = read_statistics(dense, index, model.device, gram)
            else:
                collector = Collector(block, model.sharding.name(index, ""), gram)
                with collector.watching():
                    passing.blocks.through_(index, block, passing.hidden, None)
                statistics = collector.by_layer()
                del collector
            for _, alike in groupby(lacking, key=lambda masks: masks.pruning.criterion.score):
                for masks in alike:
                    try:
                        masks.write(index, block, statistics)
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
            passing.on(index, load_pruned_block(model, masks.pruning.folder, index)[0])
        yield index + 1


def _forget(statistics: Statistics) -> None:
    # In a function, since a name here would keep the last Gram matrix in memory.
    for inputs in statistics.values():
        inputs.memo.clear()


def _check_weights(model: StreamedModel, index: int, block: nn.Module) -> None:
    for name, linear in block_linears(block).items():
        where = model.sharding.name(index, name)
        check_finite(linear.weight, where, problem="a weight is not finite")
