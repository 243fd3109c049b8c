"""The verdicts of an audit as a Markdown table, claim by claim and part by part."""

from collections.abc import Iterator, Mapping
from typing import Any


def verdict_table(audit: Mapping[str, Any]) -> str:
    """Return the scope of an audit, and below it the table.

    Args:
        audit: As `freelunch.reporting.audit.audit.audit_study` returns it.
    """
    lines = [f"Scope of these verdicts: {audit['scope']}", ""]
    lines += ["| claim | verdict | numbers |", "| --- | --- | --- |"]
    for claim in audit["claims"]:
        lines += _lines(claim)
    return "\n".join(lines) + "\n"


def _lines(claim: Mapping[str, Any]) -> Iterator[str]:
    published = f"published: {claim['published']}" if claim["published"] else ""
    yield f"| **{claim['id']}: {claim['title']}** | **{claim['verdict']}** | {published} |"
    for part in claim["parts"]:
        yield f"| {part['says']} | {part['verdict']} | {_found(part)} |"


def _found(part: Mapping[str, Any]) -> str:
    """Return the numbers of a part and its threshold, or the reason why there are none."""
    numbers = [each for each in part["findings"] if each["text"]]
    if not numbers:
        return str(part["reason"])
    found = "; ".join(f"{each['subject']}: {each['text']}" for each in numbers)
    return f"{found} (threshold: {part['threshold']})"
