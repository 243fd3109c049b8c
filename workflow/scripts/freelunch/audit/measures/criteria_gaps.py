"""Measures of how far apart criteria are with the reconstruction."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, combinations
from typing import Any

import numpy as np

from freelunch.analysis.doubts import PERPLEXITY
from freelunch.analysis.intervals import (
    SIGNED_DIFFERENCES,
    Combination,
    Means,
    Numbers,
    size_difference,
)
from freelunch.audit.evidence import Evidence
from freelunch.audit.measures.measure import (
    Absent,
    Asked,
    Cells,
    Measure,
    Measurement,
    Settings,
    ask,
    divided,
)
from freelunch.audit.measures.recovery import CRITERIA, Place, by_criterion
from freelunch.reporting.formatting import criterion_label
from freelunch.study.cell import NONE

# Of two models of 70 and 72 billion parameters, neither says anything of larger models.
CLEARLY_SMALLER = 2 / 3
NO_GAP = "without the reconstruction, there may be no gap"
# Criteria whose mean loss is compared.
Group = Sequence[str]


def gap_left(evidence: Evidence, settings: Settings) -> Asked:
    """The gap in loss between every two `groups` of criteria with the reconstruction, divided by
    the gap without it, for each budget with which several criteria were run. The loss of a group is
    the mean of its criteria; below 0, the order of the two changes. All criteria have to be there,
    and no others count.
    """
    return (gap for *_, gap in _gaps(evidence, settings, [divided], undefined=NO_GAP))


def gap_growth(evidence: Evidence, settings: Settings) -> Asked:
    """How much larger the gap in loss between every two `groups` of criteria is with the
    reconstruction than without it, whichever of the two is worse, for each budget with which
    several criteria were run; below 0, it shrinks. Unlike a share of the gap, this is a number also
    where there was hardly a gap. All criteria have to be there, and no others count.
    """
    gaps = _gaps(evidence, settings, SIGNED_DIFFERENCES, pick=size_difference)
    return (gap for *_, gap in gaps)


def criteria_behind(evidence: Evidence, settings: Settings) -> Asked:
    """How much larger the loss of the first of two `groups` of criteria is with the reconstruction
    than that of the second, for each budget with which several criteria were run; below 0, it is
    smaller. All criteria have to be there, and no others count.
    """
    gaps = _gaps(evidence, settings, [lambda adapted, _: adapted], in_order=True)
    return (gap for *_, gap in gaps)


def gap_left_by_size(evidence: Evidence, settings: Settings) -> Asked:
    """How much more of the gap between `groups` is left in a model than in the next smaller of its
    family (`model_type`, if the models' entries say it) that has at most two thirds of its
    parameters, in whichever order the two groups are, for each budget with which several criteria
    were run. With `across_families`, all models are one family.
    """
    sizes = evidence.parameters
    by_gap: dict[tuple[str, str, int, str], list[Measurement]] = {}
    absent: dict[tuple[str, str], list[Absent]] = {}
    models: dict[tuple[str, str], set[str]] = {}
    for (model, *of), pair, found in _gaps(evidence, settings, [divided], undefined=NO_GAP):
        if model not in sizes:
            continue
        pattern, name = of
        models.setdefault((pattern, name), set()).add(model)
        if isinstance(found, Absent):
            absent.setdefault((pattern, name), []).append(found)
        else:
            family = "" if settings["across_families"] else evidence.family(model)
            by_gap.setdefault((pattern, name, pair, family), []).append(found)
    several = [
        _left_more(small, large, pattern)
        for (pattern, *_), measured in by_gap.items()
        for small, large in _by_size(measured, sizes)
    ]
    # What one of several models lacks at a budget is not forgotten.
    missing = [each for of, lacking in absent.items() if len(models[of]) > 1 for each in lacking]
    yield from missing
    if not several and not missing:
        yield Absent(
            "models of different sizes",
            "these criteria are not compared on models of several sizes and one architecture",
        )
    yield from several


def perplexity_difference(evidence: Evidence, settings: Settings) -> Asked:
    """The perplexity of the first of two `criteria` minus that of the second with the
    reconstruction, for each budget with which several criteria were run, in models whose dense
    perplexity is at most `dense_at_most`: differences do not carry over to other levels. Both have
    to be there.
    """
    one, other = settings["criteria"]

    def difference(means: Means) -> Numbers:
        return np.exp(means[one]) - np.exp(means[other])

    asked: list[Measurement | Absent] = []
    for place, criteria in by_criterion(evidence, settings["metric"], [one, other], beside=True):
        if isinstance(criteria, Absent):
            asked.append(criteria)
            continue
        model, _, name = place
        subject = f"{', '.join(place)}: {one} minus {other}"
        dense, most = evidence.dense_perplexity(model), settings["dense_at_most"]
        if dense is None or dense > most:
            found = "not known" if dense is None else f"{dense:.1f}"
            reason = f"the dense perplexity is {found}, not at most {most}"
            asked.append(Absent(subject, reason, too_small=True))
            continue
        cells = {criterion: criteria[criterion][name] for criterion in (one, other)}
        asked.append(ask(evidence, settings, subject, [difference], cells))
    # Models that the claim is not about count only where there are no others.
    about = [each for each in asked if not (isinstance(each, Absent) and each.too_small)]
    yield from about or asked


def _gaps(
    evidence: Evidence, settings: Settings, compared_by: Sequence[Combination], **more: Any
) -> Iterator[tuple[Place, int, Measurement | Absent]]:
    """Yield a comparison of the gap between every two groups of criteria with and without the
    reconstruction: where, the number of the pair, and the comparison. `compared_by` take the two
    gaps in this order, and `more` are attributes of the comparison; `in_order` keeps the groups'.
    """
    groups, metric = settings["groups"], settings["metric"]
    for place, criteria in by_criterion(evidence, metric, [*chain(*groups)], beside=True):
        if isinstance(criteria, Absent):
            yield place, 0, criteria
            continue
        for at, pair in enumerate(combinations(groups, 2)):
            yield place, at, _gap(evidence, settings, criteria, place, pair, compared_by, **more)


def _gap(
    evidence: Evidence,
    settings: Settings,
    criteria: Mapping[str, Cells],
    place: Place,
    pair: Sequence[Group],
    compared_by: Sequence[Combination],
    in_order: bool = False,
    **more: Any,
) -> Measurement | Absent:
    model, _, name = place

    def key(criterion: str, adaptation: str) -> str:
        # Names of one model have to differ from those of another.
        return f"{model} {criterion} {adaptation}"

    def gap(means: Means, adaptation: str) -> Numbers:
        levels = [
            np.mean([means[key(criterion, adaptation)] for criterion in group], axis=0)
            for group in pair
        ]
        return np.asarray(levels[0] - levels[1])

    def statistic(means: Means, combine: Combination) -> Numbers:
        return combine(gap(means, name), gap(means, NONE))

    cells = {
        key(criterion, adaptation): criteria[criterion][adaptation]
        for criterion in chain(*pair)
        for adaptation in (NONE, name)
    }
    sample = evidence.sample(cells, settings["metric"])
    # Unless their order is given, the group that is worse without the reconstruction comes first.
    if not in_order and sample and gap(sample.means(), NONE) < 0:
        pair = pair[::-1]
    statistics = [partial(statistic, combine=combine) for combine in compared_by]
    about = " vs. ".join("/".join(map(criterion_label, group)) for group in pair)
    return ask(evidence, settings, ", ".join(place), statistics, cells, about=about, **more)


def _left_more(small: Measurement, large: Measurement, pattern: str) -> Measurement:
    """Return how much more of a gap is left in the larger of two models."""

    def statistic(means: Means, combine: Combination) -> Numbers:
        return combine(large.statistics[0](means), small.statistics[0](means))

    return Measurement(
        f"{pattern}: {large.subject} minus {small.subject}",
        [partial(statistic, combine=combine) for combine in SIGNED_DIFFERENCES],
        [*small.samples, *large.samples],
        [*small.cells, *large.cells],
        about=small.about,
        pick=size_difference,
    )


def _by_size(
    measured: Sequence[Measurement], sizes: Mapping[str, int]
) -> Iterator[tuple[Measurement, Measurement]]:
    """Yield each measurement of a model that has a clearly smaller one, behind that of the largest
    such model.
    """
    ordered = sorted(measured, key=lambda each: sizes[each.cells[0].model])
    for large in ordered:
        most = CLEARLY_SMALLER * sizes[large.cells[0].model]
        if smaller := [each for each in ordered if sizes[each.cells[0].model] <= most]:
            yield smaller[-1], large


GROUPS = {"type": "array", "minItems": 2, "items": CRITERIA}
MEASURES = (
    Measure(
        gap_left, "share of the gap between criteria that reconstruction leaves", {"groups": GROUPS}
    ),
    Measure(
        gap_growth, "growth of the gap between criteria, in loss", {"groups": GROUPS}, unit="nats"
    ),
    Measure(
        criteria_behind,
        "loss above that of other criteria",
        {"groups": {**GROUPS, "maxItems": 2}},
        unit="nats",
    ),
    Measure(
        gap_left_by_size,
        "share of the gap that reconstruction leaves, larger minus smaller model",
        {"groups": GROUPS, "across_families": {"type": "boolean"}},
    ),
    Measure(
        perplexity_difference,
        "difference in perplexity",
        {
            "criteria": {**CRITERIA, "minItems": 2, "maxItems": 2},
            "dense_at_most": {"type": "number", "exclusiveMinimum": 0},
        },
        unit="perplexity",
        metrics=(PERPLEXITY,),
    ),
)
