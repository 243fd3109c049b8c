"""The audit of a study: verdicts, evidence, protocol, published numbers, provenance, costs."""

from pathlib import Path
from typing import Any

from freelunch.analysis.pairing import Records
from freelunch.audit.appendix import gather_appendix
from freelunch.audit.claims import audit_claims, load_claims
from freelunch.audit.evidence import Evidence
from freelunch.audit.found import answer_text, gather_found
from freelunch.audit.integrity import check_records
from freelunch.audit.protocol import audit_protocol, load_protocol
from freelunch.audit.provenance import gather_costs, gather_provenance
from freelunch.audit.published import audit_published, contradictions, load_meaning
from freelunch.audit.published_claims import audit_published_claims
from freelunch.audit.published_file import load_published
from freelunch.audit.reforms import gather_reforms
from freelunch.audit.scope import load_regimes, scope_text, worth_text
from freelunch.records.read import load_records
from freelunch.study.study import Study


def audit_study(study: Study, folder: Path | None = None) -> dict[str, Any]:
    """Return the audit of a finished study.

    Args:
        study: The study.
        folder: Where its records are, if not in its results.

    Raises:
        UserError: A record is missing, was altered or was made with other settings than today's; a
            file of `workflow/data/` is malformed.
    """
    return audit_records(study, load_records(study, folder), folder or study.paths.records)


def audit_records(study: Study, records: Records, folder: Path) -> dict[str, Any]:
    """Return the audit of a study whose records are already loaded; see `audit_study`."""
    evidence = Evidence(study, records, folder)
    check_records(study, records, folder)
    regimes, found = load_regimes(), gather_found(evidence)
    asked, published, meaning = load_claims(), load_published(), load_meaning()
    claims = audit_claims(evidence, asked)
    audit = {
        "study": study.name,
        "config_file": study.source,
        "scope": scope_text(study, records, regimes),
        "worth": worth_text(study, records, regimes),
        "answer": answer_text(study, found),
        "found": found,
        "claims": claims,
        "published_claims": audit_published_claims(asked, published, meaning),
        "appendix": gather_appendix(study, records, claims),
        "protocol": audit_protocol(study, load_protocol()),
        "published": audit_published(evidence, published, meaning),
        "contradictions": contradictions(published),
        "provenance": gather_provenance(study, records),
        "costs": gather_costs(records),
    }
    return {**audit, "reforms": gather_reforms(study, records, audit)}
