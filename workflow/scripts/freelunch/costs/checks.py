"""Checks of a study before anything runs: cells, and lengths of sequences, against the
shapes of their models; and whether a machine has the memory and the disk.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from freelunch.core.errors import UserError
from freelunch.core.units import amount
from freelunch.costs.cost import Cost, together
from freelunch.costs.jobs import ADAPTING, PlannedJob, adaptation_jobs, jobs_of
from freelunch.costs.known_inputs import config_of, dtype_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.shapes import Shapes
from freelunch.study.adaptations import Local, Reconstruction, Training
from freelunch.study.cell import Cell
from freelunch.study.criteria import Criterion, OfUnits
from freelunch.study.families import biases_of, check_dropout, halves_of, positions_of, units_of
from freelunch.study.methods import FULL, LOW_RANK
from freelunch.study.model_limits import check_supported
from freelunch.study.patterns import Pattern
from freelunch.study.search import adaptation_of
from freelunch.study.source_files import downloads_of, scratch_of
from freelunch.study.sources import NO_GRADIENTS, TRAINED, UNTRAINED
from freelunch.study.steps import RECONSTRUCT_WINDOW, RETRAIN_MODEL
from freelunch.study.study import Study
from freelunch.study.windows import HALVES, MODEL, blocks_in

_NEEDS_LESS = {
    RECONSTRUCT_WINDOW: "; a smaller `window`, `batch` or study.calibration.length needs less",
    RETRAIN_MODEL: "; `residency: streamed`, a smaller `micro_batch` or study.calibration.length "
    "needs less",
}


def checked_plan(
    study: Study, device_bytes: int | None = None, device: str = "", fast: str | None = None
) -> Plan:
    """Return the plan of a study that can be run; UserError if a model is of a kind that is not
    supported, or cannot be pruned or adapted as a cell requires, or sequences are longer than its
    positions.
    """
    for model in sorted(study.models):
        check_supported(config_of(study, model), f"models.{model}")
    plan = Plan.of(study, device_bytes, device, fast)
    known = [cell for cell in study.cells if not cell.is_dense and cell.model in plan.shapes]
    problems = {
        f"{cell.model}/{cell.pruning}: {problem}"
        for cell in known
        for problem in _cell_problems(plan, cell)
    }
    _refuse(study, sorted(problems), "problem{} in the grids")
    _refuse(study, _length_problems(study), "length{} beyond a model")
    return plan


def _refuse(study: Study, problems: Iterable[str], what: str) -> None:
    lines = [f"  {problem}" for problem in dict.fromkeys(problems)]
    if lines:
        head = f"{len(lines)} {what.format('s' if len(lines) > 1 else '')}"
        raise UserError("\n".join([head, *lines]), where=study.source)


# --- Cells


def _cell_problems(plan: Plan, cell: Cell) -> Iterator[str]:
    shapes = plan.shapes[cell.model]
    if cell.is_pruned:
        yield from _pruning_problems(plan, cell, shapes)
    settings, entry = plan.study.adaptation(cell.adaptation), f"adaptations.{cell.adaptation}"
    if settings is not None:
        try:
            _check_window(plan, cell, shapes)
        except UserError as error:
            yield f"{entry}: {error}"
    if isinstance(settings, Training):
        if dtype_of(plan.study, cell.model) == UNTRAINED:
            yield (
                f"models.{cell.model}.dtype: the checkpoint's own is {UNTRAINED}, but "
                f"{NO_GRADIENTS}; expected {TRAINED}"
            )
        for problem in _training_problems(settings, shapes):
            yield f"{entry}{problem}"


def _pruning_problems(plan: Plan, cell: Cell, shapes: Shapes) -> Iterator[str]:
    pattern, criterion = Pattern.parse(cell.pattern), plan.study.criterion(cell.criterion)
    for width in dict.fromkeys(shapes.inputs):
        if not pattern.divides(width):
            yield f"a linear layer has {width} inputs; expected a multiple of {pattern.group}"
    yield from filter(None, _unpruned_sets(shapes, pattern, criterion))
    # If the family is not known yet, pruning checks it.
    if shapes.model_type:
        try:
            if pattern.structured:
                units_of(shapes.model_type)
            if isinstance(criterion, OfUnits) and criterion.bias_compensation:
                biases_of(shapes.model_type)
        except UserError as error:
            yield str(error)


def _unpruned_sets(shapes: Shapes, pattern: Pattern, criterion: Criterion) -> Iterator[str | None]:
    """Yield, for each set within which a criterion compares, what is wrong if none is pruned."""
    if criterion.scope == "row" and pattern.group is None:
        for width in dict.fromkeys(shapes.inputs):
            yield pattern.nothing_of(width, "weights of a row", "scope: matrix")
    if isinstance(criterion, OfUnits) and criterion.scope == "block":
        other = ["scope: model"] if criterion.statistics == "dense" else []
        yield pattern.nothing_of(shapes.intermediate, "channels of a block", *other)
        if criterion.attention_unit == "head":
            yield pattern.nothing_of(shapes.heads, "heads of a block", *other)
            return
        if pattern.zeros_in_group(shapes.heads):
            other = ["attention_unit: head", *other]
        yield pattern.nothing_of(shapes.key_heads, "key heads of a block", *other)


def _check_window(plan: Plan, cell: Cell, shapes: Shapes) -> None:
    """Check that a model has the window asked for. What is not known yet, the job checks."""
    settings = plan.study.adaptation(cell.adaptation)
    window, _ = plan.window(cell.model, cell.adaptation)
    if window == MODEL:
        plan.streamed(cell.model, cell.adaptation)
    elif window is not None:
        blocks_in(window, shapes.blocks)
    by_halves = isinstance(settings, Local) and settings.lost_residual
    if shapes.model_type and (window == HALVES or by_halves):
        halves_of(shapes.model_type, shapes.whole)
    drops = isinstance(settings, Reconstruction) and settings.model_dropout
    if drops and shapes.dropout is not None:
        check_dropout(shapes.dropout, shapes.model_type)


def _training_problems(settings: Training, shapes: Shapes) -> Iterator[str]:
    trained = settings.trained
    if trained.weights is None and not trained.norms and shapes.biases is False:
        yield (
            ": it trains biases alone, and no linear layer of this model has one; expected a "
            "method that trains norms or weights"
        )
    smallest = min(min(matrix.inputs, matrix.outputs) for matrix in shapes.matrices)
    if trained.weights in LOW_RANK and trained.rank > smallest:
        yield (
            f".rank: found {trained.rank}; expected at most {smallest}, the smaller dimension of a "
            "matrix of this model"
        )
    if trained.head and trained.weights != FULL and shapes.tied:
        yield (
            ".train_head: the head of this model is tied to its embedding, so it has no adapter of "
            f"its own; expected false, or the method {FULL}"
        )


def _length_problems(study: Study) -> Iterator[str]:
    for model in study.models:
        config = config_of(study, model)
        part = config.get("text_config")
        most = positions_of(part if isinstance(part, dict) else config)
        for key, length in (
            ("study.calibration.length", study.calibration_of(model).length),
            ("study.evaluation.perplexity.length", study.perplexity_of(model).length),
        ):
            if most is not None and length > most:
                yield (
                    f"{key}: found {length}; expected at most {most}, since the model {model} has "
                    f"no more positions; `models.{model}.max_length` "
                    "shortens the sequences of this model alone"
                )


# --- Memory and disk

# Room for what no job's cost counts, such as logs, records and figures.
_LEAST_BYTES = 10_000_000


class Misfit(NamedTuple):
    """A kind of job, named by the adaptation or else the rule, that does not fit into the memory of
    a machine: what it needs, what the machine has, and what needs less.
    """

    name: str
    model: str
    problem: str

    def __str__(self) -> str:
        return f"{self.name} of {self.model} {self.problem}"


def lacking(plan: Plan, machine: Machine) -> list[str]:
    """Return what does not fit a machine: kinds of jobs, and the whole study on its disk."""
    disk = lacking_disk(plan)
    return [*map(str, misfits(plan, machine)), *([f"the study {disk}"] if disk else [])]


def misfits(plan: Plan, machine: Machine) -> list[Misfit]:
    """Return the kinds of jobs that do not fit into the memory of a machine, each once."""
    jobs = list(adaptation_jobs(plan.study).values())
    jobs += [job for job in jobs_of(plan.study) if job.rule not in ADAPTING]
    found = dict[Misfit, None]()
    for job in jobs:
        if problem := misfit(plan, job, machine):
            name = adaptation_of(job.cell.adaptation) if job.rule in ADAPTING else job.rule
            found[Misfit(name, job.cell.model, problem)] = None
    return list(found)


def misfit(plan: Plan, job: PlannedJob, machine: Machine) -> str | None:
    """Return in words that a job does not fit into a machine, and what needs less; None if it fits,
    or if the machine's memory is not known.
    """
    host, device = (plan.cost(job) or Cost()).memory(machine.device_bytes is not None)
    for needs, owner, size in (
        (device, "the device", machine.device_bytes),
        (host, "this machine", machine.memory_bytes),
    ):
        if size is not None and needs > size:
            less = _NEEDS_LESS.get(job.rule, "")
            return f"does not fit: needs {amount(needs)}, {owner} has {amount(size)}{less}"
    return None


def lacking_disk(plan: Plan) -> str | None:
    """Return in words that a study does not fit on the disk; None if it fits. What it made earlier
    counts as space that it already has.
    """
    study = plan.study
    models = [study.paths.model(name) for name in plan.shapes]
    places = [study.paths.root, *models, *(downloads_of(scratch_of(folder)) for folder in models)]
    # Hard links count once.
    sizes = [{each.st_ino: each.st_size for each in files_in(place)} for place in places]
    there = sum(sum(of_place.values()) for of_place in sizes)
    cost = together([plan.cost(job) or Cost() for job in jobs_of(study)])
    needed = max(cost.disk_bytes + cost.scratch_bytes - there, _LEAST_BYTES)
    folder = study.paths.root.absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed <= free:
        return None
    return f"needs {amount(needed)} more on disk, but {folder} has only {amount(free)} free"


def files_in(folder: Path) -> Iterator[os.stat_result]:
    """Yield the status of each file below a folder, of a hard link once for each of its names."""
    for inside, _, names in os.walk(folder):
        for name in names:
            # A job that is at work may remove a file meanwhile.
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(inside, name))
