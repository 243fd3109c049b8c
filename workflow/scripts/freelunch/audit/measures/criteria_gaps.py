"""Measures of how far apart criteria are with the reconstruction."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, combinations
from typing import Any

import numpy as np

from freelunch.analysis.intervals import (
    SIGNED_DIFFERENCES,
    Combination,
    Means,
    Numbers,
    size_difference,
)
from freelunch.audit.evidence import PERPLEXITY, Evidence
from freelunch.audit.measures.measure import (
    CRITERIA,
    Absent,
    Asked,
    Cells,
    Measure,
    Measurement,
    Place,
    Settings,
    absent_criteria,
    ask,
    by_criterion,
    divided,
)
from freelunch.reporting.labels import criterion_label
from freelunch.study.cell import NONE, Cell

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
    for place, criteria in _grouped(evidence, settings):
        yield from _gaps(evidence, settings, criteria, place, [divided], undefined=NO_GAP)


def gap_growth(evidence: Evidence, settings: Settings) -> Asked:
    """How much larger the gap in loss between every two `groups` of criteria is with the
    reconstruction than without it, whichever of the two is worse, for each budget with which
    several criteria were run; below 0, it shrinks. Unlike a share of the gap, this is a number also
    where there was hardly a gap. All criteria have to be there, and no others count.
    """
    for place, criteria in _grouped(evidence, settings):
        yield from _gaps(
            evidence, settings, criteria, place, SIGNED_DIFFERENCES, pick=size_difference
        )


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
    for place, criteria in _grouped(evidence, settings):
        model, pattern, name = place
        family = "" if settings["across_families"] else _family(evidence, model)
        gaps = _gaps(evidence, settings, criteria, place, [divided], undefined=NO_GAP)
        # Pairs of groups come in one order, whichever of the two is worse in a model.
        for pair, found in enumerate(gaps):
            if model in sizes:
                models.setdefault((pattern, name), set()).add(model)
                if isinstance(found, Absent):
                    absent.setdefault((pattern, name), []).append(found)
                else:
                    by_gap.setdefault((pattern, name, pair, family), []).append(found)
    several = {gap: pairs for gap, each in by_gap.items() if (pairs := _by_size(each, sizes))}
    # What one of several models lacks at a budget is not forgotten.
    missing = [it for of, its in absent.items() if len(models[of]) > 1 for it in its]
    yield from missing
    if not several and not missing:
        yield Absent(
            "models of different sizes",
            "these criteria are not compared on models of several sizes and one architecture",
        )
    for (pattern, *_), pairs in several.items():
        for small, large in pairs:

            def statistic(
                means: Means,
                combine: Combination,
                small: Measurement = small,
                large: Measurement = large,
            ) -> Numbers:
                return combine(large.statistics[0](means), small.statistics[0](means))

            yield Measurement(
                f"{pattern}: {large.subject} minus {small.subject}",
                [partial(statistic, combine=combine) for combine in SIGNED_DIFFERENCES],
                [*small.samples, *large.samples],
                [*small.cells, *large.cells],
                about=small.about,
                pick=size_difference,
            )


def _by_size(
    measured: Sequence[Measurement], sizes: Mapping[str, int]
) -> list[tuple[Measurement, Measurement]]:
    """Return each measurement of a model that has a clearly smaller one, behind that of the largest
    such model.
    """
    ordered = sorted(measured, key=lambda each: sizes[each.cells[0].model])
    pairs = []
    for large in ordered:
        most = CLEARLY_SMALLER * sizes[large.cells[0].model]
        smaller = [each for each in ordered if sizes[each.cells[0].model] <= most]
        pairs += [(smaller[-1], large)] if smaller else []
    return pairs


def _family(evidence: Evidence, model: str) -> str:
    """Return the family of a model as its entry says it; empty if it does not."""
    architecture = evidence.study.model(model).architecture
    return "" if architecture is None else architecture.model_type or ""


def perplexity_difference(evidence: Evidence, settings: Settings) -> Asked:
    """The perplexity of the first of two `criteria` minus that of the second with the
    reconstruction, for each budget with which several criteria were run, in models whose dense
    perplexity is at most `dense_at_most`: differences do not carry over to other levels. Both have
    to be there.
    """
    one, other = settings["criteria"]
    asked: list[Measurement | Absent] = []
    for place, criteria in _of_shared_seeds(evidence, settings["metric"], settings["criteria"]):
        if absent := absent_criteria(place, criteria, [one, other]):
            asked.append(absent)
            continue
        model, _, name = place
        cells = {criterion: criteria[criterion][name] for criterion in (one, other)}
        subject = f"{', '.join(place)}: {one} minus {other}"
        dense, most = evidence.dense_perplexity(model), settings["dense_at_most"]
        if dense is None or dense > most:
            found = "not known" if dense is None else f"{dense:.1f}"
            reason = f"the dense perplexity is {found}, not at most {most}"
            asked.append(Absent(subject, reason, too_small=True))
            continue

        def statistic(means: Means) -> Numbers:
            return np.exp(means[one]) - np.exp(means[other])

        asked.append(ask(evidence, settings, subject, [statistic], cells))
    # Models that the claim is not about count only where there are no others.
    about = [it for it in asked if not (isinstance(it, Absent) and it.too_small)]
    yield from about or asked


def _gaps(
    evidence: Evidence,
    settings: Settings,
    criteria: Mapping[str, Cells],
    place: Place,
    compared_by: Sequence[Combination],
    **more: Any,
) -> Asked:
    """Yield a comparison of the gap between every two groups of criteria with and without the
    reconstruction; `compared_by` take the two in this order, and `more` are attributes of it.
    """
    model, _, name = place
    if absent := absent_criteria(place, criteria, _all(settings)):
        yield absent
        return

    def key(criterion: str, adaptation: str) -> str:
        # Names of one model have to differ from those of another.
        return f"{model} {criterion} {adaptation}"

    def gap(means: Means, pair: Sequence[Group], adaptation: str) -> Numbers:
        levels = [np.mean([means[key(it, adaptation)] for it in of], axis=0) for of in pair]
        return np.asarray(levels[0] - levels[1])

    for pair in combinations(settings["groups"], 2):
        cells = {
            key(it, adaptation): criteria[it][adaptation]
            for group in pair
            for it in group
            for adaptation in (NONE, name)
        }
        sample = evidence.sample(cells, settings["metric"])
        # The group that is worse without the reconstruction comes first.
        ordered = pair[::-1] if sample and gap(sample.means(), pair, NONE) < 0 else pair

        def statistic(
            means: Means, combine: Combination, pair: Sequence[Group] = ordered
        ) -> Numbers:
            return combine(gap(means, pair, name), gap(means, pair, NONE))

        yield ask(
            evidence,
            settings,
            ", ".join(place),
            [partial(statistic, combine=combine) for combine in compared_by],
            cells,
            about=" vs. ".join(map(_group_label, ordered)),
            **more,
        )


def _group_label(group: Group) -> str:
    return "/".join(map(criterion_label, group))


def _all(settings: Settings) -> list[str]:
    """Return the criteria of all groups."""
    return [*chain(*settings["groups"])]


def _grouped(evidence: Evidence, settings: Settings) -> Iterator[tuple[Place, dict[str, Cells]]]:
    """Yield what `_of_shared_seeds` yields for the criteria of all groups."""
    return _of_shared_seeds(evidence, settings["metric"], _all(settings))


def _of_shared_seeds(
    evidence: Evidence, metric: str, wanted: Sequence[str]
) -> Iterator[tuple[Place, dict[str, Cells]]]:
    """Yield what `by_criterion` yields where there are several criteria, with the cells of the
    seeds that all wanted criteria share; without any cell if they share none.
    """
    for place, criteria in by_criterion(evidence, metric, wanted):
        if len(criteria) < 2:
            continue
        *_, name = place
        there = {it: cells for it, cells in criteria.items() if it in wanted} or criteria
        seeds = set.intersection(*({it.seed for it in of[name]} for of in there.values()))

        def kept(of_seeds: Sequence[Cell], seeds: set[int] = seeds) -> list[Cell]:
            return [cell for cell in of_seeds if cell.seed in seeds]

        yield place, {it: {key: kept(of[key]) for key in (NONE, name)} for it, of in there.items()}


GROUPS = {"type": "array", "minItems": 2, "items": CRITERIA}
MEASURES = (
    Measure(
        gap_left, "share of the gap between criteria that reconstruction leaves", {"groups": GROUPS}
    ),
    Measure(
        gap_growth, "growth of the gap between criteria, in loss", {"groups": GROUPS}, unit="nats"
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
