"""What published tables say of the claims, apart from what a study finds.

A claim names in `in_tables` the parts that it asks of published tables. Measures, thresholds and
the way verdicts combine are those of a study. Published tables carry no intervals, so that a
verdict says on which side of the threshold their numbers lie, and no more.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from freelunch.analysis.intervals import Estimate, estimate
from freelunch.audit.claims import Claim, part_facts, reason_text
from freelunch.audit.measures import MEASURES
from freelunch.audit.measures.measure import Absent, Measurement
from freelunch.audit.numbers import estimate_text, json_number, number_text
from freelunch.audit.published_file import Published
from freelunch.audit.published_table import PublishedTable, published_tables
from freelunch.audit.verdicts import UNTESTED, judge, of_claim, together
from freelunch.reporting.labels import pattern_label
from freelunch.study.cell import DENSE, NONE
from freelunch.study.study import Study

NO_NUMBERS = "No published table that we know has the numbers."


def audit_published_claims(
    claims: Iterable[Claim], published: Iterable[Published], meaning: Study
) -> list[dict[str, Any]]:
    """Return the verdict of published tables on each claim that asks them, and its findings.

    Every comparison is made within one table: one source, one metric, windows of one length.

    Args:
        claims: As `load_claims` returns them.
        published: The published numbers.
        meaning: The study that says what their names mean.
    """
    tables = [table for table in published_tables(published, meaning) if table.reconstructs]
    return [_claim(claim, tables) for claim in claims if "in_tables" in claim]


def _claim(claim: Claim, tables: Sequence[PublishedTable]) -> dict[str, Any]:
    parts = [_part(part, tables) for part in claim["in_tables"]]
    findings = [finding for part in parts for finding in part["findings"]]
    return {
        "id": claim["id"],
        "title": claim["title"],
        "verdict": of_claim([(part["verdict"], part["role"]) for part in parts]),
        "scope": _scope(findings),
        "parts": parts,
    }


def _part(part: Mapping[str, Any], tables: Sequence[PublishedTable]) -> dict[str, Any]:
    measure, metric = MEASURES[part["measure"]], part["metric"]
    findings = [
        _finding(asked, part, table)
        for table in tables
        if table.metric == metric
        for asked in measure.ask(table, {**part.get("settings", {}), "metric": metric})
    ]
    verdict = together([finding["verdict"] for finding in findings], measure.agree)
    return {
        **part_facts(part),
        "verdict": verdict,
        "scope": _scope(findings),
        "reason": reason_text(findings, verdict, NO_NUMBERS),
        "findings": findings,
    }


def _finding(
    asked: Measurement | Absent, part: Mapping[str, Any], table: PublishedTable
) -> dict[str, Any]:
    facts = {"source": table.source, "subject": asked.subject}
    if isinstance(asked, Absent):
        without: dict[str, Any] = dict.fromkeys(("value", "text", "computed_from"))
        return {
            **facts,
            "about": "",
            "verdict": UNTESTED,
            "reason": asked.reason,
            **without,
            "numbers": [],
        }
    unit = MEASURES[part["measure"]].unit_for(part["metric"])
    rows = [table.rows[cell] for cell in dict.fromkeys(asked.cells)]
    value = estimate(asked.statistics, asked.samples, asked.pick).value
    number = Estimate(value, value, value, ())
    verdict, reason = judge(
        number, part["holds"], lambda value: number_text(value, unit), undefined=asked.undefined
    )
    return {
        **facts,
        "subject": f"{asked.subject}: {asked.about}" if asked.about else asked.subject,
        "about": asked.about,
        "verdict": verdict,
        "reason": reason,
        "value": json_number(value),
        "text": estimate_text(number, unit),
        "computed_from": _numbers_text(rows),
        "numbers": [_number(row) for row in rows],
    }


def _numbers_text(rows: Iterable[Published]) -> str:
    """Return published numbers by model and criterion, each with its adaptation."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        adapted = "" if row.criterion == DENSE else f"{row.adaptation} "
        found.setdefault((row.model, row.criterion), []).append(f"{adapted}{row.value:g}")
    return "; ".join(f"{' '.join(place)}: {', '.join(of)}" for place, of in found.items())


def _number(row: Published) -> dict[str, Any]:
    """Return a published number that a finding comes from."""
    shown = ("model", "criterion", "pattern", "adaptation", "metric", "value", "trust", "note")
    return {key: getattr(row, key) for key in shown} | {"seqlen": row.length}


def _scope(findings: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the models, patterns, calibration and sources of findings; None without numbers."""
    numbers = [number for finding in findings for number in finding["numbers"]]
    if not numbers:
        return None
    models, patterns, notes = (
        dict.fromkeys(number[key] for number in numbers) for key in ("model", "pattern", "note")
    )
    sources = dict.fromkeys(finding["source"] for finding in findings if finding["numbers"])
    patterns.pop(NONE, None)
    calibrations = dict.fromkeys(note.partition("; ")[0] for note in notes if note)
    pruned = ", ".join(map(pattern_label, patterns))
    parts = [", ".join(models), pruned, *calibrations, " and ".join(sources)]
    return "; ".join(parts)
