"""What a study found, in a few lines for the terminal: finished, audited, or unfinished."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freelunch.analysis.pairing import Records
from freelunch.audit.output_checks import check_finished
from freelunch.audit.output_files import AUDIT_SUMS, PAGE, audit_files
from freelunch.audit.verdicts import VERDICTS
from freelunch.cli.verify import check_intact
from freelunch.core.digest import check_sums
from freelunch.records.read import load_records
from freelunch.reporting.cells import means_over_seeds
from freelunch.reporting.formatting import rounded
from freelunch.study.cell import NONE
from freelunch.study.study import Study

# How many rows of best cells are shown at most.
_ROWS = 4
_KINDS = ("pruned", "reconstructed", "retrained")
_NOTHING = "-"


def audit_text(study: Study) -> str:
    """Return a line for each claim, and below them the page with the evidence.

    A line says what was found, in brackets what that says of the claim, and at its end the scope.
    What published tables say of the claims stands apart.

    Raises:
        UserError: The study has no audit, it was edited since, or a file of the audit is damaged.
    """
    root = study.paths.root
    check_finished(study)
    check_sums(root / AUDIT_SUMS, root, audit_files(study))
    audit = _audit_of(study)
    lines = [f"Scope: {audit['scope']}", ""]
    for claim in audit["claims"]:
        scope = f" [{claim['scope']}]" if claim["scope"] else ""
        verdict = f"{claim['id']:<5} {claim['verdict']} ({claim['bearing']})"
        lines.append(f"{verdict}: {claim['title']}{scope}")
    if published := audit["published_claims"]:
        lines += ["", "The same claims in published tables, which carry no intervals:"]
        lines += [f"{claim['id']:<5} {claim['verdict']}" for claim in published]
    return "\n".join([*lines, "", f"The page with the evidence: {root / PAGE}"])


def summary(study: Study) -> str:
    """Return what a finished study found.

    Raises:
        UserError: A record is missing, or was made with other than the current settings; or
            anything that the study made is damaged or missing.
    """
    records = load_records(study)
    check_intact(study)
    return summary_text(study, records)


def summary_text(study: Study, records: Records) -> str:
    """Return what was found, its scope, the best cell of each kind, the verdicts, and where all is.

    Args:
        study: A study whose audit is made.
        records: The record of each of its cells.
    """
    paths, audit = study.paths, _audit_of(study)
    tables = paths.tables / "summary.md"
    lines = [
        f"The study `{study.name}` ({study.source}) is finished.",
        *findings(audit),
        f"What that says of the paper's claims: {_grouped(audit['claims'], 'bearing')}",
    ]
    if published := audit["published_claims"]:
        lines.append(f"In published tables: {verdicts_text(published)}")
    heads, *rows = _best(study, means_over_seeds(records))
    more = [f"  and {len(rows) - _ROWS} more: {tables}"] if len(rows) > _ROWS else []
    return "\n".join(
        [
            *lines,
            f"Best perplexity of each kind on `{study.perplexity.text}` (lower is better):",
            *_columns([heads, *rows[:_ROWS]]),
            *more,
            f"page         {paths.root / PAGE}",
            f"tables       {tables}, and more beside it",
            f"checkpoints  {Path(paths.root) / 'checkpoints'}",
            f"Next: open the page, or edit {study.source} and run the same command: only what "
            "depends on the edit runs.",
        ]
    )


def findings(audit: Mapping[str, Any]) -> list[str]:
    """Return the answer of an audit, its scope, and its verdicts, a line each."""
    return [
        audit["answer"],
        f"Scope: {audit['scope']}",
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


def _grouped(claims: Sequence[Mapping[str, Any]], key: str) -> str:
    """Return the claims by what they have under a key."""
    named: dict[str, list[str]] = {}
    for claim in claims:
        named.setdefault(claim[key], []).append(claim["id"])
    return "; ".join(f"{value}: {', '.join(ids)}" for value, ids in named.items())


def _best(study: Study, means: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a row for each pruned model and pattern, below a row of headings."""
    dense = {mean["model"]: _number(mean) for mean in means if mean["criterion"] == "dense"}
    best: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for mean in means:
        if mean["criterion"] != "dense":
            of_kind = best.setdefault((mean["model"], mean["pattern"]), {})
            kind = _kind(study, mean["adaptation"])
            of_kind[kind] = min(of_kind.get(kind, mean), mean, key=_order)
    if not best:
        return [["model", "dense"], *([model, number] for model, number in dense.items())]
    rows = [["model", "pattern", "dense", *_KINDS]]
    for (model, pattern), of_kind in best.items():
        named = [_named(of_kind[kind]) if kind in of_kind else _NOTHING for kind in _KINDS]
        rows.append([model, pattern, dense.get(model, _NOTHING), *named])
    return rows


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [f"  {'  '.join(map(str.ljust, row, widths))}".rstrip() for row in rows]


def _kind(study: Study, adaptation: str) -> str:
    settings = study.adaptation(adaptation) if adaptation != NONE else None
    if settings is None:
        return _KINDS[0]
    return _KINDS[2] if settings.is_retraining else _KINDS[1]


def _order(mean: Mapping[str, Any]) -> float:
    value = mean["perplexity"]
    return float(value) if math.isfinite(value) else math.inf


def _number(mean: Mapping[str, Any]) -> str:
    return rounded(mean["perplexity"], mean["perplexity_standard_error"])


def _named(mean: Mapping[str, Any]) -> str:
    """Return a perplexity, and how the model was pruned and adapted."""
    how = [mean["criterion"], *([mean["adaptation"]] if mean["adaptation"] != NONE else [])]
    return f"{_number(mean)} ({', '.join(how)})"
