"""Operations of a finished job, computed from the counts that it left.

The formulas are the plan's. They are applied when records are collected, so that correcting a
formula reruns no job.
"""

from collections.abc import Callable, Mapping
from typing import Any

from freelunch.costs.evaluation import drift_work, task_work
from freelunch.costs.passes import capture_work, reference_work
from freelunch.costs.pruning import prune_work
from freelunch.costs.reconstruction_work import reads_dense_states, reconstruction_flops
from freelunch.costs.retraining import retraining_flops
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
    return _COUNTED[rule](shapes, counts) if rule in _COUNTED else {}


def _capture_dense(shapes: Shapes, counts: Counts) -> dict[str, int]:
    return {"flops": capture_work(shapes, *_sample(counts), counts["gram"]).total()}


def _capture_reference(shapes: Shapes, counts: Counts) -> dict[str, int]:
    return {"flops": reference_work(shapes, *_sample(counts)).total()}


def _prune_model(shapes: Shapes, counts: Counts) -> dict[str, int]:
    criterion = read_criterion(counts["criterion"])
    return {"flops": prune_work(shapes, *_sample(counts), criterion).total()}


def _reconstruct_window(shapes: Shapes, counts: Counts) -> dict[str, int]:
    sequences, length = _sample(counts)
    settings = with_window(read_adaptation(counts["adaptation"]), counts["window"])
    sparsity = counts["pruned_weights"] / (shapes.blocks * shapes.block_weights)
    flops = reconstruction_flops(shapes, sequences, length, settings, sparsity, counts["blocks"])
    found = {"flops": flops}
    if reads_dense_states(settings):
        found["dense_flops"] = shapes.forward_flops(sequences * length, length, counts["blocks"])
    return found


def _retrain_model(shapes: Shapes, counts: Counts) -> dict[str, int]:
    sequences, length = _sample(counts)
    settings = read_adaptation(counts["adaptation"])
    flops = retraining_flops(shapes, sequences, length, settings, counts["streamed"])
    found = {"flops": flops}
    if settings.distils:
        found["dense_flops"] = shapes.forward_flops(sequences * length, length)
    return found


def _evaluate_cell(shapes: Shapes, counts: Counts) -> dict[str, int]:
    work = Work()
    for part in (PERPLEXITY, HELD_OUT):
        if part in counts:
            work += reference_work(shapes, *_sample(counts[part]))
    if DRIFT in counts:
        work += drift_work(shapes, *_sample(counts[DRIFT]), counts[DRIFT]["dense_blocks"])
    if TASKS in counts:
        passed = [counts[TASKS][key] for key in ("passed_tokens", "sequences", "predicted_tokens")]
        work += task_work(shapes, *passed)
    return {"flops": work.total()}


def _sample(counts: Counts) -> tuple[int, int]:
    return counts["sequences"], counts["length"]


_COUNTED: dict[str, Callable[[Shapes, Counts], dict[str, int]]] = {
    CAPTURE_DENSE: _capture_dense,
    CAPTURE_REFERENCE: _capture_reference,
    PRUNE_MODEL: _prune_model,
    RECONSTRUCT_WINDOW: _reconstruct_window,
    RETRAIN_MODEL: _retrain_model,
    EVALUATE_CELL: _evaluate_cell,
}
