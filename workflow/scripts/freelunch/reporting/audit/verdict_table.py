"""The verdicts of an audit as a Markdown table, claim by claim and part by part."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def verdict_table(claims: Sequence[Mapping[str, Any]]) -> str:
    """Return the table.

    Args:
        claims: As `freelunch.reporting.audit.claims.audit_claims` returns them.
    """
    lines = ["| claim | verdict | what was found |", "| --- | --- | --- |"]
    for claim in claims:
        lines += _lines(claim)
    return "\n".join(lines) + "\n"


def _lines(claim: Mapping[str, Any]) -> Iterator[str]:
    published = f"published: {claim['published']}" if claim["published"] else ""
    yield f"| **{claim['id']}: {claim['title']}** | **{claim['verdict']}** | {published} |"
    for part in claim["parts"]:
        yield f"| {part['says']} | {part['verdict']} | {_found(part)} |"


def _found(part: Mapping[str, Any]) -> str:
    """Return the findings of a part: every number, or why there is none."""
    numbers = [each for each in part["findings"] if each["text"]]
    if not numbers:
        return str(part["reason"])
    found = "; ".join(f"{each['subject']}: {each['text']}" for each in numbers)
    return f"{found} (asked: {part['threshold']})"
