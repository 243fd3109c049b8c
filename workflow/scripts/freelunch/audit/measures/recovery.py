"""Measures of how much of the loss that pruning adds the reconstruction recovers."""

from freelunch.analysis.intervals import Means, Numbers, Statistic
from freelunch.audit.evidence import Evidence
from freelunch.audit.measures.measure import (
    CRITERIA,
    Absent,
    Asked,
    Measure,
    Measurement,
    Settings,
    absent_criteria,
    ask,
    by_criterion,
    divided,
    only,
    reconstructed,
)
from freelunch.study.cell import DENSE, NONE, pruned_model

RECOVERED = "recovered share of the loss that pruning adds"


def recovered_by(adaptation: str) -> Statistic:
    """Return the share of the loss added by pruning that an adaptation recovers, as a statistic."""

    def statistic(means: Means) -> Numbers:
        return divided(means[NONE] - means[adaptation], means[NONE] - means[DENSE])

    return statistic


def recovery(evidence: Evidence, settings: Settings) -> Asked:
    """The share of the loss added by pruning that the reconstruction recovers, for each budget with
    which several criteria were run. All `criteria` have to be there, and no others count.
    """
    wanted = settings["criteria"]
    for place, criteria in by_criterion(evidence, settings["metric"], wanted):
        if absent := absent_criteria(place, criteria, wanted):
            yield absent
            continue
        *_, name = place
        for criterion in wanted:
            cells = criteria[criterion]
            subject = f"{pruned_model(cells[NONE][0])}, {name}"
            yield ask(evidence, settings, subject, [recovered_by(name)], cells)


def gain(evidence: Evidence, settings: Settings) -> Asked:
    """How much the reconstruction lowers the loss, in nats per token or as a share of answers, for
    each budget that was measured. Pruned models that were not measured count as untested.
    """
    asked = []
    for cells, name in reconstructed(evidence, settings["metric"]):

        def statistic(means: Means, name: str = name) -> Numbers:
            return means[NONE] - means[name]

        subject = f"{pruned_model(cells[NONE][0])}, {name}"
        asked.append(ask(evidence, settings, subject, [statistic], only(cells, [NONE, name])))
    measured = [each for each in asked if isinstance(each, Measurement)]
    yield from measured
    # Slow metrics are measured on few cells; the others share one line.
    if absent := [each for each in asked if isinstance(each, Absent)]:
        count = f"{len(absent)} pruned model{'s' if len(absent) > 1 else ''}"
        yield Absent(f"{count} {'more' if measured else ''}".strip(), absent[0].reason)


def recovery_at_size(evidence: Evidence, settings: Settings) -> Asked:
    """The share of the loss added by pruning that the reconstruction recovers, in models with at
    least `parameters` parameters, for each budget with which several criteria were run. All
    `criteria` have to be there, and no others count.
    """
    sizes = evidence.parameters
    large = evidence.only(lambda cell: sizes.get(cell.model, 0) >= settings["parameters"])
    asked = list(recovery(large, settings))
    largest = max(sizes.values(), default=0)
    if not asked:
        too_small = largest < settings["parameters"]
        yield Absent(
            f"models of {settings['parameters']:,} parameters or more",
            f"the largest model of this study has {largest:,}"
            if too_small
            else "no reconstruction of them is there to compare",
            too_small=too_small,
        )
    yield from asked


MEASURES = (
    Measure(recovery, RECOVERED, {"criteria": CRITERIA}),
    Measure(gain, "gain of reconstruction", unit="nats", unit_of_accuracy="points"),
    Measure(
        recovery_at_size,
        RECOVERED,
        {
            "parameters": {"type": "integer", "minimum": 1},
            "criteria": CRITERIA,
        },
    ),
)
