"""What published tables say of the claims, apart from what a study finds.

A claim names in `in_tables` the parts that it asks of published tables. Measures, thresholds and
the way verdicts combine are those of a study. Published tables carry no intervals, so that a
verdict says on which side of the threshold their numbers lie, and no more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from freelunch.analysis.intervals import Estimate, estimate
from freelunch.audit.claim_verdicts import QuestionFacts, question_facts, reason_text
from freelunch.audit.claims import Claim, Question
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


@dataclass(frozen=True)
class SourceNumber:
    """A published number that a finding comes from."""

    model: str
    criterion: str
    pattern: str
    adaptation: str
    metric: str
    value: float
    trust: str
    note: str
    seqlen: int | None

    @classmethod
    def of(cls, row: Published) -> "SourceNumber":
        """Return a row of the file of published numbers."""
        facts = (row.model, row.criterion, row.pattern, row.adaptation, row.metric)
        return cls(*facts, row.value, row.trust, row.note, row.length)


@dataclass(frozen=True, kw_only=True)
class TableFinding:
    """A number computed from one published table, with its verdict; None if it lacks cells."""

    source: str
    subject: str
    about: str = ""
    verdict: str = UNTESTED
    reason: str
    value: float | str | None = None
    text: str | None = None
    computed_from: str | None = None
    numbers: list[SourceNumber] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TablePartVerdict(QuestionFacts):
    """What published tables say of a part of a claim."""

    verdict: str
    scope: str | None
    reason: str
    findings: list[TableFinding]


@dataclass(frozen=True)
class TableClaimVerdict:
    """What published tables say of a claim."""

    id: str
    title: str
    verdict: str
    scope: str | None
    parts: list[TablePartVerdict]


def audit_published_claims(
    claims: Iterable[Claim], published: Iterable[Published], meaning: Study
) -> list[TableClaimVerdict]:
    """Return the verdict of published tables on each claim that asks them, and its findings.

    Every comparison is made within one table: one source, one metric, windows of one length.
    """
    tables = [table for table in published_tables(published, meaning) if table.reconstructs]
    verdicts = []
    for claim in claims:
        if claim.in_tables:
            parts = [_part(question, tables) for question in claim.in_tables]
            verdict = of_claim([(part.verdict, part.role) for part in parts])
            scope = _scope([finding for part in parts for finding in part.findings])
            verdicts.append(TableClaimVerdict(claim.id, claim.title, verdict, scope, parts))
    return verdicts


def _part(question: Question, tables: Sequence[PublishedTable]) -> TablePartVerdict:
    measure, settings = MEASURES[question.measure], question.settings
    findings = [
        _finding(asked, question, table)
        for table in tables
        if table.metric == question.metric
        for asked in measure.ask(table, {**settings, "metric": question.metric})
    ]
    verdict = together([finding.verdict for finding in findings], measure.agree)
    return TablePartVerdict(
        **vars(question_facts(question)),
        verdict=verdict,
        scope=_scope(findings),
        reason=reason_text(findings, verdict, NO_NUMBERS),
        findings=findings,
    )


def _finding(
    asked: Measurement | Absent, question: Question, table: PublishedTable
) -> TableFinding:
    if isinstance(asked, Absent):
        return TableFinding(source=table.source, subject=asked.subject, reason=asked.reason)
    unit = MEASURES[question.measure].unit_for(question.metric)
    rows = [table.rows[cell] for cell in dict.fromkeys(asked.cells)]
    value = estimate(asked.statistics, asked.samples, asked.pick).value
    number = Estimate(value, value, value, ())
    verdict, reason = judge(
        number,
        question.threshold,
        lambda value: number_text(value, unit),
        undefined=asked.undefined,
    )
    return TableFinding(
        source=table.source,
        subject=asked.full_subject,
        about=asked.about,
        verdict=verdict,
        reason=reason,
        value=json_number(value),
        text=estimate_text(number, unit),
        computed_from=_numbers_text(rows),
        numbers=[SourceNumber.of(row) for row in rows],
    )


def _numbers_text(rows: Iterable[Published]) -> str:
    """Return published numbers by model and criterion, each with its adaptation."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        adapted = "" if row.criterion == DENSE else f"{row.adaptation} "
        found.setdefault((row.model, row.criterion), []).append(f"{adapted}{row.value:g}")
    return "; ".join(f"{' '.join(place)}: {', '.join(of)}" for place, of in found.items())


def _scope(findings: Sequence[TableFinding]) -> str | None:
    """Return the models, patterns, calibration and sources of findings; None without numbers."""
    numbers = [number for finding in findings for number in finding.numbers]
    if not numbers:
        return None
    models = dict.fromkeys(number.model for number in numbers)
    patterns = dict.fromkeys(each.pattern for each in numbers if each.pattern != NONE)
    calibrations = dict.fromkeys(each.note.partition("; ")[0] for each in numbers if each.note)
    sources = dict.fromkeys(finding.source for finding in findings if finding.numbers)
    pruned = ", ".join(map(pattern_label, patterns))
    return "; ".join([", ".join(models), pruned, *calibrations, " and ".join(sources)])
