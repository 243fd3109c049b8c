"""The claims of an audit's page: their verdicts in sentences, their numbers, their figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from freelunch.audit.measures import MEASURES
from freelunch.audit.verdicts import (
    ADDS,
    DECIDES,
    HOLDS,
    OPEN,
    UNDECIDED,
    UNTESTED,
    kind,
    of_claim,
    tally,
)
from freelunch.reporting.labels import criterion_label, window_label
from freelunch.study.adaptations import Reconstruction
from freelunch.study.cell import NONE
from freelunch.study.study import Study

# Who set a threshold that neither the paper nor the words of the claim give.
US = "us"
# More numbers of a part than these are shown as a range.
_FEW = 2
# What the settings of a measure ask a study for, in words.
_CRITERIA, _WINDOWS = "pruning by {}", "reconstruction in windows of {}"
_NEEDS = {
    "criteria": _CRITERIA,
    "groups": _CRITERIA,
    "beside": _WINDOWS,
    "windows": _WINDOWS,
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
                "key_numbers": _key_numbers(claim["parts"]),
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
    """Return the reason for the verdict on a claim: a tally of its deciding parts, or of all; and
    the additional parts that weaken it.
    """
    verdicts = [(part["verdict"], part["role"]) for part in claim["parts"] if part["role"] != ADDS]
    weaker = [
        f" But “{part['says']}” is {part['verdict']}."
        for part in claim["parts"]
        if part["role"] == ADDS and kind(part["verdict"]) not in (HOLDS, *OPEN)
    ]
    unlike = bool(verdicts) and of_claim(verdicts) != claim["verdict"]
    return _own_reason(claim) + "".join(weaker if unlike else [])


def _own_reason(claim: Mapping[str, Any]) -> str:
    parts = [part for part in claim["parts"] if part["role"] != ADDS] or claim["parts"]
    if len(parts) == 1:
        return _why(parts[0])
    deciding = [part for part in parts if part["role"] == DECIDES]
    if len(deciding) == 1:
        why = _why(deciding[0])
        return f"“{deciding[0]['says']}” decides: {why[0].lower()}{why[1:]}"
    if deciding:
        verdicts = [part["verdict"] for part in deciding]
        open_ones = any(verdict in OPEN for verdict in verdicts)
        rule = "; not found would need all of them to agree" if open_ones else ""
        return f"{tally(verdicts, 'deciding parts')}{rule}."
    return f"{tally([part['verdict'] for part in parts], 'parts')}."


def _why(part: Mapping[str, Any]) -> str:
    """Return the reason for the verdict on a part; its number, if there is one, stands below."""
    if len(part["findings"]) == 1:
        reason = str(part["findings"][0]["reason"])
        return f"{reason[0].upper()}{reason[1:]}."
    return str(part["reason"])


def needs_text(claims: Sequence[Mapping[str, Any]], study: Study) -> str:
    """Return in words what a study would need, beside what it has, for those claims of which it can
    test nothing.
    """
    found: dict[str, dict[Any, None]] = {}
    parts = [part for claim in claims if claim["verdict"] == UNTESTED for part in claim["parts"]]
    for part in parts:
        if part["role"] != ADDS:
            asked = {"windows": [*MEASURES[part["measure"]].windows]}
            for settings in (asked, part["settings"]):
                for key, value in settings.items():
                    if key in _NEEDS:
                        found.setdefault(_NEEDS[key], {}).update(dict.fromkeys(_flat(value)))
    names = {cell.adaptation for cell in study.cells} - {NONE}
    settings = [study.config.adaptations[name] for name in names]
    there = {cell.criterion for cell in study.cells} | {it.method for it in settings}
    there |= {it.window for it in settings if isinstance(it, Reconstruction)}
    needed = {
        words: [_name(it, words) for it in its if it not in there] for words, its in found.items()
    }
    return "; ".join(words.format(", ".join(its)) for words, its in needed.items() if its)


def _flat(value: Any) -> list[Any]:
    """Return the names or numbers in a setting, also those in lists within it."""
    return [it for each in value for it in _flat(each)] if isinstance(value, list) else [value]


def _name(value: Any, words: str) -> str:
    if words == _WINDOWS:
        return window_label(value)
    if words == _CRITERIA:
        return criterion_label(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _key_numbers(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the parts that may decide, each with its threshold and its numbers in short.

    What the numbers are is said once for several parts that follow each other.
    """
    found: list[dict[str, str]] = []
    said = None
    for part in (it for it in parts if it["role"] != ADDS):
        text, are_numbers = _in_short(part)
        if are_numbers and said != part["quantity"]:
            said = part["quantity"]
            text = f"{said}: {text}"
        whose = f", set by {part['set']['by']}" if part["set"]["by"] == US else ""
        threshold = f"{part['threshold']}{whose}"
        found.append(
            {"says": part["says"], "verdict": part["verdict"], "text": text, "threshold": threshold}
        )
    return found


def _in_short(part: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the numbers of a part, one or two with intervals or a range of more, and True; or why
    there are none, and False.

    Numbers without an interval are in no range: data that say so little may give any number.
    """
    there = [finding for finding in part["findings"] if finding["text"]]
    texts = [str(finding["text"]) for finding in there]
    if not texts:
        return str(part["reason"]).rstrip("."), False
    if len(texts) <= _FEW:
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
    return text, True


def _range(known: Sequence[Mapping[str, Any]]) -> str:
    """Return the smallest and the largest of some numbers, with the unit once."""
    in_order = sorted(known, key=lambda finding: float(str(finding["value"])))
    least, most = (str(it["text"]).partition(" (")[0] for it in (in_order[0], in_order[-1]))
    # A perplexity has no unit.
    _, space, unit = most.rpartition(" ")
    least = least.removesuffix(f" {unit}") if space else least
    return f"{len(known)} numbers from {least} to {most}"


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
