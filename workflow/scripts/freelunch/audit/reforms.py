"""The REFORMS checklist, each of its items answered from what a study recorded.

REFORMS has 32 items in eight modules for science that uses machine learning (Kapoor et al.,
Science Advances 2024, doi 10.1126/sciadv.adk3452, table 1). `workflow/report/audit/reforms.md` has
the answers. The numbers are the checklist's; the items are in our words, since it is not under our
licence. An item that a study cannot answer says so.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from freelunch.analysis.pairing import Records, seed_groups
from freelunch.audit.layouts import layout
from freelunch.audit.protocol import ComparedSetting
from freelunch.audit.provenance import Facts
from freelunch.audit.verdicts import UNTESTED
from freelunch.records.record import ChoiceFacts, PerplexityFacts, adaptation_facts
from freelunch.reporting.formatting import parts_text, range_text, with_error
from freelunch.study import steps
from freelunch.study.cell import NONE, Cell
from freelunch.study.registry import REPOSITORY
from freelunch.study.search import is_searched
from freelunch.study.sources import (
    AnyText,
    Hub,
    InWheel,
    LocalSource,
    Mixture,
    Model,
    Task,
    Tokens,
)
from freelunch.study.study import Study

CHECKLIST = (
    "REFORMS is a checklist for science that uses machine learning: Kapoor et al., Science "
    "Advances 10, eadk3452 (2024), doi 10.1126/sciadv.adk3452. The items are given in short; the "
    "paper has their words and explains them. The answers come from the records and the config of "
    "the study."
)
# The settings of an adaptation that say what it is.
_TOLD = ("method", "window", "loss")


@dataclass(frozen=True)
class ReformsItem:
    """An item of the checklist, and its answer: whether it is one, and what it says."""

    id: str
    module: str
    asks: str
    status: str
    text: str


def gather_reforms(study: Study, records: Records, audit: Any) -> list[ReformsItem]:
    """Return each item with its answer, in the order of the checklist.

    Args:
        study: The study.
        records: The record of each of its cells.
        audit: The study's `Audit`, of which only the checklist is missing.
    """
    facts = _Facts(study, records, audit)
    layout("reforms.md").render(facts=facts)
    return facts.items


@dataclass(frozen=True)
class _Facts:
    """What the answers are taken from: a finished study, and what its audit says."""

    study: Study
    records: Records
    audit: Any
    items: list[ReformsItem] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)

    def module(self, name: str) -> None:
        """Begin a module of the checklist."""
        self.modules.append(name)

    def item(self, name: str, asks: str, status: str, caller: Callable[[], str]) -> str:
        """Take an answer from the layout, which shows nothing of it."""
        text = " ".join(caller().split())
        self.items.append(ReformsItem(name, self.modules[-1], asks, status, text))
        return ""

    @cached_property
    def tested(self) -> list[Any]:
        """Return the paper's claims that the study tests."""
        return [claim for claim in self.audit.claims if claim.verdict != UNTESTED]

    @property
    def tested_names(self) -> str:
        return ", ".join(claim.id for claim in self.tested)

    def setting(self, name: str) -> ComparedSetting:
        """Return a setting of the protocol by its id."""
        row: ComparedSetting = next(row for row in self.audit.protocol if row.id == name)
        return row

    @cached_property
    def pruned(self) -> list[Cell]:
        return [cell for cell in self.study.cells if not cell.is_dense]

    @cached_property
    def adaptations(self) -> list[str]:
        names = dict.fromkeys(cell.adaptation for cell in self.study.cells)
        return [name for name in names if name != NONE]

    @cached_property
    def searched(self) -> list[str]:
        """Return the adaptations that chose among learning rates or epochs."""
        entries = self.study.config.adaptations
        return [name for name in self.adaptations if is_searched(entries[name])]

    @cached_property
    def fixed(self) -> list[str]:
        """Return the adaptations that chose nothing: the config has all of their settings."""
        return [name for name in self.adaptations if name not in self.searched]

    @cached_property
    def chosen_on_evaluation(self) -> list[str]:
        """Return the adaptations that chose on the text that the study is judged by."""
        favoured = self.study.comparisons.selected_on_evaluation
        return [name for name in self.searched if name in favoured]

    def told(self, adaptation: str) -> str:
        """Return the settings of an adaptation that say what it is."""
        entry = self.study.config.adaptations[adaptation].as_json()
        told = ", ".join(f"{key} {entry[key]}" for key in _TOLD if key in entry)
        return told.replace("_", " ")

    def choices(self, adaptation: str) -> list[ChoiceFacts]:
        """Return what each cell of an adaptation chose among which candidates."""
        cells = [cell for cell in self.records if cell.adaptation == adaptation]
        choices = [adaptation_facts(self.records[cell])["choice"] for cell in cells]
        return [choice for choice in choices if choice is not None]

    def chosen(self, adaptation: str) -> Counter[str]:
        """Return how many cells chose each candidate of an adaptation."""
        return Counter(it["chosen"].partition(".")[2] for it in self.choices(adaptation))

    @property
    def all_unadapted(self) -> bool:
        """Return whether every pruned model was also measured without adaptation."""
        unadapted = {(cell.model, cell.pruning) for cell in self.records if cell.adaptation == NONE}
        return unadapted == {(cell.model, cell.pruning) for cell in self.records}

    @property
    def has_held_out(self) -> bool:
        return any(map(self.study.needs_held_out, self.study.cells))

    @property
    def is_tokens(self) -> bool:
        return isinstance(self.study.text(self.study.calibration.text), Tokens)

    @property
    def fewest_seeds(self) -> int:
        """Return the fewest seeds that a number of a pruned model comes from; 0 without any."""
        groups = [cells for cells in seed_groups(self.records) if not cells[0].is_dense]
        return min(map(len, groups), default=0)

    @property
    def metrics(self) -> set[str]:
        return {name for record in self.records.values() for name in record["metrics"]}

    @property
    def not_finite(self) -> list[str]:
        perplexities = self._perplexities.items()
        return [str(cell) for cell, found in perplexities if found["perplexity"] is None]

    @property
    def dense_levels(self) -> list[str]:
        return [
            f"`{cell.model}` " + with_error(found["perplexity"], found["perplexity_standard_error"])
            for cell, found in self._perplexities.items()
            if cell.is_dense
        ]

    @property
    def _perplexities(self) -> dict[Cell, PerplexityFacts]:
        return {cell: it["metrics"][steps.PERPLEXITY] for cell, it in self.records.items()}

    @property
    def amounts(self) -> list[str]:
        """Return how much text and how many documents were used, for each use."""
        study, records, found = self.study, self.records.values(), self._perplexities.values()

        def ends(numbers: list[int]) -> str:
            return range_text(numbers, ",")

        sequences = [study.calibration.samples, *map(study.samples, self.adaptations)]
        distinct = [it["adaptation"]["distinct_tokens"] for it in records if it["adaptation"]]
        documents = [len({*each["documents"]}) for each in found if "documents" in each]
        calibration = (
            f"Calibration and training: {ends(sequences)} sequences of {study.sequence_text} tokens"
        )
        evaluation = (
            f"evaluation: {ends([each['windows'] for each in found])} windows of "
            f"{ends([each['length'] for each in found])} tokens"
        )
        amounts = [
            calibration + (f", of which {ends(distinct)} tokens are distinct" if distinct else ""),
            evaluation + (f" in {ends(documents)} documents" if documents else ""),
        ]
        drift = [it["metrics"][steps.DRIFT] for it in records if steps.DRIFT in it["metrics"]]
        if drift:
            windows = ends([each["windows"] for each in drift])
            amounts.append(f"held-out calibration text: {windows} sequences")
        tasks: dict[str, str] = {}
        for record in records:
            for name, task in record["metrics"].get(steps.TASKS, {}).get("tasks", {}).items():
                of_all = f"{task['documents']:,} of {task['documents_in_all']:,}"
                tasks[name] = f"`{name}`: {of_all} documents"
        return [*amounts, *tasks.values()]

    @cached_property
    def _entries(self) -> dict[tuple[str, str], Model | AnyText | Task]:
        """Return the models, texts and tasks that cells use, by registry and name."""
        config, provenance = self.study.config, self.audit.provenance
        return {
            (registry, name): getattr(config, registry)[name]
            for registry in ("models", "texts", "tasks")
            for name in getattr(provenance, registry)
        }

    @property
    def local(self) -> list[str]:
        """Return the names of models, texts and tasks that are files of whoever runs the study."""
        own = (LocalSource, Tokens)
        return [name for (_, name), entry in self._entries.items() if isinstance(entry, own)]

    def places(self, *registries: str) -> str:
        """Return where models, texts or tasks come from, those from one place together."""
        found: dict[str, list[str]] = {}
        for (registry, name), entry in self._entries.items():
            if registry in registries:
                found.setdefault(_place(registry, entry), []).append(f"`{name}`")
        return "; ".join(f"{', '.join(names)} from {place}" for place, names in found.items())

    @property
    def commits(self) -> list[Facts]:
        return [each for each in self.audit.provenance.commits if each["commit"]]

    @property
    def clean(self) -> bool:
        return not any(each["uncommitted_changes"] for each in self.commits)

    @cached_property
    def address(self) -> str | None:
        """Return the address of the repository, if `CITATION.cff` states one."""
        citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
        address: str | None = citation.get("repository-code")
        return address

    @property
    def program_status(self) -> str:
        if not self.commits:
            return "not answered"
        return "answered" if self.address and self.clean else "answered in part"


def _place(registry: str, entry: Model | AnyText | Task) -> str:
    """Return where a model, text or task comes from: an address, or a local file."""
    match entry:
        case InWheel():
            return f"https://pypi.org/project/{entry.package}/{entry.version}/"
        case Hub():
            kind = "" if registry == "models" else "datasets/"
            return f"https://huggingface.co/{kind}{entry.repository}/tree/{entry.revision}"
        case Mixture():
            return f"a mixture of {parts_text(entry.parts)}"
        case _:
            is_local = isinstance(entry, LocalSource | Tokens)
            return f"the local file `{Path(entry.place).name}`" if is_local else entry.place
