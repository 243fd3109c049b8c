"""What the answers to the REFORMS checklist are taken from, and the kinds of answers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from freelunch.analysis.pairing import Records, seed_groups
from freelunch.audit.crate_facts import source_of
from freelunch.audit.verdicts import UNTESTED
from freelunch.study.cell import NONE
from freelunch.study.search import is_searched
from freelunch.study.sources import LocalSource, Model, Task, Text, Tokens
from freelunch.study.study import Study

ANSWERED, IN_PART = "answered", "answered in part"
# No study of this kind can answer the question; this study does not answer it.
NOT_APPLICABLE, NOT_ANSWERED = "not applicable", "not answered"


class Answer(NamedTuple):
    """The answer to an item: whether it is one, and what it says, in full sentences."""

    status: str
    text: str


@dataclass(frozen=True)
class Facts:
    """A finished study, and what its audit says.

    Attributes:
        study: The study.
        records: The record of each of its cells.
        audit: Scope, worth, claims, protocol, provenance and costs, as in `audit.json`.
    """

    study: Study
    records: Records
    audit: Mapping[str, Any]

    @cached_property
    def tested(self) -> list[Mapping[str, Any]]:
        """Return the paper's claims that the study tests."""
        return [claim for claim in self.audit["claims"] if claim["verdict"] != UNTESTED]

    @property
    def tested_names(self) -> str:
        return ", ".join(claim["id"] for claim in self.tested)

    @cached_property
    def adaptations(self) -> list[str]:
        """Return the names of the adaptations, each once."""
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
        return [
            name for name in self.searched if name in self.study.comparisons.selected_on_evaluation
        ]

    @cached_property
    def fewest_seeds(self) -> int:
        """Return the fewest seeds that a number of a pruned model comes from; 0 without any."""
        groups = [cells for cells in seed_groups(self.records) if not cells[0].is_dense]
        return min(map(len, groups), default=0)

    @cached_property
    def entries(self) -> dict[tuple[str, str], Model | Text | Task]:
        """Return the models, texts and tasks that cells use, by registry and name."""
        config, provenance = self.study.config, self.audit["provenance"]
        return {
            (registry, name): getattr(config, registry)[name]
            for registry in ("models", "texts", "tasks")
            for name in provenance[registry]
        }

    @cached_property
    def local(self) -> list[str]:
        """Return the names of models, texts and tasks that are files of whoever runs the study."""
        own = (LocalSource, Tokens)
        return [name for (_, name), entry in self.entries.items() if isinstance(entry, own)]

    def setting(self, name: str) -> Mapping[str, Any]:
        """Return a setting of the protocol by its id."""
        row: Mapping[str, Any] = next(row for row in self.audit["protocol"] if row["id"] == name)
        return row

    def places(self, *registries: str) -> str:
        """Return where models, texts or tasks come from, those from one place together."""
        found: dict[str, list[str]] = {}
        for (registry, name), entry in self.entries.items():
            if registry in registries:
                source = source_of(registry, entry)
                own = f"the local file `{Path(source.get('alternateName', '')).name}`"
                found.setdefault(source.get("url", own), []).append(name)
        return "; ".join(f"{code(names)} from {place}" for place, names in found.items())


def code(names: Iterable[object]) -> str:
    """Return names as code, with commas between them."""
    return ", ".join(f"`{name}`" for name in names)
