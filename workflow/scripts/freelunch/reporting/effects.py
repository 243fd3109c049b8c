"""The main effects that a study measures, with paired intervals: the rows of the forest plot."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from freelunch.analysis.intervals import estimate
from freelunch.audit.claims import audit_claims, load_claims
from freelunch.audit.evidence import PERPLEXITY, Evidence
from freelunch.audit.measures import MEASURES
from freelunch.audit.measures.measure import shared_sample
from freelunch.audit.measures.recovery import recovered_by, recovery
from freelunch.audit.numbers import estimate_json
from freelunch.reporting.finished import FinishedStudy
from freelunch.reporting.labels import adaptation_labels, first_of_kinds
from freelunch.study.cell import NONE, Cell

# Columns with what all cells of an effect have in common; empty where they differ.
_SHARED = ("model", "criterion", "pattern", "adaptation")
# Columns of a number, as the audit has them.
_NUMBERS = ("value", "low", "high", "known_from", "known_to", "text")
Row = dict[str, Any]


def effect_rows(finished: FinishedStudy) -> list[Row]:
    """Return the effects: what each adaptation recovers, and all numbers of claims.

    The numbers of claims are those of the audit, with their intervals, thresholds and verdicts. The
    share of the loss that each adaptation recovers is computed as the audit computes it for the
    reconstruction. What is not finite, what was planned rather than measured, and what the study
    cannot test are left out. A number without an interval has neither end.
    """
    evidence = Evidence(finished.study, finished.records, finished.folder)
    claims = load_claims()
    labels = adaptation_labels(finished.study.as_json()["adaptations"])
    rows = [
        row
        # What the numbers say of the paper is not shown here.
        for claim, audited in zip(claims, audit_claims(evidence, claims, {}), strict=True)
        for part, found in zip(claim["parts"], audited["parts"], strict=True)
        for row in _of_claim(claim["id"], part, found, labels)
    ]
    recovered = {
        (row["model"], row["criterion"], row["pattern"], row["adaptation"]): row
        for row in rows
        if (row["measure"], row["metric"]) == (recovery.__name__, PERPLEXITY)
    }
    shown = {_key(row): row for row in _recovered(evidence)} | recovered
    others = [row for row in rows if row not in recovered.values()]
    return [*shown.values(), *others]


def _of_claim(
    claim: str, part: Mapping[str, Any], found: Mapping[str, Any], labels: Mapping[str, str]
) -> Iterator[Row]:
    """Yield the numbers of one part of a claim."""
    name = part.get("effect", part["says"])
    ((side, threshold),) = part["holds"].items()
    for finding in found["findings"]:
        # What was planned names no cells.
        if finding["value"] is not None and finding["cells"]:
            yield {
                **_shared([Cell.parse(cell) for cell in finding["cells"]]),
                **_of_measure(part["measure"], part.get("metric")),
                "claim": claim,
                "effect": _about(name, finding["about"], labels),
                "seeds": finding["seeds"],
                **{key: finding[key] for key in (*_NUMBERS, "verdict")},
                "threshold": threshold,
                "side": side,
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
            found = estimate([recovered_by(name)], [sample])
            if math.isnan(found.value):
                continue
            yield {
                **_shared([*by_name[name].values()]),
                **_of_measure(recovery.__name__, PERPLEXITY),
                # As the claim about it calls it.
                "effect": "loss recovered",
                "seeds": sample.seeds,
                **estimate_json(found, MEASURES[recovery.__name__].unit),
            }


def _of_measure(name: str, metric: str | None) -> Row:
    measure = MEASURES[name]
    return {
        "measure": name,
        "metric": metric,
        "unit": measure.unit_for(metric),
        "quantity": measure.quantity,
    }


def _shared(cells: Sequence[Cell]) -> Row:
    """Return what all cells share; the adaptation is that of the adapted ones."""
    pruned = [cell for cell in cells if not cell.is_dense]
    adapted = [cell for cell in pruned if cell.adaptation != NONE]
    found = {}
    for key in _SHARED:
        values = {getattr(cell, key) for cell in (adapted if key == "adaptation" else pruned)}
        found[key] = values.pop() if len(values) == 1 else ""
    return found


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in _SHARED)
