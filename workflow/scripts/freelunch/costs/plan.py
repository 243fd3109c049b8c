"""The plan: the predicted cost of the jobs that a study will run, from the config alone.

No tensor library is imported. `checks` refuses a study that cannot be run, and `plan_text` shows a
plan at the terminal.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from freelunch.costs import passes, pruning, reconstruction, retraining
from freelunch.costs.automatic import decide_residency, decide_window
from freelunch.costs.jobs import PlannedJob
from freelunch.costs.model_shapes import is_gguf, shapes_of
from freelunch.costs.shapes import Shapes
from freelunch.costs.text_lengths import text_windows
from freelunch.costs.work import Cost
from freelunch.study.adaptations import Windowed, with_window
from freelunch.study.cell import NONE, Cell
from freelunch.study.patterns import Pattern
from freelunch.study.retraining import Retraining
from freelunch.study.steps import (
    CAPTURE_DENSE,
    CAPTURE_REFERENCE,
    DRIFT,
    EVALUATE_CELL,
    FETCH_MODEL,
    HELD_OUT,
    PERPLEXITY,
    PRUNE_MODEL,
    TASKS,
)
from freelunch.study.study import Study
from freelunch.study.windows import AUTO, KEEP_NONE, Window

# The learning rate in the name of a candidate.
_RATE = re.compile(r"\.lr.+(?=\.epochs)")


@dataclass(frozen=True)
class Plan:
    """Predicted cost of every job of a study.

    Attributes:
        study: The study.
        shapes: Sizes of each model whose shapes are known, by its name.
        device_bytes: Memory of the device that computes; None if the host's processor computes.
            What is `auto` in the study fits into it.
        device: What computes, in words.
        costs: The costs that were computed so far, by what decides them. The parts of a study may
            share them.
    """

    study: Study
    shapes: dict[str, Shapes]
    device_bytes: int | None = None
    device: str = ""
    costs: dict[tuple[PlannedJob, int], Cost | None] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def of(cls, study: Study, device_bytes: int | None = None, device: str = "") -> "Plan":
        """Look up the shapes of the study's models; `checked_plan` also checks the study.

        Raises:
            UserError: No model can have the shapes in a model's config.json.
        """
        shapes = {model: shapes_of(study, model) for model in sorted(study.models)}
        known = {model: found for model, found in shapes.items() if found}
        return cls(study, known, device_bytes, device)

    def cost(self, job: PlannedJob, groups: int = 1) -> Cost | None:
        """Return the predicted cost of a job; None if the shapes are not known yet.

        Args:
            job: The job.
            groups: How many jobs share the windows of each reconstruction whose windows are
                independent; the cost is that of the one that has most to do.
        """
        # Neither learning rates make a difference, nor seeds, except in what is measured.
        seed = job.cell.seed if job.rule == EVALUATE_CELL else 0
        alike = replace(job.cell, adaptation=_RATE.sub("", job.cell.adaptation), seed=seed)
        key = job._replace(cell=alike), groups
        if key not in self.costs:
            shapes = self.shapes.get(job.cell.model)
            self.costs[key] = None if shapes is None else self._cost(job, shapes, groups)
        return self.costs[key]

    def _cost(self, job: PlannedJob, shapes: Shapes, groups: int) -> Cost:
        study, cell, keep = self.study, job.cell, self.study.block.keep_hidden_states
        samples, length = study.calibration.samples, study.calibration_of(cell.model).length
        if job.rule == FETCH_MODEL:
            source = study.model(cell.model).source
            return passes.fetch_model(shapes, source, is_gguf(study, cell.model))
        if job.rule == CAPTURE_DENSE:
            seeds = {each.seed for each in study.cells if each.model == cell.model}
            gram = any(study.needs_gram(cell.model, seed) for seed in seeds)
            return passes.capture_dense(shapes, samples, length, gram, keep)
        if job.rule == CAPTURE_REFERENCE:
            assert study.drift is not None  # The reference exists for drift.
            return passes.capture_reference(shapes, study.drift.samples, length, keep)
        if job.rule == PRUNE_MODEL:
            criterion = study.criterion(cell.criterion)
            return pruning.prune_model(shapes, samples, length, criterion)
        if job.rule == EVALUATE_CELL:
            parts = list(self._measurements(cell, shapes))
            writes = cell.adaptation == NONE and not cell.is_dense
            return passes.evaluate_cell(shapes, parts, writes)
        settings, drawn = study.adaptation(cell.adaptation), study.samples(cell.adaptation)
        # Hidden states are on disk only for the sample of the dense pass.
        keep = keep if drawn == samples else KEEP_NONE
        if isinstance(settings, Retraining):
            streamed, _ = self.streamed(cell.model, cell.adaptation)
            return retraining.retrain(shapes, drawn, length, settings, keep, streamed)
        assert isinstance(settings, Windowed)
        window, _ = self.window(cell.model, cell.adaptation)
        assert window is not None  # The shapes are known.
        return reconstruction.reconstruct(
            shapes,
            drawn,
            length,
            with_window(settings, window),
            Pattern.parse(cell.pattern).sparsity,
            keep,
            1 if settings.is_sequential else groups,
        )

    def _measurements(self, cell: Cell, shapes: Shapes) -> Iterator[Cost]:
        """Yield the cost of each measurement of a cell on its own."""
        study, length = self.study, self.study.calibration_of(cell.model).length
        for name, settings in study.measurements(cell).items():
            if name == PERPLEXITY:
                windows = text_windows(study, cell.model).windows
                yield passes.measure_perplexity(shapes, windows, settings["length"])
            elif name == HELD_OUT:
                samples = study.block.selection.samples
                yield passes.measure_perplexity(shapes, samples, length)
            elif name == DRIFT:
                keep = study.block.keep_hidden_states
                yield passes.measure_drift(shapes, settings["samples"], length, keep)
            elif name == TASKS:
                counts = {task: each["documents"] for task, each in study.tasks["tasks"].items()}
                limit = settings["limit"] or max(counts.values())
                documents = {task: min(limit, count) for task, count in counts.items()}
                yield passes.ask_tasks(shapes, documents)

    def window(self, model: str, adaptation: str) -> tuple[Window | None, str | None]:
        """Return the window of an adaptation of a model, and the reason if its entry says `auto`.

        The window is None if its entry says `auto` and the model's shapes are not known yet.
        Snakemake asks again when the job starts. By then the model is on disk.

        Raises:
            UserError: No window fits into the memory budget.
        """
        settings, shapes = self.study.adaptation(adaptation), self._shapes_now(model)
        assert isinstance(settings, Windowed | Retraining)
        if settings.window != AUTO or shapes is None:
            return (None if settings.window == AUTO else settings.window), None
        return decide_window(shapes, *self._sample(model, adaptation), settings, self.device_bytes)

    def streamed(self, model: str, adaptation: str) -> tuple[bool, str | None]:
        """Return whether a retraining of a model is streamed, and the reason if its entry says
        `auto`.

        Raises:
            UserError: It fits into the memory budget neither way.
        """
        settings, shapes = self.study.adaptation(adaptation), self._shapes_now(model)
        assert isinstance(settings, Retraining)
        if settings.residency != AUTO or shapes is None:
            return settings.residency == "streamed", None
        sample = self._sample(model, adaptation)
        return decide_residency(shapes, *sample, settings, self.device_bytes)

    def _shapes_now(self, model: str) -> Shapes | None:
        """Return the shapes of a model, which may have been fetched since the plan was made."""
        return self.shapes.get(model) or shapes_of(self.study, model)

    def _sample(self, model: str, adaptation: str) -> tuple[int, int]:
        return self.study.samples(adaptation), self.study.calibration_of(model).length
