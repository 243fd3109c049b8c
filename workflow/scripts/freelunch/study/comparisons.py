"""What a study compares: windows, criteria, sizes of models, reconstruction with retraining."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from freelunch.study.adaptations import Adaptation, Local, Reconstruction, Training
from freelunch.study.cell import NONE, Cell
from freelunch.study.config import Calibration
from freelunch.study.methods import FULL
from freelunch.study.search import is_searched
from freelunch.study.windows import MATRIX

# Settings of how much text an adaptation sees and of what is chosen for that amount, and settings
# that change only the memory an adaptation takes and, through rounding, the last digits.
AMOUNTS = ("samples", "budget", "epochs", "learning_rate", "select_on")
MEMORY = ("micro_batch", "gradient_checkpointing", "residency")
# Settings in which adaptations that are compared by their windows may differ.
_OF_WINDOWS = ("window", "memory_gb", "inputs", "targets", "learning_rate", "select_on")


@dataclass(frozen=True)
class Comparisons:
    """What a study compares, from its pruned cells and its adaptations.

    Adaptations form a series if they differ only in how much text they see.
    """

    cells: Sequence[Cell]
    # As the config has them, and with candidates, as they are run.
    adaptations: Mapping[str, Adaptation]
    resolved: Mapping[str, Adaptation]
    calibration: Calibration

    @cached_property
    def selected_on_evaluation(self) -> list[str]:
        """Names of the adaptations whose settings are chosen on the evaluation text itself."""
        return [
            name
            for name, entry in self.adaptations.items()
            if is_searched(entry) and entry.select_on == "evaluation"
        ]

    def window_group(self, cell: Cell) -> set[str]:
        """Return the adaptations of a cell's pruned model that show the effect of the window.

        What trains windows is compared with what differs in the window, in inputs and targets, and
        in the learning rate, which each window needs its own of. If adaptations differ in other
        settings, such as the loss or the epochs, those are compared that share them with the most
        windows on the same amount of text, or with the first in the config. What is solved
        in closed form has no such settings.
        """
        return self._window_groups.get(_pruned(cell), set())

    def windows_of(self, cell: Cell) -> list[list[str]]:
        """Return the same adaptations in the order of the config, for each amount of text that
        several of them see.
        """
        amounts: dict[int, list[str]] = defaultdict(list)
        for name in [name for name in self.adaptations if name in self.window_group(cell)]:
            amounts[self.sequences[name]].append(name)
        return [amounts[amount] for amount in sorted(amounts) if len(amounts[amount]) > 1]

    @property
    def of_windows(self) -> bool:
        """Whether a pruned model is reconstructed in several such ways."""
        return any(map(self.windows_of, self.cells))

    @cached_property
    def _window_groups(self) -> dict[Cell, set[str]]:
        ways: dict[Cell, set[str]] = defaultdict(set)
        for cell in self.cells:
            ways[_pruned(cell)].add(cell.adaptation)
        return {pruned: self._compared(names) for pruned, names in ways.items()}

    def _compared(self, names: Collection[str]) -> set[str]:
        entries = self.adaptations
        compared: set[str] = set()
        # By the amount of text, then by the other settings.
        groups: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for name in [name for name in entries if name in names and _has_window(entries[name])]:
            if isinstance(entry := entries[name], Reconstruction):
                beside = _beside(self.resolved[name], *_OF_WINDOWS, *AMOUNTS[:2], *entry.quirks)
                groups[self.sequences[name]][beside].append(name)
            else:
                compared.add(name)

        def windows(group: list[str]) -> int:
            usual = [entries[name] for name in group if is_usual_window(entries[name])]
            return len({str(entry.window) for entry in usual if isinstance(entry, Reconstruction)})

        return compared.union(*(max(group.values(), key=windows) for group in groups.values()))

    @property
    def of_criteria(self) -> bool:
        """Whether models are pruned in several ways."""
        return len({cell.pruning for cell in self.cells}) > 1

    @property
    def criteria_budgets(self) -> dict[tuple[str, str], list[list[str]]]:
        """The adaptations with which several criteria are compared at several budgets, by model and
        pattern: a list for each series, the best reference for others first.
        """
        criteria: dict[tuple[str, str], dict[str, set[str]]] = {}
        for cell in self.cells:
            of_place = criteria.setdefault((cell.model, cell.pattern), defaultdict(set))
            of_place[cell.adaptation].add(cell.criterion)
        order = dict.fromkeys([*self.references, *self.adaptations])
        several: dict[tuple[str, str], list[list[str]]] = {}
        for place, of_place in criteria.items():
            names = [name for name in order if len(of_place.get(name, ())) > 1]
            firsts = {self.series[name]: name for name in reversed(names)}
            budgets = [self.budgets_of(name, names) for name in firsts.values()]
            if lists := [sorted(each, key=names.index) for each in budgets if len(each) > 1]:
                several[place] = lists
        return several

    @property
    def of_budgets(self) -> bool:
        """Whether a pruned model is both reconstructed and retrained."""
        retrained, reconstructed = {*self.retrainings}, {*self.references}
        return any(
            names & retrained and names & reconstructed for names in self._adapted_by.values()
        )

    @cached_property
    def retrainings(self) -> list[str]:
        """Names of what retrains pruned models; what starts from an adapted one is none of them."""
        entries = self.adaptations.items()
        return [name for name, entry in entries if entry.is_retraining and entry.after is None]

    @cached_property
    def series(self) -> dict[str, str]:
        """The name of each adaptation's series, by the adaptation's name.

        A series is named after its method. A second series of a method also gets the name of its
        first adaptation.
        """
        labels: dict[str, str] = {}
        series = {}
        for name, settings in self.adaptations.items():
            kind = _beside(settings, *AMOUNTS)
            if kind not in labels:
                label = _label(settings)
                labels[kind] = f"{label} ({name})" if label in labels.values() else label
            series[name] = labels[kind]
        return series

    @cached_property
    def references(self) -> list[str]:
        """Names of the reconstructions of pruned models, the best reference for retraining first.

        One that was chosen on the evaluation text comes after all others, since its number favours
        it. Those that other budgets are multiples of come before the rest. In these groups, windows
        of single matrices come last, and targets of the pruned model itself after those of the
        dense model, which the paper has. Then those come first that see the commonest amount of
        text.
        """
        entries, favoured = self.adaptations, self.selected_on_evaluation
        named = {
            entry.budget.of
            for entry in entries.values()
            if isinstance(entry, Training) and entry.budget is not None
        }
        alike = Counter(self.sequences.values())
        pruned = {
            name: entry
            for name, entry in entries.items()
            if isinstance(entry, Reconstruction) and not entry.becomes_dense and not entry.after
        }
        return sorted(
            pruned,
            key=lambda name: (
                name in favoured,
                name not in named,
                pruned[name].window == MATRIX,
                pruned[name].targets != "dense",
                -alike[self.sequences[name]],
            ),
        )

    @cached_property
    def first(self) -> list[list[Cell]]:
        """The cells of the first finding and what the second adds, of one seed of the pruned model
        with the most adaptations: the pruned model itself, the best reference and the first
        parameter-efficient retraining with as much text; then the first full one. No finding if no
        pruned model is adapted.
        """
        ways = self._adapted_by
        pruned = max(ways, key=lambda cell: len(ways[cell]), default=None)
        if pruned is None:
            return []
        reference = next((name for name in self.references if name in ways[pruned]), None)
        if reference is None:
            return []
        kinds: dict[bool, list[str]] = {True: [], False: []}
        for name in self.retrainings:
            if name in ways[pruned] and self.sequences[name] == self.sequences[reference]:
                kinds[self.adaptations[name].method == FULL].append(name)
        findings = [[NONE, reference, *kinds[False][:1]], kinds[True][:1]]
        return [[replace(pruned, adaptation=name) for name in names] for names in findings if names]

    @cached_property
    def sequences(self) -> dict[str, int]:
        """How many sequences of text each adaptation sees, counting repeats, by its name; of a
        search for the number of epochs that has no budget, those of one epoch.
        """
        return {name: self._sequences(self.resolved[name]) for name in self.adaptations}

    def _sequences(self, settings: Adaptation) -> int:
        if not isinstance(settings, Training):
            return self.calibration.samples
        # What lists epochs keeps its budget, and each candidate has `samples` of its own.
        if settings.budget is not None and settings.budget.tokens is not None:
            return settings.budget.tokens // self.calibration.length
        epochs = settings.epoch_counts
        return (settings.samples or self.calibration.samples) * (
            epochs[0] if len(epochs) == 1 else 1
        )

    def budgets_of(self, adaptation: str, names: Collection[str]) -> list[str]:
        """Return an adaptation and its other budgets among `names`, from small to large.

        A budget whose settings were chosen on the evaluation text is none of them, unless those of
        the given one were. Of several with the same amount of text, the given one counts, or the
        first in the config.
        """
        favoured = self.selected_on_evaluation
        amounts = {self.sequences[adaptation]: adaptation}
        for name, series in self.series.items():
            comparable = name not in favoured or adaptation in favoured
            if name in names and series == self.series[adaptation] and comparable:
                amounts.setdefault(self.sequences[name], name)
        return [amounts[amount] for amount in sorted(amounts)]

    @property
    def _adapted_by(self) -> dict[Cell, set[str]]:
        """The names of what adapts each pruned model, for the models also evaluated unadapted."""
        ways: dict[Cell, set[str]] = defaultdict(set)
        for cell in self.cells:
            ways[replace(cell, adaptation=NONE)].add(cell.adaptation)
        return {cell: names - {NONE} for cell, names in ways.items() if NONE in names}


def _pruned(cell: Cell) -> Cell:
    return replace(cell, adaptation=NONE, seed=0)


def _has_window(settings: Adaptation) -> bool:
    if isinstance(settings, Reconstruction):
        return settings.trains is None and settings.after is None
    return isinstance(settings, Local)


def is_usual_window(settings: Adaptation) -> bool:
    """Return whether an adaptation is compared with others that differ in their window alone: it
    has dense inputs and targets, and no quirk.
    """
    return (
        _has_window(settings)
        and isinstance(settings, Local)
        and (settings.inputs, settings.targets, settings.quirks) == ("dense", "dense", ())
    )


def _beside(settings: Adaptation, *keys: str) -> str:
    """Return the settings as text, without some keys and those that change only the memory."""
    written = settings.as_json()
    return json.dumps({key: written[key] for key in written if key not in (*keys, *MEMORY)})


def _label(settings: Adaptation) -> str:
    dense = ", dense" if settings.becomes_dense else ""
    if isinstance(settings, Reconstruction):
        name = f"{settings.method}, window {settings.window}"
        return name if settings.trains in (None, FULL) else f"{name}, {settings.trains}{dense}"
    return settings.method + dense + (", distilled" if settings.distils else "")
