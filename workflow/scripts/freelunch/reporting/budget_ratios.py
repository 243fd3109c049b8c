"""The budgets at which retraining reaches each reconstruction: the numbers of claims, as a curve.

The numbers are those of the measure `budget_ratio`, which also decides the claims, with the same
intervals and bounds.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from freelunch.analysis.intervals import estimate
from freelunch.audit.claims import load_claims
from freelunch.audit.evidence import PERPLEXITY, Evidence
from freelunch.audit.measures.budgets import budget_ratio
from freelunch.audit.measures.measure import Measurement
from freelunch.audit.numbers import estimate_text
from freelunch.reporting.finished import FinishedStudy
from freelunch.study.cell import Cell

Row = dict[str, Any]


def ratio_rows(finished: FinishedStudy) -> list[Row]:
    """Return a row for each reconstruction, text and unit of the budget that a claim asks about.

    What the study cannot test has no row.
    """
    evidence = Evidence(finished.study, finished.records, finished.folder)
    return [
        row
        for claim in load_claims()
        for part in claim["parts"]
        if part["measure"] == budget_ratio.__name__
        for row in _rows(evidence, claim["id"], part)
    ]


def _rows(evidence: Evidence, claim: str, part: Mapping[str, Any]) -> Iterator[Row]:
    perplexity = part["metric"] == PERPLEXITY
    text = evidence.study.perplexity.text if perplexity else evidence.study.calibration.text
    compared = {
        _place(each.cells[0]): each
        for comparison in evidence.comparisons
        for members in comparison.series.values()
        for each in members
    }
    unit = part["settings"]["unit"]
    for asked in budget_ratio(evidence, {**part["settings"], "metric": part["metric"]}):
        if not isinstance(asked, Measurement):
            continue
        # The reconstruction's cells come last; `about` is its name.
        seeds = {cell.seed for cell in asked.cells}
        places = dict.fromkeys(map(_place, asked.cells))
        used = [compared[place].with_seeds(seeds) for place in places]
        *retrained, reference = used
        found = estimate(asked.statistics, asked.samples, asked.pick)
        unknown = math.isnan(found.value)
        yield {
            **{key: getattr(asked.cells[-1], key) for key in ("model", "criterion", "pattern")},
            "reference": asked.about,
            "reference_tokens": reference.tokens,
            "claim": claim,
            "metric": part["metric"],
            "text": text,
            "unit": unit,
            "seeds": min(sample.seeds for sample in asked.samples),
            "smallest": min(getattr(it, unit) for it in retrained) / getattr(reference, unit),
            "known_from": asked.bounds[0],
            "largest": asked.bounds[1],
            "ratio": found.value,
            "low": found.low,
            "high": found.high,
            "ratio_in_words": (
                asked.without if unknown else estimate_text(found, "times", asked.bounds)
            ),
            "threshold": part["holds"]["above"],
        }


def _place(cell: Cell) -> tuple[str, ...]:
    return cell.model, cell.criterion, cell.pattern, cell.adaptation
