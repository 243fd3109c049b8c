"""The plan: the jobs that a study will run and their predicted cost, from the config alone.

Shapes come from the model's own config.json if it is on disk, and otherwise from `architecture` in
the study's config. No tensor library is imported.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from freelunch.core.errors import UserError
from freelunch.costs import passes, reconstruction, retraining
from freelunch.costs.adapters import trained_matrices
from freelunch.costs.passes import Cost
from freelunch.costs.reconstruction import decide_window
from freelunch.costs.retraining import decide_residency
from freelunch.costs.shapes import DTYPE_BYTES, Shapes
from freelunch.study import boundaries
from freelunch.study.adaptations import Training, Windowed, with_window
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.criteria import Criterion, OfUnits
from freelunch.study.families import FAMILIES, biases_of, halves_of, units_of
from freelunch.study.gguf import gguf_of
from freelunch.study.measurements import measurements
from freelunch.study.methods import BRANCHES, LOW_RANK, Trained
from freelunch.study.paths import Paths
from freelunch.study.pattern_checks import nothing_of
from freelunch.study.patterns import Pattern
from freelunch.study.retraining import Retraining
from freelunch.study.search import adaptation_of
from freelunch.study.sources import NO_GRADIENTS, TRAINED, UNTRAINED, LocalModel, WheelModel
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
from freelunch.study.unsupported import check_supported
from freelunch.study.windows import AUTO, HALVES, MODEL, Window, blocks_in

# Rate of passes through blocks, as a share of a large matrix multiplication's rate (measured on two
# cores with SmolLM2-135M: forward 0.65, training 0.70).
EFFICIENCY = 0.65
# Seconds that a job needs to start: a Python process, torch, transformers.
START_S = 4.0
# mem_mb of a job is its predicted peak memory times this.
MEMORY_MARGIN = 1.15
# Rules whose jobs compute, in the order of the data.
RULES = (
    FETCH_MODEL,
    CAPTURE_DENSE,
    CAPTURE_REFERENCE,
    PRUNE_MODEL,
    RECONSTRUCT_WINDOW,
    RETRAIN_MODEL,
    EVALUATE_CELL,
)


class Job(NamedTuple):
    """A job that computes, identified by what decides its cost: its rule and its cell."""

    rule: str
    model: str
    criterion: str = DENSE
    adaptation: str = NONE
    pattern: str = "u50"
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """Predicted cost of every step of a study.

    Attributes:
        study: The study.
        shapes: Sizes of each model whose shapes are known, by its name.
    """

    study: Study
    shapes: dict[str, Shapes]

    @classmethod
    def of(cls, study: Study) -> "Plan":
        """Look up the shapes of the study's models.

        Raises:
            UserError: A model is of a kind that is not supported, or cannot be pruned as a cell
                requires, e.g. a pattern does not divide the width of a matrix.
        """
        models = sorted({cell.model for cell in study.cells})
        for model in models:
            check_supported(_config(study, model), f"models.{model}")
        found = {model: _shapes(study, model) for model in models}
        plan = cls(study, {model: shapes for model, shapes in found.items() if shapes})
        plan._check_cells()
        return plan

    def step(
        self,
        rule: str,
        model: str,
        criterion: str = DENSE,
        adaptation: str = NONE,
        pattern: str = "u50",
        seed: int = 0,
    ) -> Cost | None:
        """Return the predicted cost of one job of a rule; None if the shapes are not known yet."""
        shapes = self.shapes.get(model)
        if shapes is None:
            return None
        length = self.study.calibration.length
        sample = self.study.calibration.samples, length
        keep = self.study.block.keep_hidden_states
        if rule == FETCH_MODEL:
            return passes.fetch_model(shapes, _is_gguf(self.study, model))
        if rule == CAPTURE_DENSE:
            seeds = {cell.seed for cell in self.study.cells if cell.model == model}
            gram = any(self.study.needs_gram(model, seed) for seed in seeds)
            return passes.capture_dense(shapes, *sample, gram, keep)
        if rule == CAPTURE_REFERENCE:
            assert self.study.drift is not None  # The reference exists for drift.
            return passes.capture_reference(shapes, self.study.drift.samples, length, keep)
        if rule == PRUNE_MODEL:
            return passes.prune_model(shapes, *sample, self.study.criterion(criterion))
        if rule in (RECONSTRUCT_WINDOW, RETRAIN_MODEL):
            settings, samples = self.study.adaptation(adaptation), self.study.samples(adaptation)
            # Hidden states are on disk only for the sample of the dense pass.
            keep = keep if samples == sample[0] else boundaries.NONE
            if isinstance(settings, Retraining):
                streamed = self.streamed(model, adaptation)[0]
                return retraining.retrain(shapes, samples, length, settings, keep, streamed)
            assert isinstance(settings, Windowed)
            decided = with_window(settings, self.window(model, adaptation)[0])
            sparsity = Pattern.parse(pattern).sparsity
            return reconstruction.reconstruct(shapes, samples, length, decided, sparsity, keep)
        if rule == EVALUATE_CELL:
            cell = Cell(model, criterion, pattern, adaptation, seed)
            if criterion == DENSE:
                cell = Cell.dense(model)
            writes = adaptation == NONE and not cell.is_dense
            return passes.evaluate_cell(shapes, self._measurements(shapes, cell), writes)
        raise ValueError(f"no cost is known for rule {rule!r}")

    def _measurements(self, shapes: Shapes, cell: Cell) -> list[Cost]:
        """Return the cost of each measurement of a cell on its own."""
        length = self.study.calibration.length
        found = []
        for name, settings in measurements(self.study, cell).items():
            if name == PERPLEXITY:
                # The length of the whole text is not known yet: assume a million tokens.
                stride = settings["stride"] or settings["length"]
                windows = settings["windows"] or max(2, 1_000_000 // stride)
                found.append(passes.measure_perplexity(shapes, windows, settings["length"]))
            elif name == HELD_OUT:
                samples = self.study.block.selection.samples
                found.append(passes.measure_perplexity(shapes, samples, length))
            elif name == DRIFT:
                keep = self.study.block.keep_hidden_states
                found.append(passes.measure_drift(shapes, settings["samples"], length, keep))
            elif name == TASKS:
                entries = self.study.tasks["tasks"]
                counts = {task: entry["documents"] for task, entry in entries.items()}
                limit = settings["limit"] or max(counts.values())
                asked = {task: min(limit, count) for task, count in counts.items()}
                found.append(passes.ask_tasks(shapes, asked))
        return found

    def window(self, model: str, adaptation: str) -> tuple[Window, str | None]:
        """Return the window of an adaptation of a model, and the reason if the entry says `auto`.

        Raises:
            UserError: No window fits into the memory budget.
        """
        settings = self.study.adaptation(adaptation)
        assert isinstance(settings, Windowed | Retraining)
        length = self.study.calibration.length
        return decide_window(self.shapes[model], self.study.samples(adaptation), length, settings)

    def streamed(self, model: str, adaptation: str) -> tuple[bool, str | None]:
        """Return whether a retraining of a model is streamed, and the reason if the entry says
        `auto`.

        Raises:
            UserError: It fits into the memory budget neither way.
        """
        settings = self.study.adaptation(adaptation)
        assert isinstance(settings, Retraining)
        shapes = self.shapes.get(model) or _shapes(self.study, model)
        if shapes is None:
            return settings.residency == "streamed", None
        length = self.study.calibration.length
        return decide_residency(shapes, self.study.samples(adaptation), length, settings)

    def decided(self, model: str, adaptation: str) -> Window | None:
        """Return the window of an adaptation of a model; None if its entry says `auto` and the
        model's shapes are not known yet.

        Snakemake asks again when the job starts. By then the model is on disk.
        """
        settings = self.study.adaptation(adaptation)
        assert isinstance(settings, Windowed)
        if settings.window != AUTO:
            return settings.window
        shapes = _shapes(self.study, model)
        if shapes is None:
            return None
        length = self.study.calibration.length
        return decide_window(shapes, self.study.samples(adaptation), length, settings)[0]

    def mem_mb(self, *job: Any, **names: Any) -> int:
        """Return the memory that a job requests, in MB; 4000 if the shapes are not known.

        Args:
            job: Positional arguments of `step`.
            names: Keyword arguments of `step`.
        """
        predicted = self.step(*job, **names)
        return 4000 if predicted is None else int(predicted.memory_bytes * MEMORY_MARGIN / 1e6)

    @staticmethod
    def evaluation(cell: Cell) -> Job:
        """Return the job that evaluates a cell or a candidate."""
        return Job(
            EVALUATE_CELL, cell.model, cell.criterion, cell.adaptation, cell.pattern, cell.seed
        )

    def jobs(self) -> list[Job]:
        """Return every job that computes."""
        jobs: dict[tuple[object, ...], Job] = {}
        for cell in self.study.cells:
            model, criterion, pattern, seed = cell.model, cell.criterion, cell.pattern, cell.seed
            jobs[FETCH_MODEL, model] = Job(FETCH_MODEL, model)
            if not cell.is_dense:
                jobs[CAPTURE_DENSE, model, seed] = Job(CAPTURE_DENSE, model)
                pruning = PRUNE_MODEL, model, cell.pruning, seed
                jobs[pruning] = Job(PRUNE_MODEL, model, criterion, NONE, pattern)
            if self.study.measures_drift(cell):
                jobs[CAPTURE_REFERENCE, model, seed] = Job(CAPTURE_REFERENCE, model)
            candidates = self.study.candidates(cell)
            settings = self.study.adaptation(cell.adaptation)
            if settings is not None:
                rule = settings.rule
                for each in candidates or [cell]:
                    jobs[rule, each] = Job(rule, model, criterion, each.adaptation, pattern)
            for each in [*candidates, cell]:
                jobs[EVALUATE_CELL, each] = self.evaluation(each)
        return list(jobs.values())

    def _check_cells(self) -> None:
        """Refuse cells that do not fit their model, if its shapes are known."""
        problems = {
            f"  {cell.model}/{cell.pruning}: {problem}"
            for cell in self.study.cells
            if not cell.is_dense and cell.model in self.shapes
            for problem in self._problems(cell)
        }
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            raise UserError(
                f"{count} in the grids\n" + "\n".join(sorted(problems)), where=self.study.source
            )

    def _problems(self, cell: Cell) -> Iterator[str]:
        shapes, pattern = self.shapes[cell.model], Pattern.parse(cell.pattern)
        criterion = self.study.criterion(cell.criterion)
        for width in dict.fromkeys(shapes.inputs):
            if not pattern.divides(width):
                yield f"a linear layer has {width} inputs; expected a multiple of {pattern.group}"
        yield from filter(None, _shares_of_nothing(shapes, pattern, criterion))
        settings = self.study.adaptation(cell.adaptation)
        if settings is not None:
            yield from self._window_problems(cell, shapes)
        if isinstance(settings, Training):
            trained = settings.trained
            if _dtype(self.study, cell.model) == UNTRAINED:
                yield (
                    f"models.{cell.model}.dtype: the checkpoint's own is {UNTRAINED}, but "
                    f"{NO_GRADIENTS}; expected {TRAINED}"
                )
            yield from _unnamed(cell.adaptation, trained, shapes)
            matrices = trained_matrices(shapes, trained) or shapes.matrices
            smallest = min(min(of.inputs, of.outputs) for of in matrices)
            if trained.weights in LOW_RANK and trained.rank > smallest:
                yield (
                    f"adaptations.{cell.adaptation}.rank: found {trained.rank}; expected at most "
                    f"{smallest}, the smaller dimension of a matrix of this model"
                )
            if trained.head and trained.weights in BRANCHES and shapes.tied:
                yield (
                    f"adaptations.{cell.adaptation}.train_head: the head of this model shares the "
                    f"embedding's weights, so {trained.weights} cannot be merged; expected false"
                )
        if not shapes.model_type:
            # The family is not known yet: pruning checks it.
            return
        try:
            if pattern.structured:
                units_of(shapes.model_type)
            if isinstance(criterion, OfUnits) and criterion.bias_compensation:
                biases_of(shapes.model_type)
        except UserError as error:
            yield str(error)

    def _window_problems(self, cell: Cell, shapes: Shapes) -> Iterator[str]:
        """Yield why a model does not have the window that an adaptation asks for."""
        try:
            window = self.window(cell.model, cell.adaptation)[0]
            if window == MODEL:
                self.streamed(cell.model, cell.adaptation)
            else:
                blocks_in(window, shapes.blocks)
            if window == HALVES and shapes.model_type:
                halves_of(shapes.model_type, shapes.whole)
        except UserError as error:
            yield f"adaptations.{cell.adaptation}: {error}"

    def text(self, flops_per_s: float | None = None) -> str:
        """Return the plan as a few lines for the terminal.

        Args:
            flops_per_s: Rate of the machine that will run the study, in operations per second; None
                to measure the rate of this machine.
        """
        cells = self.study.cells
        lines = [f"The study `{self.study.name}` ({self.study.source}): {len(cells)} cells"]
        lines += [f"  {cell}" for cell in cells[:12]]
        lines += [f"  ... and {len(cells) - 12} more"] if len(cells) > 12 else []
        unknown = sorted({cell.model for cell in cells} - self.shapes.keys())
        if unknown:
            lines.append(
                f"  Cost is unknown until the model is fetched: {', '.join(unknown)} (give its "
                "`architecture` to see the cost now)"
            )
        jobs = [job for job in self.jobs() if job.model in self.shapes]
        if jobs:
            lines += self._costs(jobs, flops_per_s)
        return "\n".join(lines)

    def _costs(self, jobs: list[Job], flops_per_s: float | None) -> list[str]:
        rate = flops_per_s or matmul_rate()
        rows = [["step", "jobs", "TFLOP", "memory", "disk"]]
        total = Cost(memory_bytes=0)
        for rule in sorted({job.rule for job in jobs}, key=RULES.index):
            costs = [self.step(*job) or Cost() for job in jobs if job.rule == rule]
            one = _together(costs)
            rows.append([rule, f"{len(costs):,}", *_amounts(one), _gigabytes(one.disk_bytes)])
            total = _together([total, one])
        rows.append(["total", f"{len(jobs):,}", *_amounts(total), _gigabytes(total.disk_bytes)])
        seconds = total.flops / (rate * EFFICIENCY) + START_S * len(jobs)
        speed = f"{rate / 1e9:,.0f} GFLOP/s" if rate < 1e12 else f"{rate / 1e12:,.0f} TFLOP/s"
        speed += (
            " as given" if flops_per_s else ", the rate of a matrix product on this machine now"
        )
        share = f"{EFFICIENCY:.0%}".replace("%", " %")
        return [
            "",
            *_aligned(rows, names=1),
            *self._windows(jobs),
            "",
            f"  About {_duration(seconds)} from scratch, at {share} of {speed}.",
            "  The time does not include downloads, reading or writing. Memory is the peak of one",
            "  job, on the device that computes. Disk is what remains at the end.",
        ]

    def _windows(self, jobs: list[Job]) -> list[str]:
        """Return a line for each adaptation of a model."""
        found: dict[tuple[str, str], Job] = {}
        for job in jobs:
            if job.rule in (RECONSTRUCT_WINDOW, RETRAIN_MODEL):
                found.setdefault((job.model, adaptation_of(job.adaptation)), job)
        if not found:
            return []
        rows = [["model", "adaptation", "window", "TFLOP", "memory"]]
        reasons = [""]
        for (model, adaptation), job in sorted(found.items()):
            window, why = self.window(model, adaptation)
            if isinstance(self.study.adaptation(adaptation), Retraining):
                why = self.streamed(model, adaptation)[1]
            rows.append([model, adaptation, str(window), *_amounts(self.step(*job) or Cost())])
            reasons.append(f"  {why}" if why else "")
        lines = [line + why for line, why in zip(_aligned(rows, names=2), reasons, strict=True)]
        return ["", *lines]


def _together(costs: Sequence[Cost]) -> Cost:
    """Return the cost of several jobs together; memory is that of the largest."""
    return Cost(
        sum(each.flops for each in costs),
        max(each.memory_bytes for each in costs),
        sum(each.disk_bytes for each in costs),
    )


def _amounts(one: Cost) -> list[str]:
    return [f"{one.flops / 1e12:,.1f}", _gigabytes(one.memory_bytes)]


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"


def _aligned(rows: Sequence[Sequence[str]], names: int) -> list[str]:
    """Return rows as aligned lines: the first `names` columns left, the rest right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            f"{cell:<{width}}" if at < names else f"{cell:>{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _shares_of_nothing(
    shapes: Shapes, pattern: Pattern, criterion: Criterion
) -> Iterator[str | None]:
    """Yield, for each set within which a criterion compares, what is wrong if none is pruned."""
    if criterion.scope == "row" and pattern.group is None:
        for width in dict.fromkeys(shapes.inputs):
            yield nothing_of(pattern, width, "weights of a row", "scope: matrix")
    if isinstance(criterion, OfUnits) and criterion.scope == "block":
        other = ["scope: model"] if criterion.statistics == "dense" else []
        yield nothing_of(pattern, shapes.intermediate, "channels of a block", *other)
        if criterion.attention_unit == "head":
            yield nothing_of(pattern, shapes.heads, "heads of a block", *other)
            return
        if pattern.zeros_in_group(shapes.heads):
            other = ["attention_unit: head", *other]
        yield nothing_of(pattern, shapes.key_heads, "key heads of a block", *other)


@cache
def matmul_rate() -> float:
    """Measure a float32 matrix product on this machine; return operations per second."""
    import numpy as np

    matrix = np.ones((1024, 1024), dtype=np.float32)
    matrix @ matrix
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        matrix @ matrix
        best = max(best, 2 * 1024**3 / (time.perf_counter() - start))
    return best


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    if seconds < 72 * 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 86400:,.0f} days"


def _shapes(study: Study, model: str) -> Shapes | None:
    entry, dtype = study.model(model), _dtype(study, model)
    for place in _configs(study, model):
        if found := _read_shapes(place, dtype):
            return found
    if entry.architecture is None:
        return None
    return Shapes.of(entry.architecture.as_json(), dtype)


def _config(study: Study, model: str) -> Mapping[str, Any]:
    """Return what is known of a model's config; empty if nothing is."""
    for place in _configs(study, model):
        with suppress(ValueError):
            config = json.loads(place.read_text())
            if isinstance(config, dict):
                return config
    architecture = study.model(model).architecture
    return {} if architecture is None else architecture.as_json()


def _is_gguf(study: Study, model: str) -> bool:
    """Return whether a model is a GGUF file."""
    entry = study.model(model)
    if isinstance(entry, LocalModel):
        return gguf_of(Path(entry.path), f"models.{model}.path") is not None
    return isinstance(entry, WheelModel)


def _configs(study: Study, model: str) -> list[Path]:
    """Return the paths of a model's own config.json that exist."""
    entry, places = study.model(model), [Paths.model(model) / "config.json"]
    # What lies beside a GGUF file is not used.
    if isinstance(entry, LocalModel) and not _is_gguf(study, model):
        places.insert(0, Path(entry.path) / "config.json")
    return [place for place in places if place.is_file()]


def _dtype(study: Study, model: str) -> str:
    """Return the dtype in which a model is stored: the entry's, or else the checkpoint's own.

    A GGUF file is dequantised to float32. Other models that are not on disk yet are assumed to be
    bfloat16, as today's checkpoints are.
    """
    entry = study.model(model)
    if entry.dtype is not None:
        return entry.dtype
    if _is_gguf(study, model):
        return "float32"
    for place in _configs(study, model):
        with suppress(ValueError, AttributeError, TypeError):
            config = json.loads(place.read_text())
            # transformers wrote `torch_dtype` before version 5.
            found = config.get("dtype") or config.get("torch_dtype")
            # Fetching refuses any other dtype.
            if found in DTYPE_BYTES:
                return str(found)
    return "bfloat16"


def _read_shapes(config_json: Path, dtype: str) -> Shapes | None:
    """Return the shapes in a model's config; None if it is damaged or leaves them to defaults.

    Fetching the model then says what is wrong, or writes a complete config.
    """
    try:
        return Shapes.read(config_json, dtype)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _unnamed(adaptation: str, trained: Trained, shapes: Shapes) -> Iterator[str]:
    """Yield each of an adaptation's `linears` that names no linear layer of a known family."""
    family = FAMILIES.get(shapes.model_type)
    for end, expected in trained.unknown(family.linears) if family else ():
        yield (
            f"adaptations.{adaptation}.linears: {end!r} names no linear layer of this model; "
            f"expected {expected}"
        )
