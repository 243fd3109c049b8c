"""Operations of a finished job, computed from the counts that it left.

The formulas are the plan's. They are applied when records are collected, so that correcting a
formula reruns no job.
"""

from collections.abc import Mapping
from typing import Any

from freelunch.costs.passes import capture_work, drift_work, reference_work, task_work
from freelunch.costs.pruning import prune_work
from freelunch.costs.reconstruction import reads_dense_states, reconstruction_work
from freelunch.costs.retraining import retraining_work
from freelunch.costs.shapes import Shapes
from freelunch.costs.work import Work
from freelunch.study.adaptations import with_window
from freelunch.study.criteria import read_criterion
from freelunch.study.retraining import read_adaptation
from freelunch.study.steps import (
    CAPTURE_DENSE,
    CAPTURE_REFERENCE,
    DRIFT,
    EVALUATE_CELL,
    HELD_OUT,
    PERPLEXITY,
    PRUNE_MODEL,
    RECONSTRUCT_WINDOW,
    RETRAIN_MODEL,
    TASKS,
)

Counts = Mapping[str, Any]


def operations(rule: str, shapes: Shapes, counts: Counts) -> dict[str, int]:
    """Return the floating-point operations of a job; empty for a rule that counts none.

    Args:
        rule: The job's rule.
        shapes: Sizes of the model.
        counts: The counts in the job's run facts.

    Returns:
        `flops`. An adaptation that learns from the dense model also has `dense_flops`: its share of
        the dense pass that made its training data, whether for this cell alone or for all cells.
    """
    if rule in (RECONSTRUCT_WINDOW, RETRAIN_MODEL):
        return _adapting(rule, shapes, counts)
    if rule == CAPTURE_DENSE:
        work = capture_work(shapes, *_sample(counts), counts["gram"])
    elif rule == CAPTURE_REFERENCE:
        work = reference_work(shapes, *_sample(counts))
    elif rule == PRUNE_MODEL:
        work = prune_work(shapes, *_sample(counts), read_criterion(counts["criterion"]))
    elif rule == EVALUATE_CELL:
        work = _evaluation_work(shapes, counts)
    else:
        return {}
    return {"flops": work.total()}


def _adapting(rule: str, shapes: Shapes, counts: Counts) -> dict[str, int]:
    sequences, length = _sample(counts)
    settings = read_adaptation(counts["adaptation"])
    if rule == RECONSTRUCT_WINDOW:
        settings = with_window(settings, counts["window"])
        sparsity = counts["pruned_weights"] / (shapes.blocks * shapes.block_weights)
        blocks, learns = counts["blocks"], reads_dense_states(settings)
        work = reconstruction_work(shapes, sequences, length, settings, sparsity, blocks)
    else:
        blocks, learns = shapes.blocks, settings.distils
        work = retraining_work(shapes, sequences, length, settings, counts["streamed"])
    flops = {"flops": work.total()}
    if learns:
        flops["dense_flops"] = shapes.forward_flops(sequences * length, length, blocks)
    return flops


def _evaluation_work(shapes: Shapes, counts: Counts) -> Work:
    work = Work()
    for part in (PERPLEXITY, HELD_OUT):
        if part in counts:
            work += reference_work(shapes, *_sample(counts[part]))
    if DRIFT in counts:
        work += drift_work(shapes, *_sample(counts[DRIFT]), counts[DRIFT]["dense_blocks"])
    if TASKS in counts:
        passed = [counts[TASKS][key] for key in ("passed_tokens", "sequences", "predicted_tokens")]
        work += task_work(shapes, *passed)
    return work


def _sample(counts: Counts) -> tuple[int, int]:
    return counts["sequences"], counts["length"]
