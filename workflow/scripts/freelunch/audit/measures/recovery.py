"""Measures of what the reconstruction recovers, of all models, of large ones, of several families;
and the cells of each criterion that was reconstructed.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

from freelunch.analysis.intervals import Means, Numbers, Statistic
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
from freelunch.study.cell import DENSE, NONE, Cell, pruned_model

RECOVERED = "recovered share of the loss that pruning adds"
# The JSON Schema of a setting that several measures have.
CRITERIA = {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "string"}}
# A model, a pattern and a reconstruction.
Place = tuple[str, str, str]


def recovered_by(adaptation: str) -> Statistic:
    """Return the share of the loss added by pruning that an adaptation recovers, as a statistic."""

    def statistic(means: Means) -> Numbers:
        return divided(means[NONE] - means[adaptation], means[NONE] - means[DENSE])

    return statistic


def recovery(evidence: Evidence, settings: Settings) -> Asked:
    """The share of the loss added by pruning that the reconstruction recovers, for each budget with
    which several criteria were run, in models with at least `parameters` parameters, which have to
    be of at least as many `families`. All `criteria` have to be there, and no others count.
    """
    least, sizes, wanted = settings["parameters"], evidence.parameters, settings["criteria"]
    large = evidence.only(lambda cell: sizes.get(cell.model, least) >= least)
    asked = list(by_criterion(large, settings["metric"], wanted))
    # The family of a model whose entry does not say it may be that of another.
    families = sorted({evidence.family(model) for (model, *_), _ in asked} - {""}) or ["unknown"]
    if not asked:
        largest = max(sizes.values(), default=0)
        reason = "no reconstruction of them is there to compare"
        if largest < least:
            reason = f"the largest model of this study has {largest:,}"
        if least:
            subject = f"models of {least:,} parameters or more"
            yield Absent(subject, reason, too_small=largest < least)
    elif len(families) < settings["families"]:
        reason = f"models of one family: {', '.join(families)}"
        yield Absent("models of several families", reason, too_small=True)
    else:
        for (*_, name), criteria in asked:
            if isinstance(criteria, Absent):
                yield criteria
                continue
            for cells in (criteria[criterion] for criterion in wanted):
                subject = f"{pruned_model(cells[NONE][0])}, {name}"
                yield ask(evidence, settings, subject, [recovered_by(name)], cells)


def gain(evidence: Evidence, settings: Settings) -> Asked:
    """How much the reconstruction lowers the loss, in nats per token or as a share of answers, for
    each budget that was measured. Pruned models that were not measured count as untested.
    """

    def of(name: str, cells: Cells) -> Measurement | Absent:
        pair = {each: cells[each] for each in (NONE, name)}
        subject = f"{pruned_model(cells[NONE][0])}, {name}"
        return ask(evidence, settings, subject, [lambda means: means[NONE] - means[name]], pair)

    asked = [of(name, cells) for cells, name in reconstructed(evidence, settings["metric"])]
    measured = [each for each in asked if isinstance(each, Measurement)]
    yield from measured
    # Slow metrics are measured on few cells; the others share one line.
    if absent := [each for each in asked if isinstance(each, Absent)]:
        count = f"{len(absent)} pruned model{'s' if len(absent) > 1 else ''}"
        yield Absent(f"{count} {'more' if measured else ''}".strip(), absent[0].reason)


def reconstructed(evidence: Evidence, metric: str) -> Iterator[tuple[Cells, str]]:
    """Yield the dense, pruned and reconstructed cells of each pruned model, and the reconstruction.

    The reconstruction is the first of the references, and each of its other budgets that was
    measured. The cells are those of the seeds that were measured, or of all seeds where none was.
    """
    comparisons = evidence.study.comparisons
    for by_name in evidence.pruned:
        first = next((name for name in evidence.references if name in by_name), None)
        for name in comparisons.budgets_of(first, by_name) if first else ():
            pairs = {
                seed: [by_name[each][seed] for each in (NONE, name)]
                for seed in sorted(by_name.get(NONE, {}).keys() & by_name[name])
            }
            measured = [
                seed
                for seed, pair in pairs.items()
                if all(evidence.losses(cell, metric) is not None for cell in pair)
            ]
            if seeds := measured or (list(pairs) if name == first else []):
                unadapted, adapted = zip(*(pairs[seed] for seed in seeds), strict=True)
                # The dense model has one cell, which stands beside every seed.
                dense = [Cell.dense(unadapted[0].model)] * len(seeds)
                yield {NONE: unadapted, name: adapted, DENSE: dense}, name


def by_criterion(
    evidence: Evidence, metric: str, wanted: Sequence[str], beside: bool = False
) -> Iterator[tuple[Place, dict[str, Cells] | Absent]]:
    """Yield the cells of each criterion for each model, pattern and reconstruction; or which of the
    wanted criteria are missing there.

    A model and pattern count if there is any of the wanted criteria. There is each budget with
    which several criteria were run, or all that are wanted; if there is none, the reference. The
    wanted criteria may be compared with each other (`beside`): where there are several, and with
    the seeds that they share.
    """
    found: dict[tuple[str, str], dict[str, dict[str, Cells]]] = {}
    for cells, name in reconstructed(evidence, metric):
        one = cells[NONE][0]
        of_place = found.setdefault((one.model, one.pattern), {})
        of_place.setdefault(name, {})[one.criterion] = cells
    for (model, pattern), by_name in found.items():
        if not {*wanted} & {*chain(*by_name.values())}:
            continue
        asked = [
            name
            for name, criteria in by_name.items()
            if len(criteria) > 1 or criteria.keys() >= {*wanted}
        ]
        for name in asked or [min(by_name, key=evidence.references.index)]:
            criteria, place = by_name[name], (model, pattern, name)
            if beside and len(criteria) < 2:
                continue
            if missing := [each for each in wanted if each not in criteria]:
                yield place, Absent(", ".join(place), f"there are no cells of {', '.join(missing)}")
                continue
            if not beside:
                yield place, criteria
                continue
            of_all = [{cell.seed for cell in criteria[each][name]} for each in wanted]
            shared: dict[str, Cells] = {
                each: {
                    key: [cell for cell in of_seeds if cell.seed in set.intersection(*of_all)]
                    for key, of_seeds in criteria[each].items()
                    if key != DENSE
                }
                for each in wanted
            }
            if set.intersection(*of_all):
                yield place, shared
            else:
                yield place, Absent(", ".join(place), f"no seed has all of {', '.join(wanted)}")


COUNT = {"type": "integer", "minimum": 0}
MEASURES = (
    Measure(recovery, RECOVERED, {"parameters": COUNT, "families": COUNT, "criteria": CRITERIA}),
    Measure(gain, "gain of reconstruction", unit="nats", unit_of_accuracy="points"),
)
