"""The claims of an audit's page: their verdicts in sentences, their numbers, their figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from freelunch.reporting.audit.verdicts import (
    ADDS,
    DECIDES,
    UNDECIDED,
    UNTESTED,
    tally,
)

# More numbers of a part than these are shown as a range.
_FEW = 2
# What the settings of a measure ask a study for, in words.
_NEEDS = {
    "criteria": "pruning by {}",
    "groups": "pruning by {}",
    "windows": "reconstruction with windows {}",
    "methods": "retraining with {}",
    "parameters": "a model of at least {} parameters",
    "dense_at_most": "a dense perplexity of at most {}",
}


def shown_claims(
    claims: Sequence[Mapping[str, Any]], figures: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return claims with their reasons and figures.

    Args:
        claims: The claims of the audit.
        figures: The figures that exist, each with its `number` and its `claims`. A figure of
            several claims is in `figures` of the first one and in `figures_above` of the others.
    """
    shown: set[int] = set()
    found = []
    for claim in claims:
        its = [figure for figure in figures if claim["id"] in figure["claims"]]
        found.append(
            {
                **claim,
                "reason": _reason(claim),
                "asked": claim["verdict"] != UNTESTED,
                "needs": _needs(claim["parts"]),
                "key_numbers": [_key_number(it) for it in claim["parts"] if it["role"] != ADDS],
                "figures": [figure for figure in its if figure["number"] not in shown],
                "figures_above": [it["number"] for it in its if it["number"] in shown],
                "parts": [_part(part) for part in claim["parts"]],
            }
        )
        shown |= {figure["number"] for figure in its}
    return found


def shown_published(claims: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what published tables say of claims, with reasons."""
    return [
        {
            **claim,
            "reason": _reason(claim),
            "parts": [{**part, "set": threshold_history(part["set"])} for part in claim["parts"]],
        }
        for claim in claims
    ]


def _reason(claim: Mapping[str, Any]) -> str:
    """Return the reason for the verdict on a claim: a tally of its deciding parts, or of all."""
    parts = [part for part in claim["parts"] if part["role"] != ADDS] or claim["parts"]
    if len(parts) == 1:
        return _why(parts[0])
    deciding = [part for part in parts if part["role"] == DECIDES]
    if len(deciding) == 1:
        why = _why(deciding[0])
        return f"“{deciding[0]['says']}” decides: {why[0].lower()}{why[1:]}"
    if deciding:
        told = tally([part["verdict"] for part in deciding], "deciding parts")
        return f"{told}; not found would need all of them to agree."
    return f"{tally([part['verdict'] for part in parts], 'parts')}."


def _why(part: Mapping[str, Any]) -> str:
    """Return the reason for the verdict on a part; its number, if there is one, stands below."""
    if len(part["findings"]) == 1:
        reason = str(part["findings"][0]["reason"])
        return f"{reason[0].upper()}{reason[1:]}."
    return str(part["reason"])


def _needs(parts: Sequence[Mapping[str, Any]]) -> str:
    """Return what a study needs for the parts that it could not test, in words."""
    found: dict[str, dict[str, None]] = {}
    for part in parts:
        if part["verdict"] == UNTESTED and part["role"] != ADDS:
            for key, value in part["settings"].items():
                if key in _NEEDS:
                    found.setdefault(_NEEDS[key], {}).update(dict.fromkeys(_names(value)))
    return "; ".join(words.format(", ".join(names)) for words, names in found.items())


def _names(value: Any) -> list[str]:
    """Return the names or numbers in a setting, also those in lists within it."""
    if isinstance(value, list):
        return [name for each in value for name in _names(each)]
    return [f"{value:,}" if isinstance(value, int) else str(value)]


def _key_number(part: Mapping[str, Any]) -> dict[str, str]:
    """Return a part with its numbers in short: one or two with intervals, or a range of more.

    Numbers without an interval are in no range: data that say so little may give any number.
    """
    there = [finding for finding in part["findings"] if finding["text"]]
    texts = [str(finding["text"]) for finding in there]
    if not texts:
        text = str(part["reason"]).rstrip(".")
    elif len(texts) <= _FEW:
        text = "; ".join(texts)
    else:
        verdicts = Counter(finding["verdict"] for finding in part["findings"])
        told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
        known = [finding for finding in there if finding["value"] is not None]
        known = [finding for finding in known if finding["low"] is not None] or known
        numbers = _range(known) if known else "; ".join(dict.fromkeys(texts))
        text = f"{numbers} ({told})"
        undecided = [finding["text"] for finding in known if finding["verdict"] == UNDECIDED]
        if len(undecided) == 1 < len(verdicts):
            text += f"; the undecided one is {undecided[0]}"
    if texts:
        text = f"{part['quantity']}: {text}"
    return {"says": part["says"], "verdict": part["verdict"], "text": text}


def _range(known: Sequence[Mapping[str, Any]]) -> str:
    """Return the smallest and the largest of some numbers, with the unit once."""
    in_order = sorted(known, key=lambda finding: float(str(finding["value"])))
    least, most = (str(it["text"]).partition(" (")[0] for it in (in_order[0], in_order[-1]))
    # A perplexity has no unit.
    _, space, unit = most.rpartition(" ")
    least = least.removesuffix(f" {unit}") if space else least
    return f"{len(known)} numbers between {least} and {most}"


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part whose findings have the number of each seed as text, in `seeds`."""
    findings = [
        {**finding, "seeds": ", ".join(finding["text_of_seeds"])} for finding in part["findings"]
    ]
    several = any(finding["seeds"] for finding in findings)
    return {
        **part,
        "findings": findings,
        "several_seeds": several,
        "set": threshold_history(part["set"]),
    }


def threshold_history(history: Mapping[str, Any]) -> str:
    """Return who set a threshold, and when, in words."""
    after = ", after results were seen" if history["after_results"] else ""
    return f"by {history['by']}, written down on {history['date']}{after}"
