"""The budgets at which retraining reaches each reconstruction: the numbers of claims, as a curve.

The numbers are those of the measure `budget_ratio`, which also decides the claims, with the same
intervals and bounds.
"""

import math
from collections.abc import Iterator

from freelunch.analysis.intervals import estimate
from freelunch.analysis.pairing import Row
from freelunch.audit.claims import Question, load_claims
from freelunch.audit.evidence import PERPLEXITY, Evidence
from freelunch.audit.measures.measure import Measurement
from freelunch.audit.measures.retraining_budget import budget_ratio
from freelunch.audit.numbers import estimate_text
from freelunch.reporting.results import Results
from freelunch.study.cell import Cell


def ratio_rows(results: Results) -> list[Row]:
    """Return a row for each reconstruction, text and unit of the budget that a claim asks about.

    What the study cannot test has no row.
    """
    evidence = Evidence(results.study, results.records, results.folder)
    return [
        row
        for claim in load_claims()
        for question in claim.parts
        if question.measure == budget_ratio.__name__
        for row in _rows(evidence, claim.id, question)
    ]


def _rows(evidence: Evidence, claim: str, question: Question) -> Iterator[Row]:
    study, unit = evidence.study, question.settings["unit"]
    of_perplexity = question.metric == PERPLEXITY
    text = study.perplexity.text if of_perplexity else study.calibration.text
    compared = {
        _place(each.cells[0]): each
        for comparison in evidence.comparisons
        for members in comparison.series.values()
        for each in members
    }
    for asked in budget_ratio(evidence, {**question.settings, "metric": question.metric}):
        if not isinstance(asked, Measurement):
            continue
        # The reconstruction's cells come last; `about` is its name.
        seeds = {cell.seed for cell in asked.cells}
        places = dict.fromkeys(map(_place, asked.cells))
        *retrained, reference = (compared[place].with_seeds(seeds) for place in places)
        ratio = estimate(asked.statistics, asked.samples, asked.pick)
        one, words = asked.cells[-1], asked.without
        if not math.isnan(ratio.value):
            words = estimate_text(ratio, "times", asked.bounds)
        smallest = min(each.amount(unit) for each in retrained)
        yield {
            **{key: getattr(one, key) for key in ("model", "criterion", "pattern")},
            "reference": asked.about,
            "reference_tokens": reference.amount("tokens"),
            "claim": claim,
            "metric": question.metric,
            "text": text,
            "unit": unit,
            "seeds": min(sample.seeds for sample in asked.samples),
            "smallest": smallest / reference.amount(unit),
            "known_from": asked.bounds[0],
            "largest": asked.bounds[1],
            "ratio": ratio.value,
            "low": ratio.low,
            "high": ratio.high,
            "ratio_in_words": words,
            "threshold": question.threshold.value,
        }


def _place(cell: Cell) -> tuple[str, ...]:
    return cell.model, cell.criterion, cell.pattern, cell.adaptation
