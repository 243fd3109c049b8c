"""Test claims on the records of a study."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from freelunch.analysis.doubts import unsettled_by
from freelunch.analysis.intervals import estimate
from freelunch.analysis.pairing import ENOUGH_SEEDS
from freelunch.audit import verdicts
from freelunch.audit.claims import Claim, Question, ThresholdHistory
from freelunch.audit.evidence import INPUTS, Evidence
from freelunch.audit.measures import MEASURES
from freelunch.audit.measures.measure import Absent, Measurement
from freelunch.audit.scope import Regime, Regimes, load_regimes, scope_of
from freelunch.audit.verdicts import Number
from freelunch.core.errors import UserError, first_of, nearest
from freelunch.reporting.formatting import NOT_FINITE
from freelunch.study.adaptations import Local
from freelunch.study.cell import Cell
from freelunch.study.criteria import CRITERIA
from freelunch.study.steps import EVALUATE_CELL
from freelunch.study.study import Study

# Why there are no findings.
NO_CELLS = "This study has no cells to test it on."
UNFINISHED = "No cells to test it on have finished."


@dataclass(frozen=True, kw_only=True)
class Finding(Number):
    """A number of a part of a claim, with its verdict.

    Attributes:
        subject: What the number describes.
        about: What tells it from others of the same subject.
        verdict, reason: The verdict on the number, and why.
        seeds: The seeds that it comes from.
        of_seeds, text_of_seeds: The number of each seed.
        cells: The cells that it comes from; none where nothing was measured.
        command: The command that repeats the measurement.
    """

    subject: str
    about: str = ""
    verdict: str = verdicts.UNTESTED
    reason: str
    seeds: int | None = None
    of_seeds: list[float | str | None] = field(default_factory=list)
    text_of_seeds: list[str] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    command: str | None = None


@dataclass(frozen=True, kw_only=True)
class QuestionFacts:
    """What a part of a claim asks, whatever it is asked of, in the words of the audit."""

    says: str
    role: str
    measure: str
    measures: str
    quantity: str
    settings: Any
    metric: str | None
    threshold: str
    set: ThresholdHistory
    why_this_threshold: str


@dataclass(frozen=True, kw_only=True)
class PartVerdict(QuestionFacts):
    """The verdict on a part of a claim, and the findings."""

    verdict: str
    scope: str | None
    reason: str
    findings: list[Finding]


@dataclass(frozen=True, kw_only=True)
class ClaimVerdict:
    """The verdict on a claim, what that says of the paper's claim, and the parts.

    Attributes:
        models: The verdict on each model alone.
        inputs: The verdict with each kind of inputs of the reconstruction alone.
    """

    id: str
    title: str
    statement: str
    source: str
    published: str | None
    verdict: str
    bearing: str
    scope: str | None
    parts: list[PartVerdict]
    models: dict[str, str]
    inputs: dict[str, str]

    @property
    def text(self) -> str:
        """Return the verdict with the models that it is on."""
        return verdicts.on_models(self.verdict, self.models)

    @property
    def kinder(self) -> str | None:
        """Return which inputs of the reconstruction are kinder to the paper; None if the verdict
        does not depend on them.
        """
        if len({*map(verdicts.kind, self.inputs.values())}) < 2:
            return None
        order = (
            verdicts.HOLDS,
            verdicts.IN_PART,
            verdicts.UNDECIDED,
            verdicts.UNTESTED,
            verdicts.FAILS,
        )
        kinder = min(self.inputs, key=lambda each: order.index(verdicts.kind(self.inputs[each])))
        told = "; ".join(f"with {each}: {its}" for each, its in self.inputs.items())
        return f"{kinder} are kinder to the paper ({told})"


def audit_claims(
    evidence: Evidence, claims: Iterable[Claim], regimes: Regimes | None = None
) -> list[ClaimVerdict]:
    """Return the verdict on each claim, its scope and its bearing, with the findings it comes from;
    by default, the regimes are the paper's. UserError: a claim names a criterion that nobody knows.
    """
    regimes = load_regimes() if regimes is None else regimes
    return [_claim(claim, evidence, regimes.get(claim.id)) for claim in claims]


def _claim(claim: Claim, evidence: Evidence, paper: Regime | None) -> ClaimVerdict:
    study = evidence.study
    parts = [_part(question, evidence, paper) for question in claim.parts]
    own = [part for part in parts if part.role not in (verdicts.ADDS, verdicts.BESIDE)]
    # What the verdict is about is what decides it.
    about = [part for part in parts if part.role == verdicts.DECIDES] or own
    cells = {Cell.parse(cell) for part in parts for each in part.findings for cell in each.cells}

    def verdict(keep: Callable[[Cell], bool]) -> str:
        """Return the verdict on some of the cells."""
        some = parts
        if not all(map(keep, cells)):
            some = [_part(question, evidence.only(keep), paper) for question in claim.parts]
        return verdicts.of_claim([(part.verdict, part.role) for part in some])

    def on_model(model: str) -> str:
        return verdict(lambda cell: cell.model == model)

    def on_inputs(kind: str) -> str:
        return verdict(lambda cell: inputs(cell) in ("", kind))

    def inputs(cell: Cell) -> str:
        entry = study.config.adaptations.get(cell.adaptation)
        return INPUTS[entry.inputs] if isinstance(entry, Local) else ""

    says = verdicts.OTHERS
    if paper and any(paper.has(study, cell) for cell in cells if cell.is_pruned):
        says = verdicts.bearing(verdict(lambda cell: paper.has(study, cell)))
    return ClaimVerdict(
        id=claim.id,
        title=claim.title,
        statement=claim.statement,
        source=claim.source,
        published=claim.published,
        verdict=verdict(lambda _: True),
        bearing=says,
        models={model: on_model(model) for model in sorted({cell.model for cell in cells})},
        inputs={each: on_inputs(each) for each in sorted(set(map(inputs, cells)) - {""})},
        scope=_scope(evidence, [each for part in about for each in part.findings], paper),
        parts=parts,
    )


def _part(question: Question, evidence: Evidence, paper: Regime | None) -> PartVerdict:
    _check_criteria(question, {*evidence.study.config.criteria, *CRITERIA})
    every = question.ask(evidence)
    # What is left out counts if there is nothing else.
    left_out = [each for each in every if isinstance(each, Absent) and each.left_out]
    asked = [each for each in every if each not in left_out]
    if not asked:
        asked, left_out = every, []
    findings = [_finding(each, question, evidence) for each in asked]
    agree = MEASURES[question.measure].agree
    verdict = verdicts.together([finding.verdict for finding in findings], agree)
    reason = reason_text(
        findings, verdict, UNFINISHED if evidence.study.is_unfinished else NO_CELLS
    )
    for why in dict.fromkeys(each.reason for each in left_out):
        subjects = first_of(each.subject for each in left_out if each.reason == why)
        reason += f" Left out, {why}: {'; '.join(subjects)}."
    return PartVerdict(
        **question_facts(question),
        verdict=verdict,
        scope=_scope(evidence, findings, paper),
        reason=reason,
        findings=findings,
    )


def _check_criteria(question: Question, known: Collection[str]) -> None:
    """Refuse a criterion that nobody knows, such as a misspelled one."""
    settings = question.settings
    for name in (*settings.get("criteria", []), *chain(*settings.get("groups", []))):
        if name not in known:
            raise UserError(
                "a claim names an unknown criterion",
                where=question.where,
                found=name,
                expected=nearest(name, known),
                todo="correct the claim",
            )


def question_facts(question: Question) -> dict[str, Any]:
    """Return what a part asks, in the words of the audit: the attributes of `QuestionFacts`."""
    measure = MEASURES[question.measure]
    facts = QuestionFacts(
        says=question.says,
        role=question.role,
        measure=question.measure,
        measures=measure.description,
        quantity=measure.quantity,
        settings=question.settings,
        metric=question.metric,
        threshold=question.threshold.text(question.written),
        set=question.set,
        why_this_threshold=question.why,
    )
    return vars(facts)


def _scope(evidence: Evidence, findings: Sequence[Finding], paper: Regime | None) -> str | None:
    """Return the scope of findings in words; None without cells."""
    cells = dict.fromkeys(Cell.parse(cell) for finding in findings for cell in finding.cells)
    seeds = [finding.seeds for finding in findings if finding.seeds]
    return scope_of(evidence.study, cells, seeds, paper) if cells else None


def _finding(asked: Measurement | Absent, question: Question, evidence: Evidence) -> Finding:
    if isinstance(asked, Absent):
        may_come = evidence.study.is_unfinished and not asked.too_small
        unfinished = "; the study is unfinished" if may_come else ""
        return Finding(subject=asked.subject, reason=asked.reason + unfinished)
    found = estimate(asked.statistics, asked.samples, asked.pick)
    metric, unit = question.metric, question.unit
    # A loss that is not finite leaves no number, so that only then losses are read again.
    if metric and math.isnan(found.value):
        diverged = [str(cell) for cell in asked.cells if evidence.diverged([cell], metric)]
        if diverged:
            undefined = f"a loss of {', '.join(diverged)} is not finite"
            asked = replace(asked, without=NOT_FINITE, undefined=undefined)
    verdict, reason = verdicts.judge(
        found, question.threshold, question.written, asked.bounds, asked.undefined
    )
    if verdict == verdicts.UNDECIDED and asked.instead:
        instead = _finding(asked.instead, question, evidence)
        if instead.verdict != verdicts.UNDECIDED:
            return instead
    pruned = {(cell.model, cell.seed) for cell in asked.cells if cell.is_pruned}
    seeds = min(Counter(model for model, _ in pruned).values())
    if metric and (doubts := unsettled_by(evidence.doubts, asked.cells, metric)):
        verdict, reason = verdicts.UNDECIDED, f"no finding: {'; '.join(first_of(doubts, 2))}"
    used, favoured = {cell.adaptation: None for cell in asked.cells}, evidence.study.comparisons
    if chosen := [name for name in used if name in favoured.selected_on_evaluation]:
        reason += f"; settings of {', '.join(chosen)} were chosen on the evaluation text"
    rule = MEASURES[question.measure].repeated_by or EVALUATE_CELL
    return Finding(
        **vars(Number.of(found, unit, asked.bounds, asked.without)),
        subject=asked.full_subject,
        about=asked.about,
        verdict=verdicts.of_few_seeds(verdict) if seeds in range(1, ENOUGH_SEEDS) else verdict,
        reason=reason,
        seeds=seeds,
        of_seeds=[verdicts.json_number(value) for value in found.of_seeds],
        text_of_seeds=verdicts.seeds_texts(found, unit, asked.bounds, asked.without),
        cells=[str(cell) for cell in asked.cells],
        command=command(evidence.study, asked.cells, rule),
    )


def reason_text(findings: Sequence[Any], verdict: str, without: str) -> str:
    """Return the reason for the verdict on a part, in a sentence, from its findings in a study or
    published tables; `without` is the reason where there are none.
    """
    if not findings:
        return without
    if len(findings) == 1:
        (finding,) = findings
        found = f"{finding.text}; " if finding.text else ""
        return f"{finding.subject}: {found}{finding.reason}."
    reasons = {finding.reason for finding in findings}
    why = f": {reasons.pop()}" if len(reasons) == 1 else ""
    if verdict in verdicts.OPEN and any(
        finding.verdict not in verdicts.OPEN for finding in findings
    ):
        why = ", and all have to agree"
    return f"{verdicts.tally([finding.verdict for finding in findings], 'comparisons')}{why}."


def command(study: Study, cells: Sequence[Cell], rule: str) -> str:
    """Return the command that runs a rule again for some cells."""
    records = " ".join(str(study.paths.record(cell)) for cell in dict.fromkeys(cells))
    run = "snakemake --cores all --workflow-profile workflow/profiles/local --config"
    return f"{run} study={study.source} --forcerun {rule} -- {records}"
