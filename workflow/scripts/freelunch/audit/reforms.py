"""The REFORMS checklist, each of its items answered from what a study recorded.

REFORMS has 32 items in eight modules for science that uses machine learning (Kapoor et al.,
Science Advances 2024, doi 10.1126/sciadv.adk3452, table 1). `workflow/report/audit/reforms.md` has
the answers. The numbers are the checklist's; the items are in our words, since it is not under our
licence. An item that a study cannot answer says so.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from freelunch.analysis.pairing import Records, seed_groups
from freelunch.audit.layouts import layout
from freelunch.records.record import adaptation_facts
from freelunch.reporting.formatting import parts_text
from freelunch.study.cell import NONE
from freelunch.study.registry import REPOSITORY
from freelunch.study.search import finds_rate, is_searched
from freelunch.study.study import Study


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
    items: list[ReformsItem] = []

    def item(module: str, name: str, asks: str, status: str, caller: Callable[[], str]) -> str:
        """Take an answer from the layout, which shows nothing of it."""
        items.append(ReformsItem(name, module, asks, status, " ".join(caller().split())))
        return ""

    names = dict.fromkeys(cell.adaptation for cell in study.cells if cell.adaptation != NONE)
    seeds = [len(cells) for cells in seed_groups(records) if not cells[0].is_dense]
    unadapted = {(cell.model, cell.pruning) for cell in records if cell.adaptation == NONE}
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    layout("reforms.md", counted=Counter, parts=parts_text).render(
        item=item,
        study=study,
        records=records,
        audit=audit,
        adaptations=list(names),
        # What each cell chose, by the adaptation that has candidates.
        choices={
            name: [
                adaptation_facts(record)["choice"]
                for cell, record in records.items()
                if cell.adaptation == name
            ]
            for name in names
            if is_searched(entry := study.config.adaptations[name]) or finds_rate(entry)
        },
        all_unadapted=all((cell.model, cell.pruning) in unadapted for cell in records),
        has_held_out=any(map(study.needs_held_out, study.cells)),
        fewest_seeds=min(seeds, default=0),
        # Where there is one, the address of the repository.
        address=citation.get("repository-code"),
    )
    return items
