"""A study: a checked config, its cells, and the spec of each, which decides the cell's numbers."""

import json
import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from freelunch.study.adaptations import Adaptation, Training
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.checks import contradictions
from freelunch.study.comparisons import Comparisons
from freelunch.study.config import (
    PART,
    REGISTRIES,
    Calibration,
    Config,
    DriftSettings,
    Part,
    PerplexitySettings,
    StudyBlock,
    cells_of,
    grids_in,
    part_words,
    resolve_budgets,
)
from freelunch.study.criteria import Criterion
from freelunch.study.paths import Paths, facts_at
from freelunch.study.registry import read_config, refusal
from freelunch.study.search import adaptation_of, candidates_of, compared_by, is_searched
from freelunch.study.settings import Settings
from freelunch.study.source_files import files_at
from freelunch.study.sources import AnyText, Mixture, Model
from freelunch.study.steps import DRIFT, HELD_OUT, IDENTITY, PERPLEXITY, TASKS
from freelunch.study.yaml_file import read_yaml


@dataclass(frozen=True)
class Study:
    """A valid config.

    Attributes:
        config: The registries and the `study` block; of a base, only the entries that it takes.
        source: File that the config came from, for messages.
        finished: The cells to which an unfinished study is restricted; None for all.
    """

    config: Config
    source: str
    finished: frozenset[Cell] | None = None

    @classmethod
    def load(cls, path: Path, root: Path = Path(), part: Part | None = None) -> "Study":
        """Read and check a config file, whose path is relative to `root`. A part takes the place of
        the file's own.
        """
        content = read_yaml(root / path)
        if (
            part is not None
            and isinstance(content, dict)
            and isinstance(content.get("study"), dict)
        ):
            content = {**content, "study": {**content["study"], PART: part.as_json()}}
        return cls.check(content, str(path), root)

    @classmethod
    def check(cls, content: object, source: str, root: Path = Path()) -> "Study":
        """Check the content of a study's file: first each value by itself, then which values do not
        go together. The file's name, relative to `root`, leads to its base. UserError lists every
        problem with its key.
        """
        known, config = read_config(content, root / source, source)
        if problems := contradictions(config, known):
            raise refusal(problems, source)
        return cls(config, source)

    def as_json(self, licences: bool = True) -> dict[str, Any]:
        """Return the complete config as JSON data: with defaults, and without a base.

        Snakemake compares settings by their printed form, so the keys of each entry are in a fixed
        order. The entries keep the study's order, which tables and figures follow. Only the audit
        shows licences.
        """
        written: dict[str, Any] = {}
        for registry in REGISTRIES:
            entries = getattr(self.config, registry).items()
            written[registry] = {name: entry.as_json() for name, entry in entries}
            for entry in written[registry].values() if not licences else ():
                entry.pop("licence", None)
                entry.pop("terms", None)
        return {**written, "study": self.block.as_json()}

    @property
    def part_words(self) -> str:
        """The part that is run as `make` takes it, after a space; empty for the whole study."""
        return part_words(self.block.part)

    def command(self, target: str = "study") -> str:
        """Return the command that makes a target of the study, or of the part of it that is run; by
        default, the one that runs it.
        """
        return f"make {target} STUDY={shlex.quote(self.source)}{self.part_words}"

    # --- The `study` block, and what it names

    @property
    def block(self) -> StudyBlock:
        return self.config.study

    @property
    def name(self) -> str:
        return self.block.name

    @property
    def paths(self) -> Paths:
        return Paths(self.name)

    @property
    def calibration(self) -> Calibration:
        return self.block.calibration

    @property
    def perplexity(self) -> PerplexitySettings:
        return self.block.evaluation.perplexity

    @property
    def drift(self) -> DriftSettings | None:
        return self.block.evaluation.drift

    # --- Cells

    @cached_property
    def cells(self) -> list[Cell]:
        """The cells that are run, those of `study.part`: first each model's dense cell, then the
        others in the order of the grids. Of an unfinished study, only those that have finished.
        """
        return [cell for cell in self.asked if self.finished is None or cell in self.finished]

    @property
    def asked(self) -> list[Cell]:
        """The cells that are run, whether or not they have finished."""
        return cells_of(grids_in(self.block.grids, self.block.part))

    @property
    def is_unfinished(self) -> bool:
        """Whether it is restricted to the cells that have finished, and others have not."""
        return self.finished is not None and len(self.cells) < len(self.asked)

    def of_part(self, part: Part | None) -> "Study":
        """Return this study with another part of its grids to run; None for all of them."""
        block = self.block.model_copy(update={"part": part})
        return replace(self, config=self.config.model_copy(update={"study": block}))

    @property
    def models(self) -> list[str]:
        """The names of the models of its cells, in the order of the cells."""
        return list(dict.fromkeys(cell.model for cell in self.cells))

    # --- Entries

    def model(self, name: str) -> Model:
        """Return an entry of `models`."""
        return self.config.models[name]

    def text(self, name: str) -> AnyText:
        """Return an entry of `texts`."""
        return self.config.texts[name]

    def criterion(self, name: str) -> Criterion:
        """Return an entry of `criteria`."""
        return self.config.criteria[name]

    def source_files(self, registry: str, name: str) -> list[str]:
        """Return the user's own files that an entry of a registry points to, which are inputs of
        the workflow: a change to one reruns everything that depends on it.
        """
        entry = getattr(self.config, registry)[name]
        return files_at(entry.path) if hasattr(entry, "path") else []

    def fetched(self, registry: str, name: str) -> Path | None:
        """Return the folder of a model, a text, a mixture or a task; None if it, or what its entry
        now names, is not fetched. Two studies may give one name to different things; the folder
        then holds what the last one fetched.
        """
        folders = {"models": Paths.model, "texts": Paths.text, "tasks": Paths.task}
        folder, entry = folders[registry](name), getattr(self.config, registry)[name]
        settings = self.text_settings(name) if registry == "texts" else entry.deciding()
        return folder if facts_at(folder).get("settings") == settings else None

    def needs_gram(self, model: str, seed: int) -> bool:
        """Return whether any cell with this model and seed needs Gram matrices of dense inputs."""
        # Those of all parts: a part that is run first makes what the others need.
        grids = [grid for grid in self.block.grids if model in grid.models and seed in grid.seeds]
        names = {name for grid in grids for name in grid.criteria} - {DENSE}
        used = map(self.criterion, names)
        return any(entry.needs_gram for entry in used if entry.statistics == "dense")

    def needs_dense_pass(self, cell: Cell) -> bool:
        """Return whether a pruned cell's masks or adaptation read what the dense pass left. Masks
        from sparse statistics do not; nor does an adaptation on more than the calibration sample.
        """
        if not cell.is_pruned or self.criterion(cell.criterion).statistics == "dense":
            return cell.is_pruned
        settings, drawn = self.adaptation(cell.adaptation), self.samples(cell.adaptation)
        on_sample = drawn == self.calibration.samples
        return settings is not None and settings.reads_dense_states and on_sample

    # --- Text and lengths

    @property
    def mixture(self) -> Mixture | None:
        """The mixture that the study calibrates on; None if it calibrates on a single text."""
        entry = self.text(self.calibration.text)
        return entry if isinstance(entry, Mixture) else None

    @property
    def texts(self) -> list[str]:
        """The names of the texts that it reads: the parts of a mixture instead of itself."""
        sampled = self.mixture.parts if self.mixture else [self.calibration.text]
        return list(dict.fromkeys([*sampled, self.perplexity.text]))

    def text_settings(self, name: str) -> dict[str, Any]:
        """Return what decides a number of a text, and of the parts of a mixture, as JSON."""
        entry = self.text(name)
        settings = entry.deciding()
        if isinstance(entry, Mixture):
            settings["parts"] = {
                part: {"share": share, **self.text(part).deciding()}
                for part, share in settings["parts"].items()
            }
        return settings

    def calibration_of(self, model: str) -> Calibration:
        """Return the settings of a model's calibration sample, which `max_length` may shorten."""
        settings = self.calibration
        return settings.model_copy(update={"length": self._at_most(model, settings.length)})

    def perplexity_of(self, model: str) -> PerplexitySettings:
        """Return the settings of a model's perplexity, which `max_length` may shorten."""
        settings = self.perplexity
        length = self._at_most(model, settings.length)
        stride = None if settings.stride is None else min(settings.stride, length)
        return settings.model_copy(update={"length": length, "stride": stride})

    def _at_most(self, model: str, length: int) -> int:
        return min(length, self.model(model).max_length or length)

    @property
    def sequence_text(self) -> str:
        """How many tokens a calibration sequence has, in words."""
        return self._in_words(self.calibration.length)

    @property
    def window_text(self) -> str:
        """How many tokens a window of the evaluation text has, in words."""
        return self._in_words(self.perplexity.length)

    def _in_words(self, length: int) -> str:
        lengths = {self._at_most(model, length) for model in self.models}
        return " or ".join(f"{each:,}" for each in sorted(lengths))

    # --- Adaptations and how much text they see

    @cached_property
    def resolved(self) -> dict[str, Adaptation]:
        """The settings of each adaptation and of each of its candidates, as they are run."""
        return resolve_budgets(self.config)

    def adaptation(self, name: str) -> Adaptation | None:
        """Return the settings of an adaptation or a candidate as it is run; None for `none`."""
        return None if name == NONE else self.resolved[name]

    def candidate_names(self, adaptation: str) -> list[str]:
        """Return the names of an adaptation's candidates; empty if it lists no alternatives."""
        return self._candidate_names.get(adaptation, [])

    @cached_property
    def _candidate_names(self) -> dict[str, list[str]]:
        # A study of a thousand cells asks for each adaptation ten thousand times.
        entries = self.config.adaptations.items()
        return {name: list(candidates_of(name, entry)) for name, entry in entries}

    def candidates(self, cell: Cell) -> list[Cell]:
        """Return a cell's candidates, as cells."""
        return [replace(cell, adaptation=name) for name in self.candidate_names(cell.adaptation)]

    def samples(self, adaptation: str) -> int:
        """Return how many sequences the sample of an adaptation, or of one of its candidates, has:
        those that it trains on, and those that it skips.
        """
        settings, of_calibration = self.adaptation(adaptation), self.calibration.samples
        if not isinstance(settings, Training):
            return of_calibration
        return (settings.samples or of_calibration) + (settings.skip or 0)

    def tokens_of(self, model: str, adaptation: str) -> int:
        """Return how many tokens of text an adaptation of a model, or `none`, trains on."""
        return self.samples(adaptation) * self.calibration_of(model).length

    def sizes(self, adaptation: str) -> list[int]:
        """Return how many sequences an adaptation or its candidates train on, if not the sample."""
        names = self.candidate_names(adaptation) or [adaptation]
        return sorted({self.samples(name) for name in names} - {self.calibration.samples})

    @property
    def most_samples(self) -> int:
        """The number of sequences of the largest sample that any cell trains on."""
        adaptations = {cell.adaptation for cell in self.cells}
        sizes = [size for adaptation in adaptations for size in self.sizes(adaptation)]
        return max([self.calibration.samples, *sizes])

    @property
    def held_out_samples(self) -> dict[str, int]:
        """The numbers of held-out sequences on which candidates are compared, and on which drift
        and perplexity of the cells are `measured`.
        """
        measured = self.drift.samples if self.drift else 0
        return {"samples": self.block.selection.samples, "measured": measured}

    def start_of(self, cell: Cell) -> Cell | None:
        """Return the cell from whose result a cell or a candidate starts, if it starts from one."""
        settings = self.adaptation(cell.adaptation)
        return replace(cell, adaptation=settings.after) if settings and settings.after else None

    def needs_held_out(self, cell: Cell) -> bool:
        """Return whether a cell depends on held-out text: its drift is measured on it, its
        candidates are compared on it, or its extended sample leaves it out; or the cell that it
        starts from does.
        """
        adaptation, start = self.adaptation(cell.adaptation), self.start_of(cell)
        if self.measures_drift(cell) or (start is not None and self.needs_held_out(start)):
            return True
        if is_searched(adaptation) and compared_by(adaptation) == HELD_OUT:
            return True
        return max(self.sizes(cell.adaptation), default=0) > self.calibration.samples

    @cached_property
    def comparisons(self) -> Comparisons:
        """What the study compares."""
        pruned = [cell for cell in self.cells if cell.is_pruned]
        return Comparisons(pruned, self.config.adaptations, self.resolved, self.calibration)

    # --- Measurements and specs

    def measures_drift(self, cell: Cell) -> bool:
        """Return whether a cell's activations are compared with the dense model's."""
        return self.drift is not None and not cell.is_dense

    def asks_tasks(self, cell: Cell) -> bool:
        """Return whether a cell is evaluated on tasks: it is in a grid with `tasks: true`, or it is
        the dense cell of a model in such a grid.
        """
        return cell in self._with_tasks

    @cached_property
    def _with_tasks(self) -> frozenset[Cell]:
        return frozenset(cells_of([grid for grid in self.block.grids if grid.tasks]))

    @cached_property
    def tasks(self) -> dict[str, Any]:
        """Settings of the zero-shot tasks, with their entries, for a cell's spec; empty if no cell
        is evaluated on tasks, as in a part of a study.
        """
        settings = self.block.evaluation.tasks
        if settings is None or not any(map(self.asks_tasks, self.asked)):
            return {}
        entries = {name: self.config.tasks[name].deciding() for name in settings.names}
        return {"limit": settings.limit, "seed": settings.seed, "tasks": entries}

    def measurements(self, cell: Cell) -> dict[str, dict[str, Any]]:
        """Return the settings of each measurement of a checkpoint, of a cell or a candidate, by the
        measurement's name.
        """
        perplexity = self.perplexity_of(cell.model).cutting()
        adaptation = adaptation_of(cell.adaptation)
        if adaptation != cell.adaptation:
            by = compared_by(self.config.adaptations[adaptation])
            return {by: {} if by == HELD_OUT else perplexity}
        asked: dict[str, dict[str, Any]] = {IDENTITY: {}, PERPLEXITY: perplexity}
        if self.drift is not None and self.measures_drift(cell):
            asked[DRIFT] = self.drift.as_json()
        if self.asks_tasks(cell):
            asked[TASKS] = {key: self.tasks[key] for key in ("limit", "seed")}
        return asked

    def spec(self, cell: Cell) -> dict[str, Any]:
        """Return everything in the config that decides a cell's numbers, in a fixed order.

        A record carries its spec; a record whose spec differs from the current one is refused.
        """
        evaluation = {"perplexity": self._with_text(self.perplexity_of(cell.model))}
        model = self.model(cell.model)
        spec: dict[str, Any] = {
            "cell": str(cell),
            "model": {**model.deciding(), **model.beginning},
            "evaluation": evaluation,
        }
        if self.drift is not None and self.measures_drift(cell):
            evaluation["drift"] = self.drift.as_json()
        if self.asks_tasks(cell):
            evaluation["tasks"] = self.tasks
        if not cell.is_dense:
            adaptation = self.adaptation(cell.adaptation)
            spec["calibration"] = self._with_text(self.calibration_of(cell.model))
            if cell.is_pruned:
                spec["criterion"] = self.criterion(cell.criterion).as_json()
                spec["pattern"] = cell.pattern
            spec["adaptation"] = None if adaptation is None else adaptation.as_json()
            if (start := self.start_of(cell)) is not None:
                before = self.spec(start)
                # What adapted the model before, the first one first.
                spec["start"] = [*before.get("start", []), before["adaptation"]]
            if self.needs_held_out(cell):
                spec["selection"] = self.block.selection.as_json()
            spec["seed"] = cell.seed
        # As JSON data, without tuples and aliases.
        return dict(json.loads(json.dumps(spec, sort_keys=True)))

    def _with_text(self, settings: Settings) -> dict[str, Any]:
        written = settings.as_json()
        name = written["text"]
        return {**written, "text": {"name": name, **self.text_settings(name)}}
