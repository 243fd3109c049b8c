"""Made-up claims, for tests of what is asked of a study."""

from collections.abc import Iterable, Mapping
from typing import Any

from freelunch.audit.audit import json_of
from freelunch.audit.claim_verdicts import audit_claims
from freelunch.audit.claims import Claim
from freelunch.audit.evidence import Evidence
from freelunch.audit.scope import Regimes


def make_claim(measure: str, **changes: Any) -> dict[str, Any]:
    """Return a claim with one part, as a file of claims has it; `changes` are of the part."""
    part = {
        "says": "it is so",
        "measure": measure,
        "holds": {"above": 0},
        "set": {"by": "us", "date": "2026-11-27", "after_results": True},
        "why": "so",
    }
    return {
        "id": "C",
        "title": "A title",
        "statement": "A statement.",
        "source": "somewhere",
        "parts": [part | changes],
    }


def verdicts_on(
    evidence: Evidence, claims: Iterable[Mapping[str, Any] | Claim], regimes: Regimes | None = None
) -> list[dict[str, Any]]:
    """Return the verdicts on claims, or on entries of a file of claims, as the audit's JSON."""
    asked = [each if isinstance(each, Claim) else Claim.of(each) for each in claims]
    return [json_of(verdict) for verdict in audit_claims(evidence, asked, regimes)]
