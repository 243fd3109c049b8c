"""The claims of an audit's page: their verdicts in sentences, and their numbers in short."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from freelunch.audit.claim_verdicts import ClaimVerdict, Finding, PartVerdict
from freelunch.audit.claims import ThresholdHistory
from freelunch.audit.measures import MEASURES
from freelunch.audit.published_claims import TableClaimVerdict
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
from freelunch.reporting.drawing.adaptation_looks import window_label
from freelunch.reporting.labels import criterion_label
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


@dataclass(frozen=True)
class KeyNumber:
    """A part that may decide a claim, with its threshold and its numbers in short."""

    says: str
    verdict: str
    text: str
    threshold: str


def claim_reason(claim: ClaimVerdict | TableClaimVerdict) -> str:
    """Return the reason for the verdict on a claim: a tally of its deciding parts, or of all; and
    the additional parts that weaken it.
    """
    own = [part for part in claim.parts if part.role != ADDS]
    reason = _own_reason(own or claim.parts)
    if own and of_claim([(part.verdict, part.role) for part in own]) != claim.verdict:
        for part in claim.parts:
            if part.role == ADDS and kind(part.verdict) not in (HOLDS, *OPEN):
                reason += f" But “{part.says}” is {part.verdict}."
    return reason


def _own_reason(parts: Sequence[Any]) -> str:
    if len(parts) == 1:
        return _why(parts[0])
    deciding = [part for part in parts if part.role == DECIDES]
    if len(deciding) == 1:
        why = _why(deciding[0])
        return f"“{deciding[0].says}” decides: {why[0].lower()}{why[1:]}"
    if deciding:
        verdicts = [part.verdict for part in deciding]
        open_ones = any(verdict in OPEN for verdict in verdicts)
        rule = "; not found would need all of them to agree" if open_ones else ""
        return f"{tally(verdicts, 'deciding parts')}{rule}."
    return f"{tally([part.verdict for part in parts], 'parts')}."


def _why(part: Any) -> str:
    """Return the reason for the verdict on a part; its number, if there is one, stands below."""
    if len(part.findings) == 1:
        reason = str(part.findings[0].reason)
        return f"{reason[0].upper()}{reason[1:]}."
    return str(part.reason)


def needs_text(claims: Sequence[ClaimVerdict], study: Study) -> str:
    """Return in words what a study would need, beside what it has, for those claims of which it can
    test nothing.
    """
    needed: dict[str, dict[Any, None]] = {}
    untested = [claim for claim in claims if claim.verdict == UNTESTED]
    for part in (part for claim in untested for part in claim.parts if part.role != ADDS):
        for settings in ({"windows": [*MEASURES[part.measure].windows]}, part.settings):
            for key, value in settings.items():
                if key in _NEEDS:
                    needed.setdefault(_NEEDS[key], {}).update(dict.fromkeys(_flat(value)))
    entries = study.config.adaptations
    adaptations = [entries[it.adaptation] for it in study.cells if it.adaptation != NONE]
    there: set[Any] = {cell.criterion for cell in study.cells}
    there |= {settings.method for settings in adaptations}
    there |= {each.window for each in adaptations if isinstance(each, Reconstruction)}
    needs = []
    for words, values in needed.items():
        if missing := [_name(value, words) for value in values if value not in there]:
            needs.append(words.format(", ".join(missing)))
    return "; ".join(needs)


def _flat(value: Any) -> list[Any]:
    """Return the names or numbers in a setting, also those in lists within it."""
    return [it for each in value for it in _flat(each)] if isinstance(value, list) else [value]


def _name(value: Any, words: str) -> str:
    if words == _WINDOWS:
        return window_label(value)
    if words == _CRITERIA:
        return criterion_label(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def key_numbers(parts: Sequence[PartVerdict]) -> list[KeyNumber]:
    """Return the parts that may decide, each with its threshold and its numbers in short.

    What the numbers are is said once for several parts that follow each other.
    """
    numbers: list[KeyNumber] = []
    said = None
    for part in (each for each in parts if each.role != ADDS):
        measured = [finding for finding in part.findings if finding.text]
        text = _in_short(part, measured) if measured else part.reason.rstrip(".")
        if measured and said != part.quantity:
            said = part.quantity
            text = f"{said}: {text}"
        whose = f", set by {part.set.by}" if part.set.by == US else ""
        numbers.append(KeyNumber(part.says, part.verdict, text, f"{part.threshold}{whose}"))
    return numbers


def _in_short(part: PartVerdict, measured: Sequence[Finding]) -> str:
    """Return the numbers of a part: one or two with intervals, or a range of more.

    Numbers without an interval are in no range: data that say so little may give any number.
    """
    texts = [str(finding.text) for finding in measured]
    if len(texts) <= _FEW:
        return "; ".join(texts)
    verdicts = Counter(finding.verdict for finding in part.findings)
    told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    known = [finding for finding in measured if finding.value is not None]
    known = [finding for finding in known if finding.low is not None] or known
    numbers = _range(known) if known else "; ".join(dict.fromkeys(texts))
    undecided = [finding.text for finding in known if finding.verdict == UNDECIDED]
    one = f"; the undecided one is {undecided[0]}" if len(undecided) == 1 < len(verdicts) else ""
    return f"{numbers} ({told}){one}"


def _range(known: Sequence[Finding]) -> str:
    """Return the smallest and the largest of some numbers, with the unit once."""
    in_order = sorted(known, key=lambda finding: float(str(finding.value)))
    least, most = (str(each.text).partition(" (")[0] for each in (in_order[0], in_order[-1]))
    # A perplexity has no unit.
    _, space, unit = most.rpartition(" ")
    least = least.removesuffix(f" {unit}") if space else least
    return f"{len(known)} numbers from {least} to {most}"


def threshold_history(history: ThresholdHistory) -> str:
    """Return who set a threshold, and when, in words."""
    after = ", after results were seen" if history.after_results else ""
    return f"by {history.by}, written down on {history.date}{after}"
