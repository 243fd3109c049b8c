"""The numbers of claims that figures show: main effects, and budgets of retraining.

They are those of the audit, with the same intervals and bounds.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace

from freelunch.analysis.intervals import estimate
from freelunch.analysis.pairing import Row
from freelunch.audit.claim_verdicts import PartVerdict, audit_claims
from freelunch.audit.claims import Claim, Question, load_claims
from freelunch.audit.evidence import PERPLEXITY, Evidence
from freelunch.audit.measures import MEASURES
from freelunch.audit.measures.measure import shared_sample
from freelunch.audit.measures.recovery import recovered_by, recovery
from freelunch.audit.measures.retraining_budget import budget_ratio
from freelunch.audit.numbers import Number
from freelunch.reporting.drawing.adaptation_looks import adaptation_labels, first_of_kinds
from freelunch.reporting.results import Results
from freelunch.study.cell import NONE, Cell

# Columns with what all cells of an effect have in common; empty where they differ.
_SHARED = ("model", "criterion", "pattern", "adaptation")


def effect_rows(results: Results) -> list[Row]:
    """Return the effects: what each adaptation recovers, and all numbers of claims.

    The numbers of claims are those of the audit, with their intervals, thresholds and verdicts. The
    share of the loss that each adaptation recovers is computed as the audit computes it for the
    reconstruction. What is not finite, what was planned rather than measured, and what the study
    cannot test are left out. A number without an interval has neither end.
    """
    evidence = Evidence(results.study, results.records, results.folder)
    labels = adaptation_labels(results.study.as_json()["adaptations"])
    shown = {tuple(row[key] for key in _SHARED): row for row in _recovered(evidence)}
    others: list[Row] = []
    for claim, question, part in _judged(evidence, load_claims()):
        for row in _of_part(claim.id, question, part, labels):
            if (row["measure"], row["metric"]) == (recovery.__name__, PERPLEXITY):
                shown[tuple(row[key] for key in _SHARED)] = row
            else:
                others.append(row)
    return [*shown.values(), *others]


def _judged(
    evidence: Evidence, claims: Sequence[Claim]
) -> Iterator[tuple[Claim, Question, PartVerdict]]:
    """Yield the parts of claims with their verdicts; what these say of the paper is not shown."""
    for claim, verdict in zip(claims, audit_claims(evidence, claims, {}), strict=True):
        for question, part in zip(claim.parts, verdict.parts, strict=True):
            yield claim, question, part


def _of_part(
    claim: str, question: Question, part: PartVerdict, labels: Mapping[str, str]
) -> Iterator[Row]:
    """Yield the numbers of one part of a claim."""
    for finding in part.findings:
        # What was planned names no cells.
        if finding.value is None or not finding.cells:
            continue
        effect, about = question.effect or question.says, finding.about
        if about in labels:
            effect += f": {labels[about].removeprefix('reconstruction: ')}"
        elif about:
            effect += f", {about}"
        yield {
            **_effect(
                [*map(Cell.parse, finding.cells)], question.measure, question.metric, finding
            ),
            "claim": claim,
            "effect": effect,
            "seeds": finding.seeds,
            "verdict": finding.verdict,
            "threshold": question.threshold.value,
            "side": question.threshold.side,
        }


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
            measure, cells = recovery.__name__, [*by_name[name].values()]
            number = Number.of(recovered, MEASURES[measure].unit)
            # As the claim about it calls it.
            effect = {"effect": "loss recovered", "seeds": sample.seeds}
            yield _effect(cells, measure, PERPLEXITY, number) | effect


def _effect(cells: Sequence[Cell], measure: str, metric: str | None, number: Number) -> Row:
    """Return what all cells of an effect share, its measure and its number. The adaptation is that
    of the adapted cells.
    """
    pruned = [cell for cell in cells if not cell.is_dense]
    adapted = [cell for cell in pruned if cell.adaptation != NONE]
    row: Row = {}
    for key in _SHARED:
        values = {getattr(cell, key) for cell in (adapted if key == "adaptation" else pruned)}
        row[key] = values.pop() if len(values) == 1 else ""
    asked = MEASURES[measure]
    row |= {"measure": measure, "metric": metric, "unit": asked.unit_for(metric)}
    row |= {"quantity": asked.quantity}
    return row | {key.name: getattr(number, key.name) for key in fields(Number)}


def ratio_rows(results: Results) -> list[Row]:
    """Return a row for each reconstruction, text and unit of the budget that a claim asks about.

    What the study cannot test has no row.
    """
    evidence = Evidence(results.study, results.records, results.folder)
    study, name = results.study, budget_ratio.__name__
    asked = [
        replace(claim, parts=[part for part in claim.parts if part.measure == name])
        for claim in load_claims()
    ]
    adapted = {
        replace(each.cells[0], seed=0): each
        for comparison in evidence.comparisons
        for members in comparison.series.values()
        for each in members
    }
    rows = []
    for claim, question, part in _judged(evidence, asked):
        text = (study.perplexity if question.metric == PERPLEXITY else study.calibration).text
        for finding in (each for each in part.findings if each.cells):
            unit, cells = question.settings["unit"], [*map(Cell.parse, finding.cells)]
            seeds = {cell.seed for cell in cells}
            places = dict.fromkeys(replace(cell, seed=0) for cell in cells)
            # The reconstruction's cells come last; `about` is its name.
            *retrained, reference = (adapted[place].with_seeds(seeds) for place in places)
            smallest = min(each.amount(unit) for each in retrained)
            value, low, high = (
                float(math.nan if end is None else end)
                for end in (finding.value, finding.low, finding.high)
            )
            rows.append(
                {
                    **{key: getattr(cells[-1], key) for key in ("model", "criterion", "pattern")},
                    "reference": finding.about,
                    "reference_tokens": reference.amount("tokens"),
                    "claim": claim.id,
                    "metric": question.metric,
                    "text": text,
                    "unit": unit,
                    "seeds": finding.seeds,
                    "smallest": smallest / reference.amount(unit),
                    "known_from": finding.known_from,
                    "largest": finding.known_to,
                    "ratio": value,
                    "low": low,
                    "high": high,
                    "ratio_in_words": finding.text,
                    "threshold": question.threshold.value,
                }
            )
    return rows
