"""The verdicts of an audit as a Markdown table, claim by claim and part by part."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from freelunch.reporting.formatting import NOTHING

HEADS = ("claim", "found here", "says of the paper's claim", "scope", "numbers")


def verdict_table(audit: Mapping[str, Any]) -> str:
    """Return the scope of an audit, what was found, and below them the table.

    Args:
        audit: As `freelunch.reporting.audit.audit.audit_study` returns it.
    """
    lines = [f"Scope of these verdicts: {audit['scope']} {audit['worth']}", ""]
    lines += [f"Found: {audit['answer']}", ""]
    lines += [_line(HEADS), _line(["---"] * len(HEADS))]
    for claim in audit["claims"]:
        lines += _lines(claim)
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


def _line(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _found(part: Mapping[str, Any]) -> str:
    """Return the numbers of a part and its threshold, or the reason why there are none."""
    numbers = [each for each in part["findings"] if each["text"]]
    if not numbers:
        return str(part["reason"])
    found = "; ".join(f"{each['subject']}: {each['text']}" for each in numbers)
    late = ", set after results were seen" if _set_late(part) else ""
    return f"{found} (threshold: {part['threshold']}{late})"


def _set_late(part: Mapping[str, Any]) -> bool:
    """Return whether we set a threshold after results were seen."""
    return bool(part["set"]["by"] == "us" and part["set"]["after_results"])
