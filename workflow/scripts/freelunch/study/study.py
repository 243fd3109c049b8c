"""From a config to a study: its cells, and the spec of each, which is what decides its numbers."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from freelunch.core.errors import UserError
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.checks import contradictions
from freelunch.study.entry import budget_tokens, deciding
from freelunch.study.methods import becomes_dense, is_retraining, series_of
from freelunch.study.paths import Paths
from freelunch.study.schema import fill, needs_gram, read_yaml, violations
from freelunch.study.search import adaptation_of, candidates_of, is_searched
from freelunch.study.windows import MATRIX, compares_windows


@dataclass(frozen=True)
class Study:
    """A validated config with every default filled in.

    Attributes:
        config: The registries and the `study` block.
        source: The file the config came from, for messages.
    """

    config: dict[str, Any]
    source: str

    @classmethod
    def load(cls, path: Path) -> "Study":
        """Read and check a config file."""
        return cls.check(read_yaml(path), str(path))

    @classmethod
    def check(cls, config: object, source: str) -> "Study":
        """Check a config and fill in defaults.

        Raises:
            UserError: With every problem at once, each with its key and the nearest valid name.
        """
        problems = set(violations(config))
        try:
            for problem in contradictions(cast(Mapping[str, Any], config)):
                problems.add(problem)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            # The structure is wrong, as the schema says; what was seen before that counts all the
            # same, so that one run names every problem it can. Text in place of a mapping is a
            # ValueError.
            if not problems:
                raise
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            raise UserError(f"{count} in the config\n" + "\n".join(sorted(problems)), where=source)
        filled = copy.deepcopy(dict(cast(Mapping[str, Any], config)))
        fill(filled)
        for registry in ("models", "texts", "tasks", "criteria", "adaptations"):
            # Snakemake compares settings as they are printed: keys written in another order would
            # make everything run again.
            filled[registry] = {name: _in_order(entry) for name, entry in filled[registry].items()}
        return cls(filled, source)

    @property
    def name(self) -> str:
        return str(self.block["name"])

    @property
    def block(self) -> dict[str, Any]:
        """The `study` block."""
        return dict(self.config["study"])

    @property
    def paths(self) -> Paths:
        return Paths(self.name)

    @property
    def cells(self) -> list[Cell]:
        """Every cell, each model's dense cell first, in the order of the grids."""
        grids = self.block["grids"]
        found = dict.fromkeys(Cell.dense(model) for grid in grids for model in grid["models"])
        for grid in grids:
            for model in grid["models"]:
                for criterion in grid["criteria"]:
                    for pattern in grid["patterns"]:
                        for adaptation in grid["adaptations"]:
                            for seed in grid["seeds"]:
                                cell = Cell(model, criterion, pattern, adaptation, seed)
                                found.setdefault(cell)
        return list(found)

    def model(self, name: str) -> dict[str, Any]:
        """Return what decides a model's numbers."""
        return deciding(self.config["models"][name])

    def text(self, name: str) -> dict[str, Any]:
        """Return what decides a text's content."""
        return deciding(self.config["texts"][name])

    def measures_drift(self, cell: Cell) -> bool:
        """Tell whether a cell's activations are compared with the dense model's."""
        return "drift" in self.block["evaluation"] and not cell.is_dense

    def asks_tasks(self, cell: Cell) -> bool:
        """Tell whether a cell is evaluated on tasks: a grid with `tasks: true` has it, or the dense
        model of such a grid.
        """
        return any(
            cell.model in grid["models"]
            and (
                cell.is_dense
                or (
                    cell.criterion in grid["criteria"]
                    and cell.pattern in grid["patterns"]
                    and cell.adaptation in grid["adaptations"]
                    and cell.seed in grid["seeds"]
                )
            )
            for grid in self.block["grids"]
            if grid["tasks"]
        )

    @property
    def tasks(self) -> dict[str, Any]:
        """Settings of the zero-shot tasks, their entries included; empty if there are none."""
        settings = self.block["evaluation"].get("tasks")
        if settings is None:
            return {}
        entries = {name: deciding(self.config["tasks"][name]) for name in settings["names"]}
        return {"limit": settings["limit"], "seed": settings["seed"], "tasks": entries}

    def source_files(self, registry: str, name: str) -> list[str]:
        """Return the user's own files that an entry of `models`, `texts` or `tasks` points at.

        They are inputs of the workflow: when one changes, what depends on it runs again.
        """
        entry = self.config[registry][name]
        if "path" not in entry:
            return []
        path = Path(entry["path"])
        if not path.is_dir():
            return [str(path)]
        return sorted(str(file) for file in path.iterdir() if file.is_file())

    def criterion(self, name: str) -> dict[str, Any]:
        return dict(self.config["criteria"][name])

    def needs_gram(self, model: str, seed: int) -> bool:
        """Tell whether a cell of a model and seed needs Gram matrices of the dense activations."""
        used = {cell.criterion for cell in self.cells if (cell.model, cell.seed) == (model, seed)}
        entries = [self.criterion(name) for name in used - {DENSE}]
        return any(needs_gram(entry) for entry in entries if entry["statistics"] == "dense")

    def adaptation(self, name: str) -> dict[str, Any] | None:
        """Return the settings of an adaptation or of a candidate of one; None for `none`.

        In place of a budget they have `samples`, and those only where they are not the calibration
        sample's. Of an adaptation that lists epochs its candidates have them.
        """
        if name == NONE:
            return None
        entry = dict(self.config["adaptations"][adaptation_of(name)])
        if name not in self.config["adaptations"]:
            entry = candidates_of(adaptation_of(name), entry)[name]
        if "budget" in entry:
            tokens = budget_tokens(entry.pop("budget"), self.config)
            if isinstance(entry["epochs"], list):
                # Each candidate has samples of its own; what they share is this.
                entry["budget"] = {"tokens": tokens}
            else:
                # Whole sequences in whole epochs: never more than the budget.
                entry["samples"] = tokens // (self.block["calibration"]["length"] * entry["epochs"])
        if entry.get("samples") == self.block["calibration"]["samples"]:
            del entry["samples"]
        return entry

    def samples(self, adaptation: str) -> int:
        """Return how many sequences an adaptation, or a candidate of one, is trained on."""
        settings = self.adaptation(adaptation) or {}
        return int(settings.get("samples", self.block["calibration"]["samples"]))

    def candidate_names(self, adaptation: str) -> list[str]:
        """Return the runs among which an adaptation is chosen; empty if it lists none."""
        return list(candidates_of(adaptation, self.adaptation(adaptation) or {}))

    def candidates(self, cell: Cell) -> list[Cell]:
        """Return a cell's candidates, as cells."""
        return [replace(cell, adaptation=name) for name in self.candidate_names(cell.adaptation)]

    def sizes(self, adaptation: str) -> list[int]:
        """Return how many sequences an adaptation or its candidates are trained on, where that is
        not the calibration sample.
        """
        names = self.candidate_names(adaptation) or [adaptation]
        found = {self.samples(name) for name in names}
        return sorted(found - {self.block["calibration"]["samples"]})

    def needs_held_out(self, cell: Cell) -> bool:
        """Tell whether held-out text has a part in a cell: its drift is measured on it, candidates
        are compared on it, or a sample that is extended leaves it out.
        """
        if self.measures_drift(cell):
            return True
        settings = self.adaptation(cell.adaptation) or {}
        if self.candidates(cell) and settings["select_on"] == "calibration":
            return True
        most = max(self.sizes(cell.adaptation), default=0)
        return most > int(self.block["calibration"]["samples"])

    @property
    def selected_on_evaluation(self) -> list[str]:
        """Return the adaptations whose settings are chosen on the text that they are judged by."""
        return [
            name
            for name, entry in self.config["adaptations"].items()
            if is_searched(entry) and entry["select_on"] == "evaluation"
        ]

    @property
    def compares_windows(self) -> bool:
        """Tell whether a pruned model is reconstructed in several ways, by a seed that is not
        adapted too.
        """
        kinds = [
            {json.dumps(_kind(entry)) for entry in entries if compares_windows(entry)}
            for entries in self._adapted_by
        ]
        return any(len(of_model) > 1 for of_model in kinds)

    @property
    def compares_sizes(self) -> bool:
        """Tell whether several models are pruned."""
        return len({cell.model for cell in self.cells if not cell.is_dense}) > 1

    @property
    def compares_budgets(self) -> bool:
        """Tell whether a pruned model is both reconstructed and retrained."""
        return any(
            any(map(is_retraining, entries)) and any(map(_stays_pruned, entries))
            for entries in self._adapted_by
        )

    @property
    def series(self) -> dict[str, str]:
        """Return what the series of each adaptation is called, by its name."""
        return series_of(self.config["adaptations"])

    @property
    def references(self) -> list[str]:
        """Return the reconstructions that stay pruned, first those that retraining is best compared
        with: what other budgets are multiples of, then any window but a single matrix.
        """
        entries = self.config["adaptations"]
        named = {
            entry["budget"]["of"] for entry in entries.values() if "of" in entry.get("budget", {})
        }
        local = [name for name, entry in entries.items() if _stays_pruned(entry)]
        return sorted(
            local, key=lambda name: (name not in named, entries[name]["window"] == MATRIX)
        )

    @property
    def _adapted_by(self) -> list[list[dict[str, Any]]]:
        """Return the entries by which each pruned model is adapted, of those that are also not."""
        ways: dict[Cell, set[str]] = {}
        for cell in self.cells:
            ways.setdefault(replace(cell, adaptation=NONE), set()).add(cell.adaptation)
        return [
            [self.config["adaptations"][name] for name in sorted(names - {NONE})]
            for names in ways.values()
            if NONE in names
        ]

    @property
    def selection(self) -> dict[str, Any]:
        """Settings of the held-out text on which candidates are compared."""
        return dict(self.block["selection"])

    @property
    def calibration(self) -> dict[str, Any]:
        """Settings of the calibration sample, the text's entry included."""
        settings = dict(self.block["calibration"])
        return {**settings, "text": {"name": settings["text"], **self.text(settings["text"])}}

    @property
    def perplexity(self) -> dict[str, Any]:
        """Settings of the perplexity, the text's entry included."""
        settings = dict(self.block["evaluation"]["perplexity"])
        return {**settings, "text": {"name": settings["text"], **self.text(settings["text"])}}

    def spec(self, cell: Cell) -> dict[str, Any]:
        """Return everything in the config that decides a cell's numbers.

        A record carries it; a record whose spec differs from today's is refused.
        """
        spec: dict[str, Any] = {
            "cell": str(cell),
            "model": self.model(cell.model),
            "evaluation": {"perplexity": self.perplexity},
        }
        if self.measures_drift(cell):
            spec["evaluation"]["drift"] = dict(self.block["evaluation"]["drift"])
        if self.asks_tasks(cell):
            spec["evaluation"]["tasks"] = self.tasks
        if not cell.is_dense:
            spec["calibration"] = self.calibration
            spec["criterion"] = self.criterion(cell.criterion)
            spec["pattern"] = cell.pattern
            spec["adaptation"] = self.adaptation(cell.adaptation)
            if self.needs_held_out(cell):
                spec["selection"] = self.selection
            spec["seed"] = cell.seed
        return _in_order(spec)


def _stays_pruned(adaptation: Mapping[str, Any]) -> bool:
    """Tell whether an entry of `adaptations` reconstructs what retraining is compared with."""
    return adaptation["method"] == "reconstruction" and not becomes_dense(adaptation)


def _kind(adaptation: Mapping[str, Any]) -> list[Any]:
    """Return what adaptations that are compared by their windows differ in."""
    keys = ("method", "window", "memory_gb", "inputs", "targets")
    return [adaptation.get(key) for key in keys]


def _in_order(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON has them, no tuples and no aliases, with keys in one order."""
    return dict(json.loads(json.dumps(settings, sort_keys=True)))
