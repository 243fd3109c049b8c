"""The main effects that a study measures, with paired intervals: the rows of the forest plot."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from freelunch.analysis.intervals import estimate
from freelunch.analysis.pairing import Row
from freelunch.audit.claim_verdicts import PartVerdict, audit_claims
from freelunch.audit.claims import Question, load_claims
from freelunch.audit.evidence import PERPLEXITY, Evidence
from freelunch.audit.measures import MEASURES
from freelunch.audit.measures.measure import shared_sample
from freelunch.audit.measures.recovery import recovered_by, recovery
from freelunch.audit.numbers import Number
from freelunch.reporting.drawing.adaptation_looks import adaptation_labels, first_of_kinds
from freelunch.reporting.results import Results
from freelunch.study.cell import NONE, Cell

# Columns with what all cells of an effect have in common; empty where they differ.
_SHARED = ("model", "criterion", "pattern", "adaptation")
# Columns of a number, as the audit has them.
_NUMBERS = ("value", "low", "high", "known_from", "known_to", "text")


def effect_rows(results: Results) -> list[Row]:
    """Return the effects: what each adaptation recovers, and all numbers of claims.

    The numbers of claims are those of the audit, with their intervals, thresholds and verdicts. The
    share of the loss that each adaptation recovers is computed as the audit computes it for the
    reconstruction. What is not finite, what was planned rather than measured, and what the study
    cannot test are left out. A number without an interval has neither end.
    """
    evidence = Evidence(results.study, results.records, results.folder)
    claims = load_claims()
    labels = adaptation_labels(results.study.as_json()["adaptations"])
    shown = {_key(row): row for row in _recovered(evidence)}
    others: list[Row] = []
    # What the numbers say of the paper is not shown here.
    for claim, verdict in zip(claims, audit_claims(evidence, claims, {}), strict=True):
        for question, part in zip(claim.parts, verdict.parts, strict=True):
            for row in _of_claim(claim.id, question, part, labels):
                if (row["measure"], row["metric"]) == (recovery.__name__, PERPLEXITY):
                    shown[_key(row)] = row
                else:
                    others.append(row)
    return [*shown.values(), *others]


def _of_claim(
    claim: str, question: Question, part: PartVerdict, labels: Mapping[str, str]
) -> Iterator[Row]:
    """Yield the numbers of one part of a claim."""
    for finding in part.findings:
        # What was planned names no cells.
        if finding.value is not None and finding.cells:
            yield {
                **_shared([Cell.parse(cell) for cell in finding.cells]),
                **_of_measure(question.measure, question.metric),
                "claim": claim,
                "effect": _about(question.effect, finding.about, labels),
                "seeds": finding.seeds,
                **_of_number(finding),
                "verdict": finding.verdict,
                "threshold": question.threshold.value,
                "side": question.threshold.side,
            }


def _about(name: str, about: str, labels: Mapping[str, str]) -> str:
    """Return a name with what a number is about: an adaptation, in words, or a phrase."""
    if about in labels:
        return f"{name}: {labels[about].removeprefix('reconstruction: ')}"
    return f"{name}, {about}" if about else name


def _recovered(evidence: Evidence) -> Iterator[Row]:
    """Yield the share of the loss that each adaptation recovers, for each pruned model.

    Only one adaptation of each kind counts: the first in the config without an amount of text of
    its own; or else the first that sees as much text as the reference; or else the first. Others
    differ from it, for example, in how much text they see.
    """
    study = evidence.study
    entries, amounts = study.as_json()["adaptations"], study.comparisons.sequences
    wanted = {amounts[name] for name in study.comparisons.references[:1]}
    ordered = sorted(entries, key=lambda name: amounts[name] not in wanted)
    firsts = first_of_kinds({name: entries[name] for name in ordered}).values()
    for by_name in evidence.pruned:
        for name in (name for name in by_name if name in firsts):
            sample = shared_sample(evidence, by_name, [NONE, name])
            if sample is None:
                continue
            recovered = estimate([recovered_by(name)], [sample])
            if math.isnan(recovered.value):
                continue
            yield {
                **_shared([*by_name[name].values()]),
                **_of_measure(recovery.__name__, PERPLEXITY),
                # As the claim about it calls it.
                "effect": "loss recovered",
                "seeds": sample.seeds,
                **_of_number(Number.of(recovered, MEASURES[recovery.__name__].unit)),
            }


def _of_measure(name: str, metric: str | None) -> Row:
    measure = MEASURES[name]
    return {
        "measure": name,
        "metric": metric,
        "unit": measure.unit_for(metric),
        "quantity": measure.quantity,
    }


def _of_number(number: Number) -> Row:
    return {key: getattr(number, key) for key in _NUMBERS}


def _shared(cells: Sequence[Cell]) -> Row:
    """Return what all cells share; the adaptation is that of the adapted ones."""
    pruned = [cell for cell in cells if not cell.is_dense]
    adapted = [cell for cell in pruned if cell.adaptation != NONE]
    shared: Row = {}
    for key in _SHARED:
        values = {getattr(cell, key) for cell in (adapted if key == "adaptation" else pruned)}
        shared[key] = values.pop() if len(values) == 1 else ""
    return shared


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in _SHARED)
