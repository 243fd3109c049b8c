"""The verdicts of an audit as a Markdown table, claim by claim and part by part."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from freelunch.reporting.formatting import NOTHING

TABLE_HEADS = ("claim", "published tables say", "scope", "numbers")
IN_TABLES = (
    "The same claims in tables that others published, apart from what was found here. They carry "
    "no intervals: a verdict says on which side of the threshold their numbers lie, and no more."
)
HEADS = ("claim", "found here", "says of the paper's claim", "scope", "numbers")


def verdict_table(audit: Mapping[str, Any]) -> str:
    """Return what an audit found, its scope, and below them the table.

    Args:
        audit: As `freelunch.audit.audit.audit_study` returns it.
    """
    lines = [f"Found: {audit['answer']}", ""]
    lines += [f"Scope of these verdicts: {audit['scope']} {audit['worth']}", ""]
    lines += [_line(HEADS), _line(["---"] * len(HEADS))]
    for claim in audit["claims"]:
        lines += _lines(claim)
    if audit["published_claims"]:
        lines += ["", IN_TABLES, "", _line(TABLE_HEADS), _line(["---"] * len(TABLE_HEADS))]
    for claim in audit["published_claims"]:
        lines += _published_lines(claim)
    return "\n".join(lines) + "\n"


def _lines(claim: Mapping[str, Any]) -> Iterator[str]:
    published = f"published: {claim['published']}" if claim["published"] else ""
    title, verdict, says = (
        f"**{text}**"
        for text in (f"{claim['id']}: {claim['title']}", claim["verdict"], claim["bearing"])
    )
    yield _line([title, verdict, says, claim["scope"] or NOTHING, published])
    for part in claim["parts"]:
        scope = part["scope"] or NOTHING
        yield _line([part["says"], part["verdict"], part["bearing"], scope, _found(part)])


def _published_lines(claim: Mapping[str, Any]) -> Iterator[str]:
    title, verdict = f"**{claim['id']}: {claim['title']}**", f"**{claim['verdict']}**"
    yield _line([title, verdict, claim["scope"] or NOTHING, ""])
    for part in claim["parts"]:
        yield _line([part["says"], part["verdict"], part["scope"] or NOTHING, _found(part)])


def _line(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _found(part: Mapping[str, Any]) -> str:
    """Return the numbers of a part and its threshold, or the reason why there are none."""
    numbers = [each for each in part["findings"] if each["text"]]
    if not numbers:
        return str(part["reason"])
    found = "; ".join(
        f"{each['subject']}: {each['text']}{_computed_from(each)}" for each in numbers
    )
    late = ", set after results were seen" if _set_late(part) else ""
    return f"{part['quantity']}: {found} (threshold: {part['threshold']}{late})"


def _computed_from(finding: Mapping[str, Any]) -> str:
    """Return the published numbers that a finding was computed from, in brackets, if any."""
    return f" ({finding['computed_from']})" if "computed_from" in finding else ""


def _set_late(part: Mapping[str, Any]) -> bool:
    """Return whether we set a threshold after results were seen."""
    return bool(part["set"]["by"] == "us" and part["set"]["after_results"])
