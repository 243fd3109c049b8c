"""A study: a checked config, its cells, and the spec of each, which decides the cell's numbers."""

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from freelunch.core.errors import UserError
from freelunch.study.adaptations import Adaptation, Training
from freelunch.study.base import PART, part_of_base, with_base
from freelunch.study.cell import NONE, Cell
from freelunch.study.checks import contradictions
from freelunch.study.comparisons import Comparisons
from freelunch.study.config import (
    REGISTRIES,
    Config,
    DriftSettings,
    Part,
    StudyBlock,
)
from freelunch.study.criteria import Criterion
from freelunch.study.grids import cells_of, grids_in, part_words
from freelunch.study.lengths import Lengths
from freelunch.study.paths import Paths
from freelunch.study.problems import as_far_as_valid, violations
from freelunch.study.search import candidates_of
from freelunch.study.settings import Settings
from freelunch.study.settled import settled
from freelunch.study.source_files import files_at
from freelunch.study.sources import AnyText, Mixture, Model
from freelunch.study.yaml_file import read_yaml


@dataclass(frozen=True)
class Study(Comparisons, Lengths):
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
        """Read and check a config file, whose path is relative to `root`.

        A file that only names a part of another study, its base, gives that study, restricted to
        this part.

        Args:
            path: The file.
            root: Folder that the path is relative to.
            part: The part of the study, in place of the file's own.
        """
        config, where = read_yaml(root / path), str(path)
        given = {} if part is None else {PART: part.as_json()}
        if (of_base := part_of_base(config, root / path)) is not None:
            whole, own = of_base
            path = Path(os.path.relpath(whole, root))
            config, where, given = read_yaml(whole), f"{where}, a part of {path}", own | given
            if part_of_base(config, whole) is not None:
                raise UserError(
                    "a part is one of a whole study",
                    where=where,
                    found=f"{path}, which is a part itself",
                    expected="the study of which it is a part",
                )
        if given and isinstance(config, dict) and isinstance(config.get("study"), dict):
            config = {**config, "study": config["study"] | given}
        return cls.check(config, str(path), root, where)

    @classmethod
    def check(
        cls, config: object, source: str, root: Path = Path(), where: str | None = None
    ) -> "Study":
        """Check a config.

        Args:
            config: Content of the study's file.
            source: Name of that file, to find its base.
            root: Folder that the name is relative to.
            where: What messages name. Default: that file.

        Raises:
            UserError: The config is wrong; the message lists every problem with its key.
        """
        complete, names, wrong_base = with_base(config, root / source)
        problems = set(wrong_base)
        try:
            found = Config.model_validate(complete)
        except ValidationError as error:
            problems.update(violations(error))
            found = as_far_as_valid(complete)
        problems.update(contradictions(found, names, complete=not problems))
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            raise UserError(
                f"{count} in the config\n" + "\n".join(sorted(problems)), where=where or source
            )
        return cls(found, source)

    def as_json(self, licences: bool = True) -> dict[str, Any]:
        """Return the complete config as JSON data: with defaults, and without a base.

        Snakemake compares settings by their printed form, so the keys of each entry are in a fixed
        order. The entries keep the study's order, which tables and figures follow.

        Args:
            licences: Whether to include licences, which only the audit shows.
        """
        written = {
            registry: {
                name: entry.as_json() for name, entry in getattr(self.config, registry).items()
            }
            for registry in REGISTRIES
        }
        if not licences:
            for entries in written.values():
                for entry in entries.values():
                    entry.pop("licence", None)
        return {**written, "study": self.block.as_json()}

    @property
    def name(self) -> str:
        return self.block.name

    @property
    def part_words(self) -> str:
        """The part that is run as `make` takes it, after a space; empty for the whole study."""
        return part_words(self.block.part)

    @property
    def run_command(self) -> str:
        """The command that runs the study, or the part of it that is run."""
        return self.command("study")

    def command(self, target: str) -> str:
        """Return the command that makes a target of the study, or of the part of it that is run."""
        return f"make {target} STUDY={shlex.quote(self.source)}{self.part_words}"

    @property
    def block(self) -> StudyBlock:
        """The `study` block."""
        return self.config.study

    @property
    def drift(self) -> DriftSettings | None:
        """Settings of drift; None if it is not measured."""
        return self.block.evaluation.drift

    @property
    def paths(self) -> Paths:
        return Paths(self.name)

    @property
    def models(self) -> list[str]:
        """The names of the models of its cells, in the order of the cells."""
        return list(dict.fromkeys(cell.model for cell in self.cells))

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

    def model(self, name: str) -> Model:
        """Return an entry of `models`."""
        entry: Model = self.config.models[name]
        return entry

    def text(self, name: str) -> AnyText:
        """Return an entry of `texts`."""
        entry: AnyText = self.config.texts[name]
        return entry

    def text_settings(self, name: str) -> dict[str, Any]:
        """Return the settings of a text that decide a number, as JSON; those of a mixture with the
        settings of its parts.
        """
        entry = self.text(name)
        settings = entry.deciding()
        if isinstance(entry, Mixture):
            settings["parts"] = {
                part: {"share": share, **self.text(part).deciding()}
                for part, share in settings["parts"].items()
            }
        return settings

    def measures_drift(self, cell: Cell) -> bool:
        """Return whether a cell's activations are compared with the dense model's."""
        return self.drift is not None and not cell.is_dense

    def asks_tasks(self, cell: Cell) -> bool:
        """Return whether a cell is evaluated on tasks: it is in a grid with `tasks: true`, or it is
        the dense cell of a model in such a grid.
        """
        return any(
            cell.model in grid.models
            and (
                cell.is_dense
                or (
                    cell.criterion in grid.criteria
                    and cell.pattern in grid.patterns
                    and cell.adaptation in grid.adaptations
                    and cell.seed in grid.seeds
                )
            )
            for grid in self.block.grids
            if grid.tasks
        )

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

    def source_files(self, registry: str, name: str) -> list[str]:
        """Return the user's own files that an entry of `models`, `texts` or `tasks` points to.

        They are inputs of the workflow: a change to one reruns everything that depends on it.
        """
        entry = getattr(self.config, registry)[name]
        return files_at(entry.path) if hasattr(entry, "path") else []

    def criterion(self, name: str) -> Criterion:
        """Return an entry of `criteria`."""
        entry: Criterion = self.config.criteria[name]
        return entry

    def needs_gram(self, model: str, seed: int) -> bool:
        """Return whether any cell with this model and seed needs Gram matrices of dense inputs."""
        # Those of all parts: a part that is run first makes what the others need.
        used = {
            name
            for grid in self.block.grids
            if model in grid.models and seed in grid.seeds
            for name in grid.criteria
        }
        entries = [self.criterion(name) for name in used]
        return any(entry.needs_gram for entry in entries if entry.statistics == "dense")

    def adaptation(self, name: str) -> Adaptation | None:
        """Return the settings of an adaptation, or of one of its candidates; None for `none`.

        A budget is replaced by the `samples` that it pays for; for an adaptation that lists epochs,
        this happens in its candidates. `samples` is left out if it equals the calibration sample's.
        """
        # A study of a thousand cells asks for each adaptation ten thousand times.
        if name not in self._settled:
            self._settled[name] = None if name == NONE else settled(name, self.config)
        return self._settled[name]

    @cached_property
    def _settled(self) -> dict[str, Adaptation | None]:
        return {}

    def samples(self, adaptation: str) -> int:
        """Return how many sequences an adaptation, or one of its candidates, trains on."""
        settings = self.adaptation(adaptation)
        samples = settings.samples if isinstance(settings, Training) else None
        return samples or self.calibration.samples

    def tokens_of(self, model: str, adaptation: str) -> int:
        """Return how many tokens of text an adaptation of a model trains on; for `none`, those of
        the calibration sample.
        """
        return self.samples(adaptation) * self.calibration_of(model).length

    def candidate_names(self, adaptation: str) -> list[str]:
        """Return the names of an adaptation's candidates; empty if it lists no alternatives."""
        if adaptation not in self._candidates:
            found = candidates_of(adaptation, self.adaptation(adaptation))
            self._candidates[adaptation] = list(found)
        return self._candidates[adaptation]

    @cached_property
    def _candidates(self) -> dict[str, list[str]]:
        return {}

    def candidates(self, cell: Cell) -> list[Cell]:
        """Return a cell's candidates, as cells."""
        return [replace(cell, adaptation=name) for name in self.candidate_names(cell.adaptation)]

    def sizes(self, adaptation: str) -> list[int]:
        """Return the numbers of sequences that an adaptation or its candidates train on, except the
        calibration sample's.
        """
        names = self.candidate_names(adaptation) or [adaptation]
        found = {self.samples(name) for name in names}
        return sorted(found - {self.calibration.samples})

    @property
    def held_out_samples(self) -> dict[str, int]:
        """Return the numbers of held-out sequences: `samples`, on which candidates are compared,
        and `measured`, on which drift and perplexity of the cells are measured.
        """
        measured = self.drift.samples if self.drift else 0
        return {"samples": self.block.selection.samples, "measured": measured}

    def needs_held_out(self, cell: Cell) -> bool:
        """Return whether a cell depends on held-out text: its drift is measured on it, its
        candidates are compared on it, or its extended sample leaves it out.
        """
        if self.measures_drift(cell):
            return True
        settings = self.adaptation(cell.adaptation)
        match settings:
            case Training(is_searched=True, select_on="calibration"):
                return True
        most = max(self.sizes(cell.adaptation), default=0)
        return most > self.calibration.samples

    def spec(self, cell: Cell) -> dict[str, Any]:
        """Return everything in the config that decides a cell's numbers.

        A record carries its spec; a record whose spec differs from the current one is refused.
        """
        perplexity = self._with_text(self.perplexity_of(cell.model))
        evaluation: dict[str, Any] = {"perplexity": perplexity}
        spec: dict[str, Any] = {
            "cell": str(cell),
            "model": self.model(cell.model).deciding(),
            "evaluation": evaluation,
        }
        if self.drift is not None and self.measures_drift(cell):
            evaluation["drift"] = self.drift.as_json()
        if self.asks_tasks(cell):
            evaluation["tasks"] = self.tasks
        if not cell.is_dense:
            adaptation = self.adaptation(cell.adaptation)
            spec["calibration"] = self._with_text(self.calibration_of(cell.model))
            spec["criterion"] = self.criterion(cell.criterion).as_json()
            spec["pattern"] = cell.pattern
            spec["adaptation"] = None if adaptation is None else adaptation.as_json()
            if self.needs_held_out(cell):
                spec["selection"] = self.block.selection.as_json()
            spec["seed"] = cell.seed
        return _in_order(spec)

    def _with_text(self, settings: Settings) -> dict[str, Any]:
        """Return settings in which the name of a text is joined by the text's entry."""
        written = settings.as_json()
        name = written["text"]
        return {**written, "text": {"name": name, **self.text_settings(name)}}


def _in_order(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON data, without tuples and aliases, with keys in a fixed order."""
    return dict(json.loads(json.dumps(settings, sort_keys=True)))
