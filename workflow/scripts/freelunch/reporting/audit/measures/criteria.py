"""Measures of how far apart criteria are with the reconstruction."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from freelunch.analysis.bootstrap import Means
from freelunch.analysis.pairing import exp, parameters_by_model
from freelunch.reporting.audit.evidence import PERPLEXITY, Evidence
from freelunch.reporting.audit.measures.measure import (
    CRITERIA,
    Absent,
    Asked,
    Measure,
    Measurement,
    Settings,
    ask,
    by_criterion,
    divided,
)
from freelunch.study.cell import NONE, Cell


def gap_left(evidence: Evidence, settings: Settings) -> Asked:
    """The gap in loss between the worst and the best of some `criteria` with the reconstruction,
    divided by the gap without it. All of them have to be in the study, and no others count.
    """
    for criteria, name in _criteria(evidence, settings["metric"]):
        yield _gap_left(evidence, settings, criteria, name)


def gap_left_by_size(evidence: Evidence, settings: Settings) -> Asked:
    """How much more of the gap between `criteria` is left in a model than in the next smaller."""
    sizes = parameters_by_model(evidence.records)
    by_pattern: dict[str, list[Measurement]] = {}
    for criteria, name in _criteria(evidence, settings["metric"]):
        found = _gap_left(evidence, settings, criteria, name)
        if isinstance(found, Measurement):
            by_pattern.setdefault(found.cells[0].pattern, []).append(found)
    several = {pattern: each for pattern, each in by_pattern.items() if len(each) > 1}
    if not several:
        yield Absent(
            "models of different sizes",
            "this study does not compare these criteria on models of several sizes",
        )
    for pattern, of_models in several.items():
        ordered = sorted(of_models, key=lambda each: sizes[each.cells[0].model])
        for small, large in pairwise(ordered):

            def statistic(
                means: Means, small: Measurement = small, large: Measurement = large
            ) -> float:
                return large.statistic(means) - small.statistic(means)

            yield Measurement(
                f"{pattern}: {large.subject} minus {small.subject}",
                statistic,
                [*small.samples, *large.samples],
                [*small.cells, *large.cells],
            )


def perplexity_apart(evidence: Evidence, settings: Settings) -> Asked:
    """How far apart the perplexities of two `criteria` are with the reconstruction, in models whose
    dense perplexity is at most `dense_at_most`: differences do not carry over to other levels.
    """
    one, other = settings["criteria"]
    for criteria, name in _criteria(evidence, settings["metric"]):
        if one not in criteria or other not in criteria:
            continue
        cells = {criterion: criteria[criterion][1] for criterion in (one, other)}
        model = cells[one][0].model
        subject = f"{model}, {cells[one][0].pattern}, {name}: {one} and {other}"
        metrics = evidence.records[Cell.dense(model)]["metrics"]["perplexity"]
        dense, most = metrics["perplexity"], settings["dense_at_most"]
        if dense is None or dense > most:
            found = "not finite" if dense is None else f"{dense:.1f}"
            yield Absent(subject, f"the dense perplexity is {found}, not at most {most}")
            continue

        def statistic(means: Means) -> float:
            return abs(exp(means[one]) - exp(means[other]))

        yield ask(evidence, settings, subject, statistic, cells)


def _gap_left(
    evidence: Evidence,
    settings: Settings,
    criteria: Mapping[str, tuple[Sequence[Cell], Sequence[Cell]]],
    name: str,
) -> Measurement | Absent:
    one = next(iter(criteria.values()))[0][0]
    subject = f"{one.model}, {one.pattern}, {name}"
    if missing := [it for it in settings["criteria"] if it not in criteria]:
        return Absent(subject, f"there are no cells of {', '.join(missing)}")
    # Names of one model have to differ from those of another.
    names = {
        it: [f"{one.model} {it} {adaptation}" for adaptation in (NONE, name)]
        for it in settings["criteria"]
    }
    cells = {names[it][at]: criteria[it][at] for it in names for at in (0, 1)}

    def statistic(means: Means) -> float:
        before, after = ([means[each[at]] for each in names.values()] for at in (0, 1))
        return divided(max(after) - min(after), max(before) - min(before))

    return ask(evidence, settings, subject, statistic, cells)


def _criteria(
    evidence: Evidence, metric: str
) -> Iterator[tuple[dict[str, tuple[list[Cell], list[Cell]]], str]]:
    """Yield, for each model and pattern, the cells of each criterion and the reconstruction's name.

    The cells are those without and those with the reconstruction, of the seeds that all share.
    """
    for (*_, name), criteria in by_criterion(evidence, metric).items():
        seeds = set.intersection(*({it.seed for it in of[name]} for of in criteria.values()))
        if len(criteria) > 1 and seeds:

            def kept(of_seeds: Sequence[Cell], seeds: set[int] = seeds) -> list[Cell]:
                return [cell for cell in of_seeds if cell.seed in seeds]

            yield {it: (kept(of[NONE]), kept(of[name])) for it, of in criteria.items()}, name


MEASURES = (
    Measure(gap_left, "remaining share of the gap between criteria", {"criteria": CRITERIA}),
    Measure(
        gap_left_by_size,
        "remaining share of the gap, larger minus smaller model",
        {"criteria": CRITERIA},
    ),
    Measure(
        perplexity_apart,
        "difference in perplexity",
        {
            "criteria": {**CRITERIA, "maxItems": 2},
            "dense_at_most": {"type": "number", "exclusiveMinimum": 0},
        },
        unit="perplexity",
        metrics=(PERPLEXITY,),
    ),
)
