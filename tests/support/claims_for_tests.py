"""Made-up claims, for tests of what is asked of a study."""

from typing import Any


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
