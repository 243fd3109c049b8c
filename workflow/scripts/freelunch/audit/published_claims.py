"""What published tables say of the claims, apart from what a study finds.

A claim names in `in_tables` the parts that it asks of published tables. Measures, thresholds and
the way verdicts combine are those of a study. Published tables carry no intervals, so that a
verdict says on which side of the threshold their numbers lie, and no more.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Self

from freelunch.analysis.doubts import ACCURACY, PERPLEXITY
from freelunch.analysis.intervals import Estimate, estimate
from freelunch.analysis.pairing import by_adaptation, pruned_models
from freelunch.audit.claim_verdicts import QuestionFacts, question_facts, reason_text
from freelunch.audit.claims import Claim, Question
from freelunch.audit.evidence import Evidence, Losses
from freelunch.audit.measures import MEASURES
from freelunch.audit.measures.measure import Absent, Measurement
from freelunch.audit.published import MLP_ONLY, SUSPECT, Published
from freelunch.audit.verdicts import UNTESTED, estimate_text, json_number, judge, of_claim, together
from freelunch.reporting.formatting import pattern_label
from freelunch.study.adaptations import LeastSquares, Windowed
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.study import Study

NO_NUMBERS = "No published table that we know has the numbers."
# The calibration sample that a note begins with: sequences, and their tokens.
_SAMPLE = re.compile(r"([\d,]+) sequences of ([\d,]+) C4 tokens")
# The nominal size at the end of a model's name, such as 1.3b or 125m.
_SIZE = re.compile(r"-(\d+(?:\.\d+)?)([bm])(?:-|$)")
_UNITS = {"b": 10**9, "m": 10**6}


@dataclass(frozen=True)
class SourceNumber:
    """A published number that a finding comes from; across sources, divided by the number of its
    own source's pruned model.
    """

    model: str
    criterion: str
    pattern: str
    adaptation: str
    metric: str
    value: float
    trust: str
    note: str
    seqlen: int | None


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


@dataclass(frozen=True)
class PublishedTable(Evidence):
    """The numbers of one source in one metric, in windows of one length, in place of records.

    Measures of claims take it as they take a study. A number is a sample with a single window, so
    that it has no interval. How much memory, and how many tokens and operations, a number took, the
    tables do not say.

    Attributes:
        rows: The published number of each cell; all of them have seed 0.
    """

    rows: Mapping[Cell, Published]

    @property
    def references(self) -> Sequence[str]:
        """Return the reconstructions; those in closed form are the only ones of their sources."""
        entries = self.study.config.adaptations.items()
        closed = [name for name, entry in entries if isinstance(entry, LeastSquares)]
        return [*self.study.comparisons.references, *closed]

    def family(self, model: str) -> str:
        """Return the family of a model: the letters that its name begins with."""
        return re.split(r"[^a-z]", model)[0]

    @property
    def metric(self) -> str:
        """Return the metric of all numbers, as claims name it."""
        return ACCURACY if next(iter(self.rows.values())).tasks else PERPLEXITY

    def losses(self, cell: Cell, metric: str) -> Losses | None:
        """Return the loss of a cell as a single window; None if it was not published."""
        if metric != self.metric or cell not in self.rows:
            return None
        value = self.rows[cell].value
        return [[1 - value / 100 if metric == ACCURACY else math.log(value)]]

    def window_of(self, cell: Cell) -> int | str:
        """Return the window in the settings that a published adaptation is taken to have."""
        settings = self.study.config.adaptations[cell.adaptation]
        assert isinstance(settings, Windowed)
        return settings.window

    def only(self, keep: Callable[[Cell], bool]) -> Self:
        """Return the numbers of some of the cells."""
        return replace(self, rows={cell: row for cell, row in self.rows.items() if keep(cell)})

    def dense_perplexity(self, model: str) -> float | None:
        """Return the published perplexity of a dense model; None if there is none."""
        dense = self.rows.get(Cell.dense(model))
        return dense.value if dense and self.metric == PERPLEXITY else None

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Return the nominal size of each model whose name ends with it."""
        sizes = {cell.model: _SIZE.search(cell.model) for cell in self.rows}
        return {
            model: round(float(size[1]) * _UNITS[size[2]]) for model, size in sizes.items() if size
        }

    @cached_property
    def pruned(self) -> list[dict[str, dict[int, Cell]]]:
        """Return the cells of each pruned model, by adaptation and then by seed."""
        return [by_adaptation(cells) for cells in pruned_models(self.rows)]


def audit_published_claims(
    claims: Iterable[Claim], published: Iterable[Published], meaning: Study
) -> list[TableClaimVerdict]:
    """Return the verdict of published tables on each claim that asks them, and its findings.

    Every comparison is made within one table (one source, one metric, windows of one length) unless
    a part is asked across them. Suspect numbers are left out.
    """
    by_table: dict[tuple[object, ...], dict[Cell, Published]] = {}
    for row in (row for row in published if SUSPECT not in row.note):
        by_table.setdefault(row.table, {})[row.cell] = row
    tables = [PublishedTable(meaning, {}, Path(), rows) for rows in by_table.values()]
    # Claims are about reconstruction.
    tables = [
        table for table in tables if any({*table.references} & by.keys() for by in table.pruned)
    ]
    joined = _joined(tables)
    verdicts = []
    for claim in (claim for claim in claims if claim.in_tables):
        parts = [_part(each, joined if each.across else tables) for each in claim.in_tables]
        verdict = of_claim([(part.verdict, part.role) for part in parts])
        scope = _scope([finding for part in parts for finding in part.findings])
        verdicts.append(TableClaimVerdict(claim.id, claim.title, verdict, scope, parts))
    return verdicts


def _joined(tables: Iterable[PublishedTable]) -> list[PublishedTable]:
    """Return a table for each pruned model of which several sources, whose samples have as many
    tokens, have numbers, each divided by that of its own source's pruned model.
    """
    joined: dict[tuple[object, ...], dict[Cell, Published]] = {}
    sources: dict[tuple[object, ...], dict[str, None]] = {}
    for table in tables:
        for cell, row in table.rows.items():
            pruned = table.rows.get(replace(cell, adaptation=NONE))
            sample = _SAMPLE.match(row.note)
            if pruned and sample and not cell.is_dense:
                tokens = math.prod(int(number.replace(",", "")) for number in sample.groups())
                key = (row.metric, row.seqlen, tokens, replace(cell, adaptation=NONE))
                joined.setdefault(key, {})[cell] = replace(row, value=row.value / pruned.value)
                sources.setdefault(key, {})[f"{row.source}, {row.reference}"] = None
    return [
        PublishedTable(table.study, {}, Path(), rows)
        for key, rows in joined.items()
        if len(sources[key]) > 1
    ]


def _part(question: Question, tables: Sequence[PublishedTable]) -> TablePartVerdict:
    found = [
        [_finding(asked, question, table) for asked in question.ask(table)]
        for table in tables
        if table.metric == question.metric
    ]
    # A table without any of the numbers does not ask the question, if another has some.
    with_numbers = [each for each in found if any(finding.numbers for finding in each)]
    findings = [*chain(*(with_numbers or found))]
    agree = MEASURES[question.measure].agree
    verdict = together([finding.verdict for finding in findings], agree)
    return TablePartVerdict(
        **question_facts(question),
        verdict=verdict,
        scope=_scope(findings),
        reason=reason_text(findings, verdict, NO_NUMBERS),
        findings=findings,
    )


def _finding(
    asked: Measurement | Absent, question: Question, table: PublishedTable
) -> TableFinding:
    cells = dict.fromkeys(asked.cells) if isinstance(asked, Measurement) else table.rows
    rows = [table.rows[cell] for cell in cells]
    source = " and ".join(dict.fromkeys(f"{row.source}, {row.reference}" for row in rows))
    if isinstance(asked, Absent):
        return TableFinding(source=source, subject=asked.subject, reason=asked.reason)
    value = estimate(asked.statistics, asked.samples, asked.pick).value
    number = Estimate(value, value, value, ())
    verdict, reason = judge(number, question.threshold, question.written, undefined=asked.undefined)
    # By model and criterion, each with its adaptation.
    numbers: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        adapted = "" if row.criterion == DENSE else f"{row.adaptation} "
        numbers.setdefault((row.model, row.criterion), []).append(f"{adapted}{row.value:g}")
    keys = [key.name for key in fields(SourceNumber)]
    return TableFinding(
        source=source,
        subject=asked.full_subject,
        about=asked.about,
        verdict=verdict,
        reason=reason,
        value=json_number(value),
        text=estimate_text(number, question.unit),
        computed_from="; ".join(f"{' '.join(of)}: {', '.join(its)}" for of, its in numbers.items()),
        numbers=[SourceNumber(*(getattr(row, key) for key in keys)) for row in rows],
    )


def _scope(findings: Sequence[TableFinding]) -> str | None:
    """Return the models, patterns, calibration and sources of findings; None without numbers."""
    numbers = [number for finding in findings for number in finding.numbers]
    if not numbers:
        return None
    models = dict.fromkeys(number.model for number in numbers)
    patterns = dict.fromkeys(each.pattern for each in numbers if each.pattern != NONE)
    calibrations = dict.fromkeys(each.note.partition("; ")[0] for each in numbers if each.note)
    sources = dict.fromkeys(finding.source for finding in findings if finding.numbers)
    pruned = ", ".join(
        pattern_label(each.removesuffix(MLP_ONLY)) + (" of MLPs" if MLP_ONLY in each else "")
        for each in patterns
    )
    return "; ".join([", ".join(models), pruned, *calibrations, " and ".join(sources)])
