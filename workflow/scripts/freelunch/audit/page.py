"""The audit as a page: one HTML file that an auditor reads from top to bottom.

This module prepares the content of each section; `workflow/report/audit/` lays it out. Style,
script and figures are inside the file, and links lead to files beside it, so it needs no network.
"""

import base64
import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from freelunch.audit.appendix import EXPECTATIONS, cost_text
from freelunch.audit.data import REPORT
from freelunch.audit.page_card import computed_text, meanings, run_facts, tally_text
from freelunch.audit.page_cells import (
    duration,
    shown_cells,
    shown_tasks,
    significant,
    sorting,
)
from freelunch.audit.page_claims import needs_text, shown_claims, shown_published
from freelunch.audit.page_found import shown_found
from freelunch.audit.protocol import (
    ABSENT,
    DIFFERENT,
    PARTLY,
    SAME,
    UNKNOWN,
)
from freelunch.audit.published import AGREES, DIFFERS, NOT_RUN
from freelunch.audit.reforms import CHECKLIST
from freelunch.audit.verdicts import (
    ADDS,
    DECIDES,
    FAILS,
    HOLDS,
    IN_PART,
    OPEN,
    of_few_seeds,
)
from freelunch.reporting.derived import (
    APPENDIX,
    AUDIT,
    METADATA,
    REFORMS,
    evaluation_name,
    own_files,
)
from freelunch.reporting.figures import figures
from freelunch.reporting.formatting import NOTHING, with_error
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
# The facts of an origin that say where something comes from.
_PLACES = (
    *("source", "package", "version", "repository", "revision", "path"),
    *("member", "members"),
)


def page_text(
    study: Study,
    audit: Mapping[str, Any],
    root: Path,
    later: Sequence[str] = (),
    records: str = "../records",
) -> str:
    """Return the page of an audit.

    Args:
        study: The study.
        audit: As `freelunch.audit.audit.audit_study` returns it.
        root: Folder of the study's results, with its `records`. The page shows or links the tables,
            figures and other files that exist, and leaves out those that do not.
        later: Files that will exist when the page is read, as paths from `root`.
        records: Folder of the records, as a path from the page.
    """
    environment = _environment(records)
    shown = list(_figures(study, root, audit["claims"]))
    # The page's policy lets only this script run, whatever a record may contain.
    script = (REPORT / "audit" / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    statuses = Counter(row["status"] for row in audit["protocol"])
    not_run = [row for row in audit["published"] if row["verdict"] == NOT_RUN]
    return environment.get_template("audit/page.html").render(
        study=study,
        facts=run_facts(study, audit),
        answer=unbroken(audit["answer"]),
        tally=tally_text(audit["claims"]),
        leading=[figure for figure in shown if figure["sums_up"]],
        found=shown_found(study, audit["found"]),
        claims=shown_claims(audit["claims"], shown),
        needs=needs_text(audit["claims"], study),
        late_thresholds=all(
            part["set"]["after_results"] for claim in audit["claims"] for part in claim["parts"]
        ),
        published_claims=shown_published(audit["published_claims"]),
        cells=shown_cells(root / "tables"),
        tasks=shown_tasks(root / "tables"),
        few_cells=FEW_CELLS,
        differing=_by_group(row for row in audit["protocol"] if row["status"] != SAME),
        equal=_by_group(row for row in audit["protocol"] if row["status"] == SAME),
        statuses={status: statuses[status] for status in MARKS if status in statuses},
        joined=[row for row in audit["published"] if row["verdict"] != NOT_RUN],
        not_run=not_run,
        contradictions=audit["contradictions"],
        of_paper=any(PAPER in row["reference"] for row in audit["published"]),
        meanings=dict(meanings(study)),
        why_not_run=Counter((row["source"], row["reference"], row["reason"]) for row in not_run),
        provenance=audit["provenance"],
        computed=computed_text(audit["provenance"]),
        origins=list(_origins(audit["provenance"])),
        tokens=_tokens(audit["provenance"]),
        costs=audit["costs"],
        appendix=audit["appendix"],
        expectations=EXPECTATIONS,
        reforms=_by_group(audit["reforms"], "module"),
        checklist=CHECKLIST,
        files=_files(study, root, later),
        script=Markup(script),
        script_digest=digest,
    )


def _environment(records: str) -> Environment:
    """Return what renders the page, which links the records in a folder."""
    environment = Environment(
        loader=FileSystemLoader(REPORT),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "marks": MARKS,
        "nothing": NOTHING,
        "records": records,
        "roles": ROLES,
    }
    environment.filters |= {
        "cost": cost_text,
        "duration": duration,
        "listed": _in_line,
        "prose": _prose,
        "quoted": shlex.quote,
        "record": lambda cell: f"{records}/{Cell.parse(cell).record_name}",
        "significant": significant,
        "sorting": sorting,
        "with_error": with_error,
        "yaml": lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100),
    }
    return environment


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


def _figures(
    study: Study, root: Path, claims: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the figures that are there, numbered: those that sum up the study, then the others in
    the order of the claims they belong to.
    """
    places = {claim["id"]: place for place, claim in enumerate(claims)}
    of_claims = [figure for figure in figures().values() if places.keys() & figure.claims]
    of_claims.sort(key=lambda it: min(places[claim] for claim in it.claims if claim in places))
    found = 0
    for figure in [*(it for it in figures().values() if it.sums_up), *of_claims]:
        data = root / "figures" / f"{figure.name}.csv"
        if data.is_file() and len(data.read_text(encoding="utf-8").splitlines()) < 2:
            # The figure only says that there is nothing to draw.
            continue
        drawn = [root / "figures" / f"{figure.name}{suffix}" for suffix in _TYPES]
        path = next((path for path in drawn if path.is_file()), None)
        if path is None:
            continue
        found += 1
        content = base64.b64encode(path.read_bytes()).decode()
        yield {
            "number": found,
            "claims": figure.claims,
            "sums_up": figure.sums_up,
            "title": f"{figure.title[0].upper()}{figure.title[1:]}",
            "image": f"data:{_TYPES[path.suffix]};base64,{content}",
            "alternative": figure.alternative,
            "caption": re.split(r"\n\s*\n", figure.caption(study).strip()),
            "data": f"figures/{figure.name}.csv" if data.is_file() else None,
        }


def _by_group(
    rows: Iterable[Mapping[str, Any]], key: str = "group"
) -> dict[str, list[Mapping[str, Any]]]:
    """Return the rows of each group."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def _origins(provenance: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the source of each model, text and task, and the digests of the files read."""
    for kind in ("models", "texts", "tasks"):
        for name, origins in provenance[kind].items():
            for origin in filter(None, origins):
                digests = {"wheel": origin.get("sha256"), **origin.get("files", {})}
                digests["manifest"] = origin.get("manifest_sha256")
                yield {
                    "kind": kind.removesuffix("s"),
                    "name": name,
                    "place": ", ".join(str(origin[key]) for key in _PLACES if key in origin),
                    "licence": provenance["config"][kind][name].get("licence", NOTHING),
                    "digests": {name: digest for name, digest in digests.items() if digest},
                }


def _tokens(provenance: Mapping[str, Any]) -> Counter[tuple[str, str]]:
    """Return the number of cells that read the tokens of each digest."""
    return Counter(
        (name.replace("_", " "), digest)
        for digests in provenance["token_ids"].values()
        for name, digest in digests.items()
    )


def _files(study: Study, root: Path, later: Sequence[str]) -> dict[str, list[str]]:
    """Return the other files of the study, as paths from its folder."""
    evaluations = [evaluation_name(study, cell) for cell in study.cells]
    names = [*SINGLE_FILES, *own_files(study), *evaluations]
    there = [name for name in names if name in later or (root / name).is_file()]
    groups = {
        "The audit": [name for name in there if name in SINGLE_FILES],
        "Tables": [name for name in there if name.startswith("tables/")],
        "Figures, and the data they draw": [name for name in there if name.startswith("figures/")],
        "Records as Every Eval Ever files": [name for name in there if name in evaluations],
    }
    return {title: paths for title, paths in groups.items() if paths}
