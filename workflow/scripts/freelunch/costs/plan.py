"""The plan: the predicted cost of the jobs that a study will run, from the config alone.

No tensor library is imported. `plan_text` shows a plan at the terminal.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

from freelunch.costs import evaluation, passes, pruning, reconstruction, retraining
from freelunch.costs.cell_checks import check_cells
from freelunch.costs.fits import decide_residency, decide_window
from freelunch.costs.model_shapes import config_of, is_gguf, shapes_of
from freelunch.costs.plausible import check_plausible
from freelunch.costs.shapes import Shapes
from freelunch.costs.text_lengths import text_windows
from freelunch.costs.work import Cost
from freelunch.study.adaptations import Windowed, with_window
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.model_limits import check_supported
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
    RECONSTRUCT_WINDOW,
    RETRAIN_MODEL,
    TASKS,
)
from freelunch.study.study import Study
from freelunch.study.windows import AUTO, KEEP_NONE, Window


@dataclass(frozen=True)
class Plan:
    """Predicted cost of every step of a study.

    Attributes:
        study: The study.
        shapes: Sizes of each model whose shapes are known, by its name.
        device_bytes: Memory of the device that computes; None if the host's processor computes.
            What is `auto` in the study fits into it.
        device: What computes, in words.
        costs: The costs that were computed so far. The parts of a study may share them.
    """

    study: Study
    shapes: dict[str, Shapes]
    device_bytes: int | None = None
    device: str = ""
    costs: dict[tuple[str | int, ...], Cost | None] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def of(cls, study: Study, device_bytes: int | None = None, device: str = "") -> "Plan":
        """Look up the shapes of the study's models.

        Raises:
            UserError: A model is of a kind that is not supported, or cannot be pruned as a cell
                requires, e.g. a pattern does not divide the width of a matrix; or a number is
                beyond what a model, a text or time can hold.
        """
        models = sorted(study.models)
        for model in models:
            check_supported(config_of(study, model), f"models.{model}")
        found = {model: shapes_of(study, model) for model in models}
        known = {model: shapes for model, shapes in found.items() if shapes}
        plan = cls(study, known, device_bytes, device)
        check_cells(plan)
        check_plausible(plan)
        return plan

    def on_device(self, device_bytes: int) -> "Plan":
        """Return the plan of the same study for a device with this memory."""
        return replace(self, device_bytes=device_bytes, costs={})

    def step(
        self,
        rule: str,
        model: str,
        criterion: str = DENSE,
        adaptation: str = NONE,
        pattern: str = "u50",
        seed: int = 0,
        groups: int = 1,
    ) -> Cost | None:
        """Return the predicted cost of one job of a rule; None if the shapes are not known yet.

        Args:
            rule, model, criterion, adaptation, pattern, seed: What identifies a `Job`.
            groups: How many jobs share the windows of each reconstruction whose windows are
                independent; the cost is that of the one that has most to do.
        """
        alike = self._first_alike.get(adaptation, adaptation)
        job = rule, model, criterion, alike, pattern, seed, groups
        if job not in self.costs:
            self.costs[job] = self._step(*job)
        return self.costs[job]

    @cached_property
    def _first_alike(self) -> dict[str, str]:
        """The first candidate that costs as much, by the name of each candidate: learning rates
        make no difference.
        """
        found = {}
        for adaptation in dict.fromkeys(cell.adaptation for cell in self.study.cells):
            first: dict[str, str] = {}
            for name in self.study.candidate_names(adaptation):
                epochs = name.rpartition(".")[2]
                found[name] = first.setdefault(epochs, name)
        return found

    def _step(
        self,
        rule: str,
        model: str,
        criterion: str,
        adaptation: str,
        pattern: str,
        seed: int,
        groups: int,
    ) -> Cost | None:
        shapes = self.shapes.get(model)
        if shapes is None:
            return None
        length = self.study.calibration_of(model).length
        sample = self.study.calibration.samples, length
        keep = self.study.block.keep_hidden_states
        if rule == FETCH_MODEL:
            return passes.fetch_model(
                shapes, self.study.model(model).source, is_gguf(self.study, model)
            )
        if rule == CAPTURE_DENSE:
            seeds = {cell.seed for cell in self.study.cells if cell.model == model}
            gram = any(self.study.needs_gram(model, seed) for seed in seeds)
            return passes.capture_dense(shapes, *sample, gram, keep)
        if rule == CAPTURE_REFERENCE:
            assert self.study.drift is not None  # The reference exists for drift.
            return passes.capture_reference(shapes, self.study.drift.samples, length, keep)
        if rule == PRUNE_MODEL:
            return pruning.prune_model(shapes, *sample, self.study.criterion(criterion))
        if rule in (RECONSTRUCT_WINDOW, RETRAIN_MODEL):
            settings, samples = self.study.adaptation(adaptation), self.study.samples(adaptation)
            # Hidden states are on disk only for the sample of the dense pass.
            keep = keep if samples == sample[0] else KEEP_NONE
            if isinstance(settings, Retraining):
                streamed = self.streamed(model, adaptation)[0]
                return retraining.retrain(shapes, samples, length, settings, keep, streamed)
            assert isinstance(settings, Windowed)
            decided = with_window(settings, self.window(model, adaptation)[0])
            sparsity = Pattern.parse(pattern).sparsity
            groups = 1 if settings.is_sequential else groups
            return reconstruction.reconstruct(
                shapes, samples, length, decided, sparsity, keep, groups
            )
        if rule == EVALUATE_CELL:
            cell = Cell(model, criterion, pattern, adaptation, seed)
            if criterion == DENSE:
                cell = Cell.dense(model)
            writes = adaptation == NONE and not cell.is_dense
            return evaluation.evaluate_cell(shapes, self._measurements(shapes, cell), writes)
        raise ValueError(f"no cost is known for rule {rule!r}")

    def _measurements(self, shapes: Shapes, cell: Cell) -> list[Cost]:
        """Return the cost of each measurement of a cell on its own."""
        length = self.study.calibration_of(cell.model).length
        found = []
        for name, settings in self.study.measurements(cell).items():
            if name == PERPLEXITY:
                windows = text_windows(self.study, cell.model).windows
                found.append(evaluation.measure_perplexity(shapes, windows, settings["length"]))
            elif name == HELD_OUT:
                samples = self.study.block.selection.samples
                found.append(evaluation.measure_perplexity(shapes, samples, length))
            elif name == DRIFT:
                keep = self.study.block.keep_hidden_states
                found.append(evaluation.measure_drift(shapes, settings["samples"], length, keep))
            elif name == TASKS:
                entries = self.study.tasks["tasks"]
                counts = {task: entry["documents"] for task, entry in entries.items()}
                limit = settings["limit"] or max(counts.values())
                asked = {task: min(limit, count) for task, count in counts.items()}
                found.append(evaluation.ask_tasks(shapes, asked))
        return found

    def window(self, model: str, adaptation: str) -> tuple[Window, str | None]:
        """Return the window of an adaptation of a model, and the reason if the entry says `auto`.

        Raises:
            UserError: No window fits into the memory budget.
        """
        settings = self.study.adaptation(adaptation)
        assert isinstance(settings, Windowed | Retraining)
        sample = self.study.samples(adaptation), self.study.calibration_of(model).length
        return decide_window(self.shapes[model], *sample, settings, self.device_bytes)

    def streamed(self, model: str, adaptation: str) -> tuple[bool, str | None]:
        """Return whether a retraining of a model is streamed, and the reason if the entry says
        `auto`.

        Raises:
            UserError: It fits into the memory budget neither way.
        """
        settings = self.study.adaptation(adaptation)
        assert isinstance(settings, Retraining)
        shapes = self.shapes.get(model) or shapes_of(self.study, model)
        if shapes is None:
            return settings.residency == "streamed", None
        sample = self.study.samples(adaptation), self.study.calibration_of(model).length
        return decide_residency(shapes, *sample, settings, self.device_bytes)

    def decided(self, model: str, adaptation: str) -> Window | None:
        """Return the window of an adaptation of a model; None if its entry says `auto` and the
        model's shapes are not known yet.

        Snakemake asks again when the job starts. By then the model is on disk.
        """
        settings = self.study.adaptation(adaptation)
        assert isinstance(settings, Windowed)
        if settings.window != AUTO:
            return settings.window
        shapes = shapes_of(self.study, model)
        if shapes is None:
            return None
        sample = self.study.samples(adaptation), self.study.calibration_of(model).length
        return decide_window(shapes, *sample, settings, self.device_bytes)[0]
