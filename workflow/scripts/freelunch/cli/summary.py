"""What a study found, in a few lines for the terminal: finished, audited, or unfinished."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from freelunch.analysis.doubts import PERPLEXITY, Doubt, doubted, told
from freelunch.analysis.pairing import Records
from freelunch.audit.output_checks import check_finished
from freelunch.audit.output_files import AUDIT_SUMS, PAGE, check_sealed
from freelunch.audit.page import page_texts
from freelunch.audit.rebuild_docs import SUMMARY, write_results
from freelunch.audit.verdicts import OTHERS, VERDICTS, on_models
from freelunch.cli.verify import check_intact
from freelunch.core.errors import first_of
from freelunch.core.files import write_atomically
from freelunch.core.lock import remove_lock, wait_for_lock
from freelunch.records.read import load_finished, load_records
from freelunch.reporting.cells import means_over_seeds
from freelunch.reporting.formatting import marked, rounded, row_marks
from freelunch.reporting.results import Results
from freelunch.study.cell import NONE
from freelunch.study.study import Study

# How many rows of best cells are shown at most.
_ROWS = 4
_KINDS = ("pruned", "reconstructed", "retrained")


def audit_text(study: Study) -> str:
    """Return a line for each claim, and below them the page with the evidence.

    A line says what is reproduced, what that says of the paper's claim if anything, and the scope.
    What published tables say of the claims stands apart. UserError: the study has no audit, was
    edited since, or a file of the audit is damaged.
    """
    check_finished(study)
    check_sealed(study, AUDIT_SUMS)
    audit = _audit_of(study)
    lines = [f"Scope: {audit['scope']}", ""]
    for claim in audit["claims"]:
        scope = f" [{claim['scope']}]" if claim["scope"] else ""
        found = on_models(claim["verdict"], claim["models"])
        says = "" if claim["bearing"] == OTHERS else f" (the paper's claim: {claim['bearing']})"
        lines.append(f"{claim['id']:<5} {found}{says}: {claim['title']}{scope}")
    lines += ["", *told(_doubts(audit))] if audit["doubts"] else []
    if published := audit["published_claims"]:
        lines += ["", "The same claims in published tables, which carry no intervals:"]
        lines += [f"{claim['id']:<5} {claim['verdict']}" for claim in published]
    return "\n".join([*lines, "", f"The page with the evidence: {study.paths.root / PAGE}"])


def summary(study: Study) -> str:
    """Return what a finished study found; UserError if a record is missing or of other settings, or
    anything that the study made is damaged or missing.
    """
    records = load_records(study)
    check_intact(study)
    return summary_text(study, records)


def summary_text(study: Study, records: Records) -> str:
    """Return what an audited study found, its scope, the best cell of each kind, the verdicts, and
    where all is, given the record of each cell.
    """
    paths, audit = study.paths, _audit_of(study)
    tables = paths.tables / "summary.md"
    heads, *rows = _best(study, doubted(means_over_seeds(records), _doubts(audit)))
    table = [heads, *rows[:_ROWS]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        f"The study `{study.name}` ({study.source}) is finished.",
        *findings(audit),
        f"What that says of the paper's claims: {_grouped(audit['claims'], 'bearing')}",
    ]
    if published := audit["published_claims"]:
        lines.append(f"In published tables: {verdicts_text(published)}")
    lines.append(f"Best perplexity of each kind on `{study.perplexity.text}` (lower is better):")
    lines += [f"  {'  '.join(map(str.ljust, row, widths))}".rstrip() for row in table]
    if len(rows) > _ROWS:
        lines.append(f"  and {len(rows) - _ROWS} more: {tables}")
    return "\n".join(
        [
            *lines,
            f"page         {paths.root / PAGE}",
            f"tables       {tables}, and more beside it",
            f"checkpoints  {Path(paths.root) / 'checkpoints'}",
            f"Next: open the page, or edit {study.source} and run the same command: only what "
            "depends on the edit runs.",
        ]
    )


def interim_text(study: Study) -> str:
    """Write tables, figures, verdicts and a page of the cells that have finished, and return what
    was found, what is missing, and where all is. UserError: a record is damaged, or there is no
    pruned cell to compare with its dense model.
    """
    known, folder, records = load_finished(study), study.paths.interim, study.paths.records
    lock = wait_for_lock(folder.with_name(f".{folder.name}.lock"))
    try:
        # An earlier look stays until this one is whole.
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            new = Path(scratch) / "new"
            audit = write_results(known.study, known.records, records, new, [".png", ".svg"])
            results = Results(known.study, known.records, records)
            pages = page_texts(results, audit, new, records="../../records")
            for name, text in pages.items():
                write_atomically(new / name, text)
            if folder.exists():
                folder.rename(Path(scratch) / "old")
            new.rename(folder)
    finally:
        remove_lock(lock)
    part = f" of the part{study.part_words}" if study.part_words else ""
    lines = [
        f"{len(known.records)} of the {len(study.cells)} cells{part} of the study `{study.name}` "
        f"({study.source}) have finished."
    ]
    if known.outdated:
        first, (key, found, asked) = next(iter(known.outdated.items()))
        lines.append(
            "Finished with other settings, so that they run again: "
            f"{', '.join(first_of(known.outdated))}. For {first}, {key} was {found} and is {asked}."
        )
    if known.waiting:
        lines.append(f"Finished before their dense models: {', '.join(first_of(known.waiting))}.")
    others = {*known.records, *known.outdated, *known.waiting}
    lines += findings(audit.as_json())
    if missing := [cell for cell in study.cells if cell not in others]:
        lines.append(f"Not yet: {', '.join(first_of(missing))}.")
    if known.study.is_unfinished:
        lines.append("Verdicts may change with each cell that finishes.")
    lines.append(f"page    {folder / PAGE}")
    lines.append(f"tables  {folder / SUMMARY}, and more beside it")
    return "\n".join(lines)


def findings(audit: Mapping[str, Any]) -> list[str]:
    """Return the answer of an audit, its scope, its doubts, and its verdicts, a line each."""
    return [
        audit["answer"],
        f"Scope: {audit['scope']}",
        *told(_doubts(audit)),
        f"The paper's claims here: {verdicts_text(audit['claims'])}",
    ]


def verdicts_text(claims: Sequence[Mapping[str, Any]]) -> str:
    """Return the claims of an audit by their verdict."""
    in_order = sorted(claims, key=lambda claim: VERDICTS.index(claim["verdict"]))
    return _grouped(in_order, "verdict")


def _audit_of(study: Study) -> Mapping[str, Any]:
    path = study.paths.audit / "audit.json"
    audit: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return audit


def _doubts(audit: Mapping[str, Any]) -> list[Doubt]:
    return [Doubt(**each) for each in audit["doubts"]]


def _grouped(claims: Sequence[Mapping[str, Any]], key: str) -> str:
    named: dict[str, list[str]] = {}
    for claim in claims:
        named.setdefault(claim[key], []).append(claim["id"])
    return "; ".join(f"{value}: {', '.join(ids)}" for value, ids in named.items())


def _best(study: Study, means: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    dense: dict[str, str] = {}
    best: dict[tuple[str, str, str], dict[str, tuple[float, str]]] = {}
    for mean in means:
        value, adaptation = float(mean["perplexity"]), mean["adaptation"]
        shown = rounded(value, mean["perplexity_standard_error"])
        shown = marked(shown, None, row_marks(mean, PERPLEXITY))
        if mean["criterion"] == "dense":
            if adaptation == NONE:
                dense[mean["model"]] = shown
            continue
        settings = study.adaptation(adaptation) if adaptation != NONE else None
        if settings is not None and settings.after is not None:
            continue
        kind = _KINDS[0 if settings is None else 1 + settings.is_retraining]
        named = f"{shown} ({adaptation})" if settings else shown
        of_kind = best.setdefault((mean["model"], mean["pattern"], mean["criterion"]), {})
        one = (value if math.isfinite(value) else math.inf, named)
        of_kind[kind] = min(of_kind.get(kind, one), one, key=lambda each: each[0])
    if not best:
        return [["model", "dense"], *map(list, dense.items())]
    rows = [["model", "pattern", "criterion", "dense", *_KINDS]]
    # Kinds compare only behind the same masks, so the criteria that have the most are shown.
    most: dict[tuple[str, ...], int] = {}
    for place, of_kind in best.items():
        most[place[:2]] = max(most.get(place[:2], 0), len(of_kind))
    for place, of_kind in best.items():
        if len(of_kind) < most[place[:2]]:
            continue
        named_best = [of_kind[kind][1] if kind in of_kind else "-" for kind in _KINDS]
        rows.append([*place, dense.get(place[0], "-"), *named_best])
    return rows
