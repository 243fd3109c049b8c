"""Operations of a finished job, computed from the counts that it left.

The formulas are the plan's. They are applied when records are collected, so that correcting a
formula reruns no job.
"""

from collections.abc import Mapping
from typing import Any

from freelunch.costs.cost import Work
from freelunch.costs.pass_costs import capture_work, drift_work, loss_work, prune_work, task_work
from freelunch.costs.retraining_costs import PlannedRetraining
from freelunch.costs.shapes import Shapes
from freelunch.costs.window_costs import reconstruction_work
from freelunch.study import steps
from freelunch.study.adaptations import with_window
from freelunch.study.criteria import read_criterion
from freelunch.study.retraining import read_adaptation
from freelunch.study.search import Probe, probe_settings
from freelunch.study.windows import split_windows

# What a job counted, from its run facts.
Counts = Mapping[str, Any]


def operations(rule: str, shapes: Shapes, counts: Counts) -> dict[str, int]:
    """Return the floating-point operations of a job, by the counts in its run facts, as `flops`;
    empty for a rule that counts none. An adaptation that learns from the dense model also has
    `dense_flops`: its share of the dense pass that made its training data, whether for this cell
    alone or for all cells.
    """
    if rule in (steps.RECONSTRUCT_WINDOW, steps.RETRAIN_MODEL):
        return _adapting(rule, shapes, counts)
    if rule == steps.FIND_RATE:
        return _finding(shapes, counts)
    work = Work()
    if rule == steps.CAPTURE_DENSE:
        work = capture_work(shapes, *_sample(counts), counts["gram"])
    elif rule == steps.DECIDE_BOS:
        work = loss_work(shapes, *_sample(counts))
    elif rule == steps.PRUNE_MODEL:
        work = prune_work(shapes, *_sample(counts), read_criterion(counts["criterion"]))
    elif rule == steps.EVALUATE_CELL:
        for part in (steps.PERPLEXITY, steps.HELD_OUT):
            if part in counts:
                work += loss_work(shapes, *_sample(counts[part]))
        if drift := counts.get(steps.DRIFT):
            work += drift_work(shapes, *_sample(drift))
        if tasks := counts.get(steps.TASKS):
            passed = (tasks[key] for key in ("passed_tokens", "sequences", "predicted_tokens"))
            work += task_work(shapes, *passed)
    else:
        return {}
    return {"flops": work.total()}


def _adapting(rule: str, shapes: Shapes, counts: Counts) -> dict[str, int]:
    (sequences, length), checked = _sample(counts), counts.get("checked")
    settings = read_adaptation(counts["adaptation"])
    if rule == steps.RECONSTRUCT_WINDOW:
        settings = with_window(settings, counts["window"])
        sparsity = counts["pruned_weights"] / (shapes.blocks * shapes.block_weights)
        blocks = counts["blocks"]
        work = reconstruction_work(shapes, sequences, length, settings, sparsity, blocks, checked)
    else:
        blocks = shapes.blocks
        streamed = counts["streamed"]
        run = PlannedRetraining(shapes, sequences, length, settings, streamed, checked)
        work = run.work()
    flops = {"flops": work.total()}
    if settings.reads_dense_states:
        flops["dense_flops"] = shapes.forward_flops(sequences * length, length, blocks)
    return flops


def _finding(shapes: Shapes, counts: Counts) -> dict[str, int]:
    """Return the operations of probes, which are those of an adaptation of fewer sequences and
    windows.
    """
    probe = Probe(**counts["probe"])
    settings = probe_settings(read_adaptation(counts["adaptation"]), probe)
    rule, blocks = settings.rule, 0
    if rule == steps.RECONSTRUCT_WINDOW:
        windows = split_windows(shapes.blocks, counts["window"])
        blocks = sum(len(windows[at]) for at in probe.windows)
    seen = {"sequences": probe.sequences, "checked": probe.held_out, "blocks": blocks}
    of_one = _adapting(rule, shapes, {**counts, **seen, "adaptation": settings.as_json()})
    return {"flops": counts["rates"] * of_one["flops"]}


def _sample(counts: Counts) -> tuple[int, int]:
    return counts["sequences"], counts["length"]
