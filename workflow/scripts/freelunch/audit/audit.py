"""The audit of a study: verdicts, evidence, protocol, published numbers, provenance, costs."""

from pathlib import Path
from typing import Any

from freelunch.audit.claims import audit_claims, load_claims
from freelunch.audit.evidence import Evidence
from freelunch.audit.integrity import check_records
from freelunch.audit.protocol import audit_protocol, load_protocol
from freelunch.audit.provenance import gather_costs, gather_provenance
from freelunch.audit.published import audit_published, load_published
from freelunch.records import load_records
from freelunch.study import Study


def audit_study(study: Study, folder: Path | None = None) -> dict[str, Any]:
    """Return the audit of a finished study.

    Args:
        study: The study.
        folder: Where its records are, if not in its results.

    Raises:
        UserError: A record is missing, was altered or was made with other settings than today's; a
            file of `workflow/data/` is malformed.
    """
    records = load_records(study, folder)
    evidence = Evidence(study, records, folder or study.paths.records)
    check_records(study, records, evidence.folder)
    return {
        "study": study.name,
        "config_file": study.source,
        "claims": audit_claims(evidence, load_claims()),
        "protocol": audit_protocol(study, load_protocol()),
        "published": audit_published(evidence, load_published()),
        "provenance": gather_provenance(study, records),
        "costs": gather_costs(records),
    }
