"""What a study compares: windows, criteria, sizes of models, reconstruction with retraining."""

import json
from dataclasses import replace
from typing import Any

from freelunch.study.adaptations import Adaptation, Local, Reconstruction, Training
from freelunch.study.cell import NONE, Cell
from freelunch.study.config import Config
from freelunch.study.search import is_searched
from freelunch.study.series import series_of
from freelunch.study.windows import MATRIX


class Comparisons:
    """What a study compares, from its cells and its adaptations."""

    config: Config

    @property
    def cells(self) -> list[Cell]:
        """All cells of the study."""
        raise NotImplementedError

    @property
    def selected_on_evaluation(self) -> list[str]:
        """Names of the adaptations whose settings are chosen on the evaluation text itself."""
        return [
            name
            for name, entry in self.config.adaptations.items()
            if is_searched(entry) and entry.select_on == "evaluation"
        ]

    @property
    def compares_windows(self) -> bool:
        """Whether a pruned model is reconstructed in several ways, and is also evaluated unadapted
        with the same seed.
        """
        kinds = [
            {json.dumps(_kind(entry)) for entry in entries if compares_windows(entry)}
            for entries in self._adapted_by
        ]
        return any(len(of_model) > 1 for of_model in kinds)

    @property
    def compares_criteria(self) -> bool:
        """Whether models are pruned in several ways."""
        return len({cell.pruning for cell in self.cells if not cell.is_dense}) > 1

    @property
    def compares_sizes(self) -> bool:
        """Whether several models are pruned."""
        return len({cell.model for cell in self.cells if not cell.is_dense}) > 1

    @property
    def compares_budgets(self) -> bool:
        """Whether a pruned model is both reconstructed and retrained."""
        return any(
            any(entry.is_retraining for entry in entries) and any(map(_stays_pruned, entries))
            for entries in self._adapted_by
        )

    @property
    def series(self) -> dict[str, str]:
        """The name of each adaptation's series, by the adaptation's name."""
        return series_of(self.config.adaptations)

    @property
    def references(self) -> list[str]:
        """Names of the reconstructions that stay pruned, the best reference for retraining first.

        One that was chosen on the evaluation text comes after all others, since its number favours
        it. Those that other budgets are multiples of come before the rest. In these groups, windows
        of single matrices come last, and targets of the pruned model itself after those of the
        dense model, which the paper has.
        """
        entries, favoured = self.config.adaptations, self.selected_on_evaluation
        named = {
            entry.budget.of
            for entry in entries.values()
            if isinstance(entry, Training) and entry.budget is not None
        }
        local = [name for name, entry in entries.items() if _stays_pruned(entry)]
        return sorted(
            local,
            key=lambda name: (
                name in favoured,
                name not in named,
                entries[name].window == MATRIX,
                entries[name].targets != "dense",
            ),
        )

    @property
    def _adapted_by(self) -> list[list[Adaptation]]:
        """The entries that adapt each pruned model, for the models also evaluated unadapted."""
        ways: dict[Cell, set[str]] = {}
        for cell in self.cells:
            ways.setdefault(replace(cell, adaptation=NONE), set()).add(cell.adaptation)
        return [
            [self.config.adaptations[name] for name in sorted(names - {NONE})]
            for names in ways.values()
            if NONE in names
        ]


def compares_windows(settings: Adaptation) -> bool:
    """Return whether an adaptation takes part in the comparison of windows. Those with their own
    sample size or their own trained parameters do not.
    """
    if not isinstance(settings, Reconstruction):
        return isinstance(settings, Local)
    return settings.samples is None and settings.budget is None and settings.trains is None


def _stays_pruned(adaptation: Adaptation) -> bool:
    """Return whether an adaptation is a reconstruction after which the model is still pruned."""
    return isinstance(adaptation, Reconstruction) and not adaptation.becomes_dense


def _kind(adaptation: Adaptation) -> list[Any]:
    """Return the settings in which adaptations in the comparison of windows differ."""
    written = adaptation.as_json()
    kept = [written.get(key) for key in ("method", "window", "memory_gb", "inputs", "targets")]
    return [*kept, *(adaptation.quirks if isinstance(adaptation, Local) else ())]
