"""What a study found, whatever the claims ask: what each adaptation gains, and an answer in words.

Every adaptation is compared with the pruned model that it started from, on the same windows and
with the same seeds, so that the intervals are those of paired differences.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from freelunch.analysis.doubts import PERPLEXITY, Doubt, unsettled_by
from freelunch.analysis.intervals import Means, Numbers, estimate
from freelunch.analysis.pairing import ENOUGH_SEEDS, Records
from freelunch.audit.evidence import Evidence
from freelunch.audit.layouts import layout
from freelunch.audit.measures.measure import BySeed, shared_sample, shared_seeds
from freelunch.audit.measures.recovery import recovered_by
from freelunch.audit.verdicts import Number, json_number
from freelunch.core.errors import first_of
from freelunch.reporting.cells import MINUS_CONTROL, means_over_seeds
from freelunch.reporting.drawing.adaptation_looks import adaptation_labels
from freelunch.reporting.formatting import rounded
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.study import Study

# Two adaptations saw as many tokens if the numbers differ by at most this share.
_ALIKE = 0.05
# A row of `means_over_seeds`.
Mean = Mapping[str, Any]


@dataclass(frozen=True)
class Level:
    """A perplexity, as a number and as text."""

    value: float | str | None
    text: str

    @property
    def rank(self) -> float:
        """Return what sorts levels: those that are not finite are last."""
        return self.value if isinstance(self.value, float) else math.inf


@dataclass(frozen=True, kw_only=True)
class Lowered(Number):
    """The share by which an adaptation lowers a perplexity, from which level and to which one.

    The levels are over the seeds that both have.
    """

    seeds: int
    from_: Level
    to: Level

    @property
    def verb(self) -> str | None:
        """Return what happens to the perplexity; None if the interval does not tell."""
        if self.value is None:
            return "changes"
        # Infinity is a word in JSON.
        if self.low is None or self.high is None or float(self.low) <= 0 <= float(self.high):
            return None
        return "lowers" if float(self.value) > 0 else "raises"


@dataclass(frozen=True, kw_only=True)
class AdaptationAnswer:
    """What an adaptation of a pruned model reaches.

    Attributes:
        gain: The share by which it lowers the perplexity of the pruned model; None if there is no
            cell without adaptation to compare it with.
        recovered: The share of the loss added by pruning that it recovers; None likewise.
        control: The perplexity of the dense model with the same training, if that was run.
        minus_control: How far its loss lies above that of this control, or of the dense model if
            the training does not learn the text, in nats per token.
        doubts: What makes its perplexity, or what it is compared with, no finding.
        beside_first: The share by which it lowers the perplexity of the adaptation that the answer
            is about; None if the two are of one kind or saw different amounts of text.
        selected_on: The text that its settings were chosen on, if they were.
    """

    adaptation: str
    seeds: int
    perplexity: Level
    gain: Lowered | None
    recovered: Number | None
    tokens: float | None
    flops: float | None
    peak_bytes: float | None
    selected_on: str | None
    cells: list[str]
    beside_first: Lowered | None = None
    control: Level | None = None
    minus_control: float | None = None
    doubts: list[Doubt] = field(default_factory=list)


@dataclass(frozen=True)
class PrunedModelAnswer:
    """A pruned model: its levels without adaptation, and its adaptations, the best first."""

    model: str
    criterion: str
    pattern: str
    dense: Level | None
    unadapted: Level | None
    adaptations: list[AdaptationAnswer]

    @property
    def rank(self) -> tuple[int, float]:
        """Return what sorts pruned models: most adaptations, then the lowest perplexity without.

        The answer is about the first. Were it about any of those with as many adaptations, it might
        be about the worst criterion, which has most to gain.
        """
        return -len(self.adaptations), self.unadapted.rank if self.unadapted else math.inf


def gather_answers(evidence: Evidence) -> list[PrunedModelAnswer]:
    """Return each pruned model with its adaptations, the lowest perplexity first."""
    means, entries = _means(evidence.records), evidence.study.config.adaptations
    answers = []
    for by_name in evidence.pruned:
        one = replace(next(iter(next(iter(by_name.values())).values())), seed=0)
        of = {name: means[replace(one, adaptation=name)] for name in by_name}
        levels = {name: _level(mean) for name, mean in of.items()}
        first = _first(evidence.study, of.keys() - {NONE})
        adaptations = []
        for name in (name for name in by_name if name != NONE):
            tokens, others = (of[each]["adaptation_tokens"] or 0 for each in (name, first))
            is_other = entries[name].is_retraining != entries[first].is_retraining
            is_other &= entries[name].after is None
            of_dense = replace(one, criterion=DENSE, pattern=NONE, adaptation=name)
            is_rival = is_other and others > 0 and abs(tokens - others) <= _ALIKE * others
            adaptations.append(
                AdaptationAnswer(
                    adaptation=name,
                    seeds=len(by_name[name]),
                    perplexity=levels[name],
                    gain=_lowered(evidence, by_name, NONE, name),
                    recovered=_recovered(evidence, by_name, name),
                    tokens=of[name]["adaptation_tokens"],
                    flops=of[name]["adaptation_flops"],
                    peak_bytes=of[name]["adaptation_peak_bytes"],
                    selected_on=of[name]["selected_on"],
                    cells=[str(cell) for cell in by_name[name].values()],
                    beside_first=_lowered(evidence, by_name, first, name) if is_rival else None,
                    control=_level(control) if (control := means.get(of_dense)) else None,
                    minus_control=of[name][MINUS_CONTROL],
                    doubts=unsettled_by(evidence.doubts, by_name[name].values(), PERPLEXITY),
                )
            )
        adaptations.sort(key=lambda each: each.perplexity.rank)
        names, dense = (one.model, one.criterion, one.pattern), means.get(Cell.dense(one.model))
        dense_level = _level(dense) if dense else None
        answers.append(PrunedModelAnswer(*names, dense_level, levels.get(NONE), adaptations))
    return answers


def _means(records: Records) -> dict[Cell, Mean]:
    """Return the means over the seeds of each cell, by the cell with seed 0."""
    return {
        Cell(mean["model"], mean["criterion"], mean["pattern"], mean["adaptation"], seed=0): mean
        for mean in means_over_seeds(records)
    }


def _level(mean: Mean) -> Level:
    value, error = mean["perplexity"], mean["perplexity_standard_error"]
    return Level(json_number(value), rounded(value, error))


def _first(study: Study, names: Iterable[str]) -> str:
    """Return the adaptation that the answer is about; an empty name if there is none."""
    order = [*study.comparisons.references, *study.config.adaptations]
    return min(names, key=order.index, default="")


def rivals_of(study: Study, model: PrunedModelAnswer) -> list[AdaptationAnswer]:
    """Return the adaptations of the other kind than the first, that saw as many tokens, in the
    order of the config: the best of them might be the best by chance.
    """
    order = list(study.config.adaptations)
    rivals = [each for each in model.adaptations if each.beside_first]
    return sorted(rivals, key=lambda each: order.index(each.adaptation))


def _recovered(evidence: Evidence, by_name: BySeed, name: str) -> Number | None:
    sample = shared_sample(evidence, by_name, [NONE, name])
    return Number.of(estimate([recovered_by(name)], [sample]), "share") if sample else None


def _lowered(evidence: Evidence, by_name: BySeed, one: str, other: str) -> Lowered | None:
    """Return the share by which an adaptation lowers the perplexity of one, over the seeds that
    both have; None if there is none.
    """
    sample = shared_sample(evidence, by_name, [one, other])
    if sample is None:
        return None

    def statistic(means: Means) -> Numbers:
        # Of draws with few degrees of freedom, some are far away.
        with np.errstate(over="ignore"):
            return np.asarray(-np.expm1(means[other] - means[one]))

    cells = [cell for its in shared_seeds(by_name, [one, other]).values() for cell in its]
    dense = Cell.dense(cells[0].model)
    means = _means({cell: evidence.records[cell] for cell in (dense, *cells)})
    start, end = (
        _level(means[replace(cells[0], adaptation=name, seed=0)]) for name in (one, other)
    )
    share = Number.of(estimate([statistic], [sample]), "share")
    return Lowered(**vars(share), seeds=sample.seeds, from_=start, to=end)


def answer_text(study: Study, answers: Sequence[PrunedModelAnswer]) -> str:
    """Return in a sentence what was found for the pruned model that ranks first.

    The sentence is about the reference (or the first adaptation), and its first rivals.
    """
    if not answers:
        return "This study measures dense models only."
    model = min(answers, key=lambda each: each.rank)
    by_name = {each.adaptation: each for each in model.adaptations}
    first = by_name.get(_first(study, by_name))
    rivals, labels = rivals_of(study, model), adaptation_labels(study.as_json()["adaptations"])
    text = layout("answer.md").render(model=model, first=first, rivals=rivals, labels=labels)
    text = f"{' '.join(text.split())}."
    flawed = [doubt for each in (first, *rivals[:2]) if each for doubt in each.doubts]
    if texts := [*dict.fromkeys(map(str, flawed))]:
        text = f"No finding ({'; '.join(first_of(texts, 2))}): {text}"
    compared = [first and (first.gain or first), *(each.beside_first for each in rivals[:2])]
    seeds = min((each.seeds for each in compared if each), default=ENOUGH_SEEDS)
    if seeds < ENOUGH_SEEDS:
        start = "Single-seed" if seeds == 1 else f"With {seeds} seeds"
        return f"{start}: {text[0].upper()}{text[1:]}"
    return f"{text[0].upper()}{text[1:]}"
