"""The plan: the predicted cost of the jobs that a study will run, from the config alone, and what
`auto` decides in it: the window of a reconstruction, the residency of a retraining.

No tensor library is imported. `checks` refuses a study that cannot be run, and `plan_text` shows a
plan at the terminal.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import NamedTuple

from freelunch.core.devices import FLOAT32, fast_precision, memory_bytes
from freelunch.core.errors import UserError
from freelunch.costs import pass_costs, window_costs
from freelunch.costs.cost import PROCESS_BYTES, Cost
from freelunch.costs.jobs import PlannedJob
from freelunch.costs.known_inputs import is_gguf, shapes_of, text_windows
from freelunch.costs.retraining_costs import PlannedRetraining, retrain
from freelunch.costs.shapes import Shapes
from freelunch.study import steps
from freelunch.study.adaptations import Adaptation, Reconstruction, Training, Windowed, with_window
from freelunch.study.cell import NONE, Cell
from freelunch.study.families import has_halves
from freelunch.study.patterns import Pattern
from freelunch.study.retraining import Retraining
from freelunch.study.search import PLANNED_RATES, probe_of, probe_settings
from freelunch.study.study import Study
from freelunch.study.windows import (
    ALL,
    AUTO,
    HALVES,
    KEEP_ALL,
    KEEP_NONE,
    MATRIX,
    Window,
    split_windows,
)

STREAMED = "streamed"
# The learning rate in the name of a candidate.
_RATE = re.compile(r"\.lr.+(?=\.epochs)")
# Each cell of a wide study asks for it.
_memory_of_machine = cache(memory_bytes)


@dataclass(frozen=True)
class Plan:
    """Predicted cost of every job of a study.

    Attributes:
        shapes: Sizes of each model whose shapes are known, by its name.
        device_bytes: Memory of the device that computes; None if the host's processor computes.
            What is `auto` in the study fits into it.
        device: What computes, in words.
        fast: The precision that `auto` stands for.
        costs: The costs that were computed so far, by what decides them. The parts of a study may
            share them.
    """

    study: Study
    shapes: dict[str, Shapes]
    device_bytes: int | None = None
    device: str = ""
    fast: str = FLOAT32
    costs: dict[tuple[PlannedJob, int], Cost | None] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def of(
        cls,
        study: Study,
        device_bytes: int | None = None,
        device: str = "",
        fast: str | None = None,
    ) -> "Plan":
        """Look up the shapes of the study's models; `checked_plan` also checks the study. Without
        a precision for `auto`, it is that in which this machine or the device is fastest.
        UserError: no model can have the shapes in a config.json.
        """
        shapes = {model: shapes_of(study, model) for model in sorted(study.models)}
        known = {model: found for model, found in shapes.items() if found}
        fast = fast or fast_precision(device_bytes is not None)
        return cls(study, known, device_bytes, device, fast)

    def cost(self, job: PlannedJob, groups: int = 1) -> Cost | None:
        """Return the predicted cost of a job, or of the one that has most to do of the `groups`
        jobs that share the windows of each reconstruction whose windows are independent; None if
        the shapes are not known yet.
        """
        # Neither learning rates make a difference, nor seeds, except in what is measured.
        seed = job.cell.seed if job.rule == steps.EVALUATE_CELL else 0
        alike = replace(job.cell, adaptation=_RATE.sub("", job.cell.adaptation), seed=seed)
        key = job._replace(cell=alike), groups
        if key not in self.costs:
            shapes = self.shapes.get(job.cell.model)
            self.costs[key] = None if shapes is None else self._cost(job, shapes, groups)
        return self.costs[key]

    def _cost(self, job: PlannedJob, shapes: Shapes, groups: int) -> Cost:
        study, cell, keep = self.study, job.cell, self.study.block.keep_hidden_states
        samples, length = study.calibration.samples, study.calibration_of(cell.model).length
        if job.rule == steps.FETCH_MODEL:
            source = study.model(cell.model).source
            return pass_costs.fetch_model(shapes, source, is_gguf(study, cell.model))
        if job.rule == steps.DECIDE_BOS:
            return pass_costs.decide_bos(shapes, length)
        if job.rule == steps.CAPTURE_DENSE:
            seeds = {each.seed for each in study.cells if each.model == cell.model}
            gram = any(study.needs_gram(cell.model, seed) for seed in seeds)
            return pass_costs.capture_dense(shapes, samples, length, gram, keep)
        if job.rule == steps.PRUNE_MODEL:
            criterion = study.criterion(cell.criterion)
            return pass_costs.prune_model(shapes, samples, length, criterion)
        if job.rule == steps.EVALUATE_CELL:
            parts = list(self._measurements(cell, shapes))
            writes = cell.adaptation == NONE and not cell.is_dense
            return pass_costs.evaluate_cell(shapes, parts, writes)
        settings, drawn = self.adaptation(cell.adaptation), study.samples(cell.adaptation)
        # Hidden states are on disk only for the sample of the dense pass.
        keep = keep if drawn == samples else KEEP_NONE
        drawn -= getattr(settings, "skip", None) or 0
        if job.rule == steps.FIND_RATE:
            return self._finding(cell, shapes, settings, drawn, keep)
        return self._adapting(cell, shapes, settings, drawn, keep, groups)

    def _adapting(
        self,
        cell: Cell,
        shapes: Shapes,
        settings: Adaptation | None,
        drawn: int,
        keep: str,
        groups: int = 1,
        checked: int | None = None,
    ) -> Cost:
        """Return the cost of adapting a cell by these settings, trained on so many sequences."""
        length = self.study.calibration_of(cell.model).length
        if isinstance(settings, Retraining):
            streamed, _ = self.streamed(cell.model, cell.adaptation)
            return retrain(shapes, drawn, length, settings, keep, streamed, checked)
        assert isinstance(settings, Windowed)
        window, _ = self.window(cell.model, cell.adaptation)
        assert window is not None  # The shapes are known.
        return window_costs.reconstruct(
            shapes,
            drawn,
            length,
            with_window(settings, window),
            Pattern.parse(cell.pattern).sparsity if cell.is_pruned else 0.0,
            keep,
            1 if settings.is_sequential else groups,
            checked,
        )

    def _finding(
        self, cell: Cell, shapes: Shapes, settings: Adaptation | None, drawn: int, keep: str
    ) -> Cost:
        """Return the cost of finding the learning rate of a cell by PLANNED_RATES probes."""
        assert isinstance(settings, Training)
        window, _ = self.window(cell.model, cell.adaptation)
        assert window is not None  # The shapes are known.
        windows = 1 if settings.is_retraining else len(split_windows(shapes.blocks, window))
        probe = probe_of(settings, drawn, windows)
        if probe is None:
            return Cost()  # The job refuses it.
        probed = probe_settings(settings, probe)
        each = self._adapting(
            cell, shapes, probed, probe.sequences, KEEP_ALL, checked=probe.held_out
        )
        cost = each.part(PLANNED_RATES * len(probe.windows) / windows)
        if keep == KEEP_ALL or settings.learns_text:
            return cost
        # Hidden states that are not kept are made once, up to the last window's.
        length = self.study.calibration_of(cell.model).length
        made = pass_costs.passing(shapes, drawn * length, length)
        hidden = 2 * len(probe.windows) * shapes.hidden_bytes(drawn * length)
        return replace(cost, work=cost.work + made, scratch_bytes=cost.scratch_bytes + hidden)

    def _measurements(self, cell: Cell, shapes: Shapes) -> Iterator[Cost]:
        study, length = self.study, self.study.calibration_of(cell.model).length
        for name, settings in study.measurements(cell).items():
            if name == steps.PERPLEXITY:
                windows = text_windows(study, cell.model).windows
                yield pass_costs.measure_perplexity(shapes, windows, settings["length"])
            elif name == steps.HELD_OUT:
                samples = study.block.selection.samples
                yield pass_costs.measure_perplexity(shapes, samples, length)
            elif name == steps.DRIFT:
                yield pass_costs.measure_drift(shapes, settings["samples"], length)
            elif name == steps.TASKS:
                counts = {task: each["documents"] for task, each in study.tasks["tasks"].items()}
                limit = settings["limit"] or max(counts.values())
                documents = {task: min(limit, count) for task, count in counts.items()}
                yield pass_costs.ask_tasks(shapes, documents)

    def precision(self, adaptation: str) -> str | None:
        """Return the precision of an adaptation's training passes, or `model`; None without any."""
        settings = self.adaptation(adaptation)
        return settings.precision if isinstance(settings, Training) else None

    def adaptation(self, name: str) -> Adaptation | None:
        """Return the settings of an adaptation as it is run, with the precision decided."""
        settings = self.study.adaptation(name)
        if isinstance(settings, Training) and settings.precision == AUTO:
            return settings.model_copy(update={"precision": self.fast})
        return settings

    def window(self, model: str, adaptation: str) -> tuple[Window | None, str | None]:
        """Return the window of an adaptation of a model, and the reason if its entry says `auto`;
        None if it says `auto` and the model's shapes are not known yet. Snakemake asks again when
        the job starts, and by then the model is on disk. UserError: no window fits into the memory
        budget.
        """
        settings, shapes = self.adaptation(adaptation), self._shapes_now(model)
        assert isinstance(settings, Windowed | Retraining)
        if shapes is None:
            return (None if settings.window == AUTO else settings.window), None
        return decide_window(shapes, *self.sample(model, adaptation), settings, self.device_bytes)

    def streamed(self, model: str, adaptation: str) -> tuple[bool, str | None]:
        """Return whether an adaptation of a model is streamed, and the reason if its entry says
        `auto`; only retrainings are. UserError: it fits into the memory budget neither way.
        """
        settings, shapes = self.adaptation(adaptation), self._shapes_now(model)
        if not isinstance(settings, Retraining):
            return False, None
        if shapes is None:
            return settings.residency == STREAMED, None
        sample = self.sample(model, adaptation)
        return decide_residency(shapes, *sample, settings, self.device_bytes)

    def sample(self, model: str, adaptation: str) -> tuple[int, int]:
        """Return how many sequences an adaptation of a model sees, and their length."""
        return self.study.samples(adaptation), self.study.calibration_of(model).length

    def _shapes_now(self, model: str) -> Shapes | None:
        """Return the shapes of a model, which may have been fetched since the plan was made."""
        return self.shapes.get(model) or shapes_of(self.study, model)


# --- What `auto` decides


class _Limit(NamedTuple):
    """Memory into which a job has to fit: its size, and what a job holds beside it (with a device,
    the process on the host), in bytes; and what has it, as a possessive, or empty for a budget that
    the settings give.
    """

    size: float
    beside: int = 0
    owner: str = ""

    def holds(self, memory: int) -> bool:
        return memory - self.beside <= self.size

    def needs(self, memory: int) -> float:
        """Return what a job of this peak memory needs of it, in GB, rounded up."""
        return math.ceil((memory - self.beside) / 1e6) / 1000


def _limit(memory_gb: float | None, device_bytes: int | None) -> _Limit:
    """Return the smaller of a budget in the settings and the memory of a device; without either,
    the memory of this machine.
    """
    limits = []
    if memory_gb is not None:
        limits.append(_Limit(memory_gb * 1e9))
    if device_bytes is not None:
        limits.append(_Limit(device_bytes, PROCESS_BYTES, "the device's "))
    if not limits:
        return _Limit(_memory_of_machine(), owner="this machine's ")
    return min(limits, key=lambda limit: limit.size + limit.beside)


def decide_window(
    shapes: Shapes,
    samples: int,
    length: int,
    settings: Windowed | Retraining,
    device_bytes: int | None = None,
) -> tuple[Window, str | None]:
    """Return the window of an adaptation, and the reason if the settings say `auto`: it has to fit
    into the memory of a device, if there is one, and into the settings' own budget. If none fits a
    device, the smallest is returned; UserError if none fits the budget.
    """
    if settings.window != AUTO:
        return settings.window, None
    assert isinstance(settings, Reconstruction) and settings.memory_gb is not None  # Checked.
    limit, larger = _limit(settings.memory_gb, device_bytes), ""
    on_device = device_bytes is not None
    for window, memory in windows_by_size(shapes, samples, length, settings, on_device=on_device):
        needs = f"{limit.needs(memory):.3f}"
        if limit.holds(memory):
            of = f"of {limit.owner}{limit.size / 1e9:g} GB"
            return window, f"window {window} needs {needs} {of}{larger}"
        larger = f"; window {window} would need {needs} GB"
    if limit.owner:
        return window, None
    todo = "raise memory_gb, or shorten study.calibration.length or `batch`"
    if settings.train_norms:
        matrix = with_window(settings, MATRIX)
        least = window_costs.memory_bytes(shapes, samples, length, matrix, on_device=on_device)
        todo += f"; with `train_norms: false` a window `matrix` needs {limit.needs(least):.3f} GB"
    raise UserError(
        "no window fits into the memory budget",
        where="memory_gb",
        found=f"{settings.memory_gb:g} GB",
        expected=f"at least {needs} GB, which a window `{window}` needs",
        todo=todo,
    )


def windows_by_size(
    shapes: Shapes, samples: int, length: int, settings: Reconstruction, *, on_device: bool
) -> Iterator[tuple[Window, int]]:
    """Yield windows and the memory that each takes, the largest first, with that of the process."""
    windows: list[Window] = [ALL, *range(shapes.blocks - 1, 0, -1)]
    if has_halves(shapes.model_type, shapes.whole):
        windows.append(HALVES)
    if not settings.train_norms:
        windows.append(MATRIX)
    for window in windows:
        decided = with_window(settings, window)
        memory = window_costs.memory_bytes(shapes, samples, length, decided, on_device=on_device)
        yield window, memory


def decide_residency(
    shapes: Shapes,
    samples: int,
    length: int,
    settings: Retraining,
    device_bytes: int | None = None,
) -> tuple[bool, str | None]:
    """Return whether a retraining is streamed, and the reason if its settings say `auto`.
    UserError: it fits into the memory budget of the settings neither way.
    """
    if settings.residency != AUTO:
        return settings.residency == STREAMED, None
    limit = _limit(settings.memory_gb, device_bytes)
    size = f"{limit.owner}{limit.size / 1e9:,.1f} GB"
    memory, streamed = (
        PlannedRetraining(shapes, samples, length, settings, streamed).memory_bytes()
        for streamed in (False, True)
    )
    needs = f"needs {limit.needs(memory):,.1f}"
    if limit.holds(memory):
        return False, f"the model fits: {needs} of {size}"
    if not limit.holds(streamed) and not limit.owner:
        raise UserError(
            "this retraining does not fit into its memory budget, not even block by block",
            where="memory_gb",
            found=f"{settings.memory_gb:g} GB",
            expected=f"at least {limit.needs(streamed):.3f} GB",
            todo="raise memory_gb, or set a smaller `micro_batch` or study.calibration.length",
        )
    why = f"streamed {limit.needs(streamed):,.1f} of {size}"
    return True, f"the model does not fit: {needs} GB, {why}"
