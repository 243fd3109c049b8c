"""What a measure is: numbers for each pruned model, computed from the mean losses of its cells.

A measure finds the cells that it compares and the statistic of their mean losses that a claim asks
for; `analysis.intervals` then computes the number and its interval. Losses are in the metric that
the claim names: nats per token, or the share of wrong answers. The audit's page shows the docstring
of each measure.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from freelunch.analysis.doubts import ACCURACY, PERPLEXITY
from freelunch.analysis.intervals import Numbers, Pick, Sample, Statistic
from freelunch.audit.evidence import METRICS, Evidence
from freelunch.audit.verdicts import UNBOUNDED, UNDEFINED
from freelunch.reporting.formatting import NOT_FINITE
from freelunch.study.cell import DENSE, NONE, Cell


@dataclass(frozen=True)
class Measurement:
    """A number that a measure asks for, not yet computed.

    Attributes:
        subject: What the number describes.
        statistics: Compute numbers from mean losses, by the names in the samples; one of them
            counts.
        samples: One sample for each model.
        cells: The cells that the number comes from.
        about: What tells the number from others of the same subject.
        pick: The number of several statistics that counts, as `estimate` takes it.
        bounds: The range within which the number is known. A number at or below the first bound is
            "at most" that bound; one beyond the second bound is "more than" that, and at most the
            number itself.
        without: What to show if there is no number.
        undefined: The reason to give if there is no number, or too many draws have none.
        instead: What counts if this leaves a part undecided and that does not.
    """

    subject: str
    statistics: Sequence[Statistic]
    samples: Sequence[Sample]
    cells: Sequence[Cell]
    about: str = ""
    pick: Pick = min
    bounds: tuple[float, float] = UNBOUNDED
    without: str = NOT_FINITE
    undefined: str = UNDEFINED
    instead: "Measurement | None" = None

    @property
    def full_subject(self) -> str:
        """Return the subject with what tells the number from others."""
        return f"{self.subject}: {self.about}" if self.about else self.subject


@dataclass(frozen=True)
class Absent:
    """A number that cannot be measured, and why.

    Attributes:
        subject: What the number would describe.
        reason: Why it cannot be measured.
        too_small: Whether the reason is that the study's models are smaller or weaker than those
            that the claim is about.
        left_out: Whether it does not count: this model cannot or need not have the number, and
            others have it.
    """

    subject: str
    reason: str
    too_small: bool = False
    left_out: bool = False


Settings = Mapping[str, Any]
Asked = Iterator[Measurement | Absent]
# By name, one cell for each seed.
Cells = Mapping[str, Sequence[Cell]]
# The cells of a pruned model by adaptation, and then by seed.
BySeed = Mapping[str, Mapping[int, Cell]]


@dataclass(frozen=True)
class Measure:
    """A measure that claims can name.

    Attributes:
        ask: Yields what it measures; its name is that of the measure.
        quantity: What its numbers are, in a few words, for the axis of a figure.
        settings: JSON Schemas of its settings in a claim, all of which are required.
        unit: How its numbers are written: share, times, perplexity or nats.
        unit_of_accuracy: The same for the metric accuracy, if it differs.
        metrics: The metrics whose losses it can compare; none for a measure of memory.
        agree: Whether its numbers describe one thing in several ways, such as with several
            references, so that only a verdict on which all agree counts.
        repeated_by: The rule that measures its cells again, if it is not the metric's.
    """

    ask: Callable[[Evidence, Settings], Asked]
    quantity: str
    settings: Mapping[str, Settings] = field(default_factory=dict)
    unit: str = "share"
    unit_of_accuracy: str | None = None
    metrics: Sequence[str] = METRICS
    agree: bool = False
    repeated_by: str | None = None

    @property
    def name(self) -> str:
        """Return its name in a claim."""
        return self.ask.__name__

    @property
    def description(self) -> str:
        """Return what it measures, for readers of the audit."""
        return " ".join((self.ask.__doc__ or "").split())

    def unit_for(self, metric: str | None) -> str:
        """Return how its numbers are written for a metric."""
        return self.unit_of_accuracy or self.unit if metric == ACCURACY else self.unit


def ask(
    evidence: Evidence,
    settings: Settings,
    subject: str,
    statistics: Sequence[Statistic],
    cells: Cells,
    **more: Any,
) -> Measurement | Absent:
    """Return the measurement of the cells of one model; `more` are attributes of it."""
    if not all(cells.values()):
        return Absent(subject, f"no seed has all of {', '.join(cells)}")
    sample = evidence.sample(cells, settings["metric"])
    if sample is None:
        return Absent(subject, f"some of these cells have no {settings['metric']}")
    used = dict.fromkeys(cell for of_seeds in cells.values() for cell in of_seeds)
    return Measurement(subject, statistics, [sample], list(used), **more)


def shared_seeds(by_name: BySeed, names: Sequence[str]) -> Cells:
    """Return the cells of some adaptations for all seeds that these have in common.

    Other adaptations do not count: one that was run with fewer seeds takes none from the others.
    """
    seeds = sorted(set.intersection(*(set(by_name[name]) for name in names)))
    return {name: [by_name[name][seed] for seed in seeds] for name in names}


def shared_sample(evidence: Evidence, by_name: BySeed, names: Sequence[str]) -> Sample | None:
    """Return the losses of some adaptations and of the dense model, for all seeds that the
    adaptations have in common; None if there is none.
    """
    cells = shared_seeds(by_name, names) if set(names) <= by_name.keys() else {}
    if not all(cells.get(name) for name in names):
        return None
    dense = [Cell.dense(cell.model) for cell in cells[names[0]]]
    sample = evidence.sample({**cells, DENSE: dense}, PERPLEXITY)
    # Every cell has a perplexity.
    assert sample is not None
    return sample


def lost_beside(name: str, other: str) -> Statistic:
    """Return how much less an adaptation gains than another, as a share of the other's gain."""
    return lambda means: divided(means[name] - means[other], means[NONE] - means[other])


def divided(value: Numbers, by: Numbers) -> Numbers:
    """Return a quotient; NaN where there is nothing to divide by."""
    return np.divide(value, by, out=np.full_like(by, np.nan), where=by > 0)
