"""The audit of a study: verdicts, evidence, published numbers, provenance, costs."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from freelunch.analysis.doubts import Doubt
from freelunch.analysis.pairing import Records
from freelunch.audit.answers import PrunedModelAnswer, answer_text, gather_answers
from freelunch.audit.claim_verdicts import ClaimVerdict, PartVerdict, audit_claims
from freelunch.audit.claims import load_claims
from freelunch.audit.evidence import Evidence
from freelunch.audit.findings import FEW, FEW_NOTE, Result, findings_of
from freelunch.audit.layouts import layout
from freelunch.audit.provenance import (
    Provenance,
    StepCost,
    gather_costs,
    gather_provenance,
)
from freelunch.audit.published import (
    ComparedNumber,
    audit_published,
    load_meaning,
    load_published,
)
from freelunch.audit.published_claims import (
    TableClaimVerdict,
    TablePartVerdict,
    audit_published_claims,
)
from freelunch.audit.scope import load_regimes, scope_text, worth_text
from freelunch.study.study import Study

# More numbers of a part than these are counted in `verdicts.md`; the page has each.
_MANY = 20


@dataclass(frozen=True)
class Audit:
    """The audit of a study, whose attributes are the keys of `audit.json`."""

    study: str
    config_file: str
    scope: str
    worth: str
    answer: str
    results: list[Result]
    table: list[list[str]]
    doubts: list[Doubt]
    found: list[PrunedModelAnswer]
    claims: list[ClaimVerdict]
    published_claims: list[TableClaimVerdict]
    published: list[ComparedNumber]
    provenance: Provenance
    costs: list[StepCost]

    def as_json(self) -> dict[str, Any]:
        """Return the content of `audit.json`."""
        return json_of(self)

    @property
    def few(self) -> str:
        """Return what the mark of numbers from few seeds means; empty if none has it."""
        return FEW_NOTE if FEW in f"{self.results}{self.table}" else ""

    @property
    def findings(self) -> str:
        """Return what was found of the paper's results, and what the study lacks, as Markdown."""
        lines = [f"- **{each.head}** {each.text}" for each in self.results if each.text]
        rows = [f"| {' | '.join(line)} |" for line in self.table]
        lines += ["", rows[0], f"|---|{'---:|' * (len(self.table[0]) - 1)}"] if rows else []
        lines += rows[1:]
        lines += ["", self.few] if self.few else []
        lacking = [f"{each.head.lower()} ({each.lacks})" for each in self.results if each.lacks]
        lines += ["", f"Not said, for lack of cells: {'; '.join(lacking)}."] if lacking else []
        return "\n".join(lines)

    @property
    def verdicts(self) -> str:
        """Return what was found, its scope, and the verdicts, claim by claim, as Markdown."""
        return layout("verdicts.md", numbers=_numbers_of).render(audit=self)


def json_of(value: Any) -> dict[str, Any]:
    """Return a dataclass as JSON has it; an attribute that ends in `_` is a word of Python."""

    def mapping(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        return {key.removesuffix("_"): each for key, each in pairs}

    return asdict(value, dict_factory=mapping)


def audit_records(study: Study, records: Records, folder: Path) -> Audit:
    """Return the audit of a study whose records were read from a folder. UserError: a file of
    `workflow/data/` is malformed.
    """
    evidence = Evidence(study, records, folder)
    regimes, answers = load_regimes(), gather_answers(evidence)
    asked, published, meaning = load_claims(), load_published(), load_meaning()
    claims = audit_claims(evidence, asked)
    results, table = findings_of(study, answers, claims)
    return Audit(
        study=study.name,
        config_file=study.source,
        scope=scope_text(study, records, regimes),
        worth=worth_text(study, records, regimes),
        answer=answer_text(study, answers),
        results=results,
        table=table,
        doubts=evidence.doubts,
        found=answers,
        claims=claims,
        published_claims=audit_published_claims(asked, published, meaning),
        published=audit_published(evidence, published, meaning),
        provenance=gather_provenance(study, records),
        costs=gather_costs(records),
    )


def _numbers_of(part: PartVerdict | TablePartVerdict) -> str:
    texts = []
    for each in part.findings:
        if each.text:
            computed_from = getattr(each, "computed_from", None)
            source = f" ({computed_from})" if computed_from is not None else ""
            texts.append(f"{each.subject}: {each.text}{source}")
    if not texts:
        return part.reason
    if len(texts) > _MANY:
        return f"{part.quantity}: {part.reason}"
    is_late = part.set.by == "us" and part.set.after_results
    late = ", set after results were seen" if is_late else ""
    return f"{part.quantity}: {'; '.join(texts)} (threshold: {part.threshold}{late})"
