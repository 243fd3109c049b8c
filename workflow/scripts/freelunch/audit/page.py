"""The audit as a page: one HTML file that an auditor reads from top to bottom.

This module prepares the content of each section; `workflow/report/audit/` lays it out. Style,
script and figures are inside the file, and links lead to files beside it, so it needs no network.
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jinja2 import Template
from markupsafe import Markup, escape

from freelunch.audit.appendix import EXPECTATIONS
from freelunch.audit.audit import Audit
from freelunch.audit.claim_verdicts import ClaimVerdict
from freelunch.audit.claims import REPORT
from freelunch.audit.figures import figures
from freelunch.audit.layouts import layout
from freelunch.audit.output_files import APPENDIX, AUDIT, METADATA, REFORMS, own_files
from freelunch.audit.page_card import meanings, run_facts, tally_text
from freelunch.audit.page_cells import cells_table, sorting, tasks_table
from freelunch.audit.page_claims import claim_reason, key_numbers, needs_text, threshold_history
from freelunch.audit.page_found import found_section
from freelunch.audit.protocol import ABSENT, DIFFERENT, PARTLY, SAME, UNKNOWN
from freelunch.audit.provenance import Provenance
from freelunch.audit.published import AGREES, DIFFERS, NOT_RUN
from freelunch.audit.reforms import CHECKLIST
from freelunch.audit.verdicts import (
    ADDS,
    DECIDES,
    FAILS,
    HOLDS,
    IN_PART,
    OPEN,
    UNTESTED,
    of_few_seeds,
)
from freelunch.reporting.formatting import NOTHING
from freelunch.reporting.results import Results
from freelunch.study.cell import Cell
from freelunch.study.study import Study

# The shape beside each word, so that verdicts differ in more than colour.
MARKS = {
    **dict.fromkeys((HOLDS, of_few_seeds(HOLDS), SAME, AGREES), "full"),
    **dict.fromkeys((IN_PART, of_few_seeds(IN_PART), PARTLY), "half"),
    **dict.fromkeys((FAILS, of_few_seeds(FAILS), DIFFERENT, DIFFERS), "cross"),
    **dict.fromkeys((*OPEN, UNKNOWN, ABSENT, NOT_RUN), "open"),
}
# What a part is called that counts for more or less than the others of its claim.
ROLES = {DECIDES: "deciding", ADDS: "additional"}
PAPER = "2510.14444"
SINGLE_FILES = (APPENDIX, REFORMS, AUDIT, METADATA)
_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
# A table of cells with more rows is folded.
FEW_CELLS = 20
# The figure of perplexity against tokens, operations and memory.
OF_COSTS = "budgets"
# The facts of an origin that say where something comes from.
_PLACES = "source", "package", "version", "repository", "revision", "path", "member", "members"
Grouped = TypeVar("Grouped")


@dataclass(frozen=True)
class ShownFigure:
    """A figure on the page.

    Attributes:
        number: Its number.
        claims: The claims that it belongs to.
        sums_up: Whether the page begins with it.
        is_of_costs: Whether it shows what adaptations reach for their cost, beside the rankings.
        title, alternative, caption: What it shows; a caption has paragraphs.
        image: Its drawing, inline.
        data: The file that it draws, if that is there.
    """

    number: int
    claims: Sequence[str]
    sums_up: bool
    is_of_costs: bool
    title: str
    image: str
    alternative: str
    caption: list[str]
    data: str | None


@dataclass(frozen=True)
class Origin:
    """The source of a model, text or task, and the digests of the files read."""

    kind: str
    name: str
    place: str
    licence: str
    digests: dict[str, str]


def page_text(
    results: Results,
    audit: Audit,
    root: Path,
    later: Sequence[str] = (),
    records: str = "../records",
) -> str:
    """Return the page of an audit.

    Args:
        results: The numbers of the study.
        audit: Its audit.
        root: Folder of the study's results. The page shows or links the tables, figures and other
            files that exist, and leaves out those that do not.
        later: Files that will exist when the page is read, as paths from `root`.
        records: Folder of the records, as a path from the page.
    """
    study, provenance = results.study, audit.provenance
    shown = list(_figures(study, root, audit.claims))
    # The page's policy lets only this script run, whatever a record may contain.
    script = (REPORT / "audit" / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    statuses = Counter(row.status for row in audit.protocol)
    joined = [row for row in audit.published if row.verdict != NOT_RUN]
    not_run = [row for row in audit.published if row.verdict == NOT_RUN]
    return _page(records).render(
        study=study,
        facts=run_facts(study, audit),
        answer=unbroken(audit.answer),
        tally=tally_text(audit.claims),
        leading=[figure for figure in shown if figure.sums_up],
        costs_figures=[figure for figure in shown if figure.is_of_costs],
        of_claims=figures_of_claims(shown, audit.claims),
        found=found_section(audit.found),
        claims=[claim for claim in audit.claims if claim.verdict != UNTESTED],
        untested=[claim for claim in audit.claims if claim.verdict == UNTESTED],
        needs=needs_text(audit.claims, study),
        late_thresholds=all(
            part.set.after_results for claim in audit.claims for part in claim.parts
        ),
        published_claims=audit.published_claims,
        cells=cells_table(results.cells),
        tasks=tasks_table(results.tasks),
        few_cells=FEW_CELLS,
        differing=_groups([row for row in audit.protocol if row.status != SAME], "group"),
        equal=_groups([row for row in audit.protocol if row.status == SAME], "group"),
        statuses={status: statuses[status] for status in MARKS if status in statuses},
        joined=joined,
        not_run=not_run,
        contradictions=audit.contradictions,
        of_paper=any(PAPER in row.reference for row in audit.published),
        meanings=dict(meanings(study)),
        why_not_run=Counter((row.source, row.reference, row.reason) for row in not_run),
        provenance=provenance,
        origins=list(_origins(provenance)),
        tokens=_tokens(provenance),
        costs=audit.costs,
        appendix=audit.appendix,
        expectations=EXPECTATIONS,
        reforms=_groups(audit.reforms, "module"),
        checklist=CHECKLIST,
        files=_files(study, root, later),
        script=Markup(script),
        script_digest=digest,
    )


def _page(records: str) -> Template:
    """Return the layout of the page, which links the records in a folder."""
    return layout(
        "page.html",
        {"marks": MARKS, "records": records, "roles": ROLES},
        listed=_in_line,
        prose=_prose,
        reason=claim_reason,
        key_numbers=key_numbers,
        history=threshold_history,
        record=lambda cell: f"{records}/{Cell.parse(cell).record_name}",
        sorting=sorting,
        yaml=lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100),
    )


def _in_line(value: Any) -> str:
    """Return a setting of a measure in one line; lists within a list are set apart."""
    if not isinstance(value, list):
        return str(value)
    apart = "; " if any(isinstance(each, list) for each in value) else ", "
    return apart.join(map(_in_line, value))


def _prose(text: str) -> Markup:
    """Return text as HTML, with text in backticks as code and % beside its number."""
    marked = re.sub(r"`+([^`]+)`+", r"<code>\1</code>", str(escape(text)))
    return Markup(unbroken(marked))


def unbroken(text: str) -> str:
    """Return text in which no line ends between a number and its per cent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _figures(study: Study, root: Path, claims: Sequence[ClaimVerdict]) -> Iterator[ShownFigure]:
    """Yield the figures that are there, numbered: those that sum up the study, then the others in
    the order of the claims they belong to.
    """
    order = [claim.id for claim in claims]
    every = list(figures().values())
    of_claims = [figure for figure in every if {*order} & {*figure.claims}]
    of_claims.sort(key=lambda it: min(order.index(name) for name in it.claims if name in order))
    number = 0
    # What sums up the study comes first, then what each adaptation reaches for its cost.
    of_claims.sort(key=lambda figure: figure.name != OF_COSTS)
    for figure in [*(each for each in every if each.sums_up), *of_claims]:
        data = root / figure.table.file
        if data.is_file() and len(data.read_text(encoding="utf-8").splitlines()) < 2:
            # The figure only says that there is nothing to draw.
            continue
        drawn = [root / "figures" / f"{figure.name}{suffix}" for suffix in _TYPES]
        path = next((path for path in drawn if path.is_file()), None)
        if path is None:
            continue
        number += 1
        content = base64.b64encode(path.read_bytes()).decode()
        yield ShownFigure(
            number=number,
            claims=figure.claims,
            sums_up=figure.sums_up,
            is_of_costs=figure.name == OF_COSTS,
            title=f"{figure.title[0].upper()}{figure.title[1:]}",
            image=f"data:{_TYPES[path.suffix]};base64,{content}",
            alternative=figure.alternative,
            caption=re.split(r"\n\s*\n", figure.caption(study).strip()),
            data=figure.table.file if data.is_file() else None,
        )


def figures_of_claims(
    shown: Sequence[ShownFigure], claims: Sequence[ClaimVerdict]
) -> dict[str, tuple[list[ShownFigure], list[int]]]:
    """Return the figures of each claim: those to show there, and the numbers of those above it."""
    above = {figure.number for figure in shown if figure.is_of_costs}
    found = {}
    for claim in claims:
        own = [figure for figure in shown if claim.id in figure.claims]
        new = [figure for figure in own if figure.number not in above]
        found[claim.id] = new, [figure.number for figure in own if figure.number in above]
        above |= {figure.number for figure in own}
    return found


def _groups(rows: Iterable[Grouped], key: str) -> dict[str, list[Grouped]]:
    """Return the rows by an attribute."""
    groups: dict[str, list[Grouped]] = {}
    for row in rows:
        groups.setdefault(getattr(row, key), []).append(row)
    return groups


def _origins(provenance: Provenance) -> Iterator[Origin]:
    """Yield the source of each model, text and task."""
    for kind in ("models", "texts", "tasks"):
        for name, origins in getattr(provenance, kind).items():
            for origin in filter(None, origins):
                digests = {"wheel": origin.get("sha256"), **origin.get("files", {})}
                digests["manifest"] = origin.get("manifest_sha256")
                yield Origin(
                    kind.removesuffix("s"),
                    name,
                    ", ".join(str(origin[key]) for key in _PLACES if key in origin),
                    provenance.config[kind][name].get("licence", NOTHING),
                    {name: digest for name, digest in digests.items() if digest},
                )


def _tokens(provenance: Provenance) -> Counter[tuple[str, str]]:
    """Return the number of cells that read the tokens of each digest."""
    return Counter(
        (name.replace("_", " "), digest)
        for digests in provenance.token_ids.values()
        for name, digest in digests.items()
    )


def _files(study: Study, root: Path, later: Sequence[str]) -> dict[str, list[str]]:
    """Return the other files of the study, as paths from its folder."""
    names = [*SINGLE_FILES, *own_files(study)]
    there = [name for name in names if name in later or (root / name).is_file()]
    groups = {
        "The audit": [name for name in there if name in SINGLE_FILES],
        "Tables": [name for name in there if name.startswith("tables/")],
        "Figures, and the data they draw": [name for name in there if name.startswith("figures/")],
    }
    return {title: paths for title, paths in groups.items() if paths}
