"""The numbers of claims, which the forest plot shows, as the audit has them."""

from collections.abc import Sequence
from dataclasses import fields

from freelunch.analysis.pairing import Row
from freelunch.audit.claim_verdicts import audit_claims
from freelunch.audit.claims import load_claims
from freelunch.audit.evidence import Evidence
from freelunch.audit.measures import MEASURES
from freelunch.audit.numbers import Number
from freelunch.reporting.drawing.adaptation_looks import adaptation_labels
from freelunch.reporting.results import Results
from freelunch.study.cell import NONE, Cell


def effect_rows(results: Results) -> list[Row]:
    """Return the numbers of claims, with their intervals, thresholds and verdicts.

    What is not finite, what was planned rather than measured, and what the study cannot test are
    left out. A number without an interval has neither end.
    """
    evidence = Evidence(results.study, results.records, results.folder)
    labels = adaptation_labels(results.study.as_json()["adaptations"])
    claims = load_claims()
    rows = []
    # What verdicts say of the paper is not shown.
    for claim, verdict in zip(claims, audit_claims(evidence, claims, {}), strict=True):
        for question, part in zip(claim.parts, verdict.parts, strict=True):
            asked = MEASURES[question.measure]
            for finding in part.findings:
                # What was planned names no cells.
                if finding.value is None or not finding.cells:
                    continue
                effect, about = question.effect or question.says, finding.about
                if about in labels:
                    effect += f": {labels[about].removeprefix('reconstruction: ')}"
                elif about:
                    effect += f", {about}"
                row: Row = {
                    **_shared([*map(Cell.parse, finding.cells)]),
                    "measure": question.measure,
                    "metric": question.metric,
                    "unit": asked.unit_for(question.metric),
                    "quantity": asked.quantity,
                    **{key.name: getattr(finding, key.name) for key in fields(Number)},
                    "claim": claim.id,
                    "effect": effect,
                    "seeds": finding.seeds,
                    "verdict": finding.verdict,
                    "threshold": question.threshold.value,
                    "side": question.threshold.side,
                }
                rows.append(row)
    return rows


def _shared(cells: Sequence[Cell]) -> Row:
    """Return what all cells of an effect have in common; empty where they differ. The adaptation is
    that of the adapted cells.
    """
    pruned = [cell for cell in cells if not cell.is_dense]
    adapted = [cell for cell in pruned if cell.adaptation != NONE]
    row: Row = {}
    for key in ("model", "criterion", "pattern", "adaptation"):
        values = {getattr(cell, key) for cell in (adapted if key == "adaptation" else pruned)}
        row[key] = values.pop() if len(values) == 1 else ""
    return row
