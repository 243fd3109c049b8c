"""What a study found, whatever the claims ask: what each adaptation gains, and an answer in words.

Every adaptation is compared with the pruned model that it started from, on the same windows and
with the same seeds, so that the intervals are those of paired differences.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from freelunch.analysis.intervals import Means, Numbers, Sample, Statistic, estimate
from freelunch.analysis.pairing import ENOUGH_SEEDS, Records
from freelunch.audit.evidence import Evidence
from freelunch.audit.measures.measure import BySeed, shared_sample, shared_seeds
from freelunch.audit.measures.recovery import recovered_by
from freelunch.audit.numbers import Number, json_number
from freelunch.reporting.cells import means_over_seeds
from freelunch.reporting.drawing.adaptation_looks import adaptation_labels
from freelunch.reporting.formatting import rounded
from freelunch.reporting.labels import pruning_label
from freelunch.study.cell import NONE, Cell
from freelunch.study.study import Study

# Two adaptations saw as many tokens if the numbers differ by at most this share.
_ALIKE = 0.05
# The answer names at most so many adaptations of the other kind.
_NAMED = 2
# A row of `means_over_seeds`.
Mean = Mapping[str, Any]


@dataclass(frozen=True)
class Level:
    """A perplexity, as a number and as text."""

    value: float | str | None
    text: str

    @classmethod
    def of(cls, mean: Mean) -> "Level":
        """Return the perplexity of a row of `means_over_seeds`."""
        value, error = mean["perplexity"], mean["perplexity_standard_error"]
        return cls(json_number(value), rounded(value, error))


@dataclass(frozen=True, kw_only=True)
class Lowered(Number):
    """The share by which an adaptation lowers a perplexity, from which level and to which one.

    The levels are over the seeds that both have.
    """

    seeds: int
    from_: Level
    to: Level


@dataclass(frozen=True, kw_only=True)
class AdaptationAnswer:
    """What an adaptation of a pruned model reaches.

    Attributes:
        adaptation: Its name.
        seeds, cells: Its cells, and how many there are.
        perplexity: Its perplexity.
        gain: The share by which it lowers the perplexity of the pruned model; None if there is no
            cell without adaptation to compare it with.
        recovered: The share of the loss added by pruning that it recovers; None likewise.
        beside_first: The share by which it lowers the perplexity of the adaptation that the answer
            is about; None if the two are of one kind or saw different amounts of text.
        tokens, flops, peak_bytes: What it cost.
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
        return -len(self.adaptations), _finite(self.unadapted)

    @property
    def rivals(self) -> list[AdaptationAnswer]:
        """Return the adaptations that are compared with the one that the answer is about."""
        return [each for each in self.adaptations if each.beside_first is not None]


def gather_answers(evidence: Evidence) -> list[PrunedModelAnswer]:
    """Return each pruned model with its adaptations, the lowest perplexity first."""
    means = _means(evidence.records)
    levels = {cell: Level.of(mean) for cell, mean in means.items()}
    answers = []
    for by_name in evidence.pruned:
        one = replace(next(iter(next(iter(by_name.values())).values())), seed=0)
        adaptations = []
        for name, of_seeds in by_name.items():
            if name != NONE:
                mean = means[replace(one, adaptation=name)]
                adaptations.append(_adaptation(evidence, by_name, name, of_seeds, mean))
        adaptations = _beside_first(evidence, by_name, adaptations)
        answers.append(
            PrunedModelAnswer(
                one.model,
                one.criterion,
                one.pattern,
                levels.get(Cell.dense(one.model)),
                levels.get(replace(one, adaptation=NONE)),
                sorted(adaptations, key=lambda each: _finite(each.perplexity)),
            )
        )
    return answers


def _means(records: Records) -> dict[Cell, Mean]:
    """Return the means over the seeds of each cell, by the cell with seed 0."""
    means: Sequence[Mean] = means_over_seeds(records)
    return {
        Cell(mean["model"], mean["criterion"], mean["pattern"], mean["adaptation"], seed=0): mean
        for mean in means
    }


def _finite(level: Level | None) -> float:
    """Return a perplexity for sorting: infinity if it is not finite or not there."""
    return level.value if level and isinstance(level.value, float) else math.inf


def _adaptation(
    evidence: Evidence, by_name: BySeed, name: str, of_seeds: Mapping[int, Cell], mean: Mean
) -> AdaptationAnswer:
    sample = shared_sample(evidence, by_name, [NONE, name])
    return AdaptationAnswer(
        adaptation=name,
        seeds=len(of_seeds),
        perplexity=Level.of(mean),
        gain=_lowered(evidence, by_name, sample, NONE, name) if sample else None,
        recovered=_share(recovered_by(name), sample) if sample else None,
        tokens=mean["adaptation_tokens"],
        flops=mean["adaptation_flops"],
        peak_bytes=mean["adaptation_peak_bytes"],
        selected_on=mean["selected_on"],
        cells=[str(cell) for cell in of_seeds.values()],
    )


def _lowered(evidence: Evidence, by_name: BySeed, sample: Sample, one: str, other: str) -> Lowered:
    """Return the share by which an adaptation lowers the perplexity of one, on a sample of both."""

    def statistic(means: Means) -> Numbers:
        # Of draws with few degrees of freedom, some are far away.
        with np.errstate(over="ignore"):
            return np.asarray(-np.expm1(means[other] - means[one]))

    cells = [cell for its in shared_seeds(by_name, [one, other]).values() for cell in its]
    dense = Cell.dense(cells[0].model)
    means = _means({cell: evidence.records[cell] for cell in (dense, *cells)})
    start, end = (
        Level.of(means[replace(cells[0], adaptation=name, seed=0)]) for name in (one, other)
    )
    share = _share(statistic, sample)
    return Lowered(**vars(share), seeds=sample.seeds, from_=start, to=end)


def _share(statistic: Statistic, sample: Sample) -> Number:
    return Number.of(estimate([statistic], [sample]), "share")


def _beside_first(
    evidence: Evidence, by_name: BySeed, adaptations: Sequence[AdaptationAnswer]
) -> list[AdaptationAnswer]:
    """Return the adaptations of a pruned model, compared with the one that the answer is about."""
    if not adaptations:
        return []
    first, compared = _first(evidence.study, adaptations), []
    for each in adaptations:
        names = (first.adaptation, each.adaptation)
        sample = None
        if _is_rival(evidence.study, each, first):
            sample = shared_sample(evidence, by_name, names)
        beside = _lowered(evidence, by_name, sample, *names) if sample else None
        compared.append(replace(each, beside_first=beside))
    return compared


def _is_rival(study: Study, one: AdaptationAnswer, first: AdaptationAnswer) -> bool:
    """Return whether an adaptation is of the other kind and saw as many tokens."""
    retrains, other = (
        study.config.adaptations[each.adaptation].is_retraining for each in (one, first)
    )
    tokens, others = one.tokens or 0, first.tokens or 0
    return retrains != other and others > 0 and abs(tokens - others) <= _ALIKE * others


def _first(study: Study, adaptations: Sequence[AdaptationAnswer]) -> AdaptationAnswer:
    """Return the adaptation that the answer is about."""
    wanted = [*study.comparisons.references, *study.config.adaptations]
    return min(adaptations, key=lambda each: wanted.index(each.adaptation))


def answer_text(study: Study, answers: Sequence[PrunedModelAnswer]) -> str:
    """Return in a sentence what was found for the pruned model that ranks first.

    The sentence is about the reference (or the first adaptation), and the first adaptations of the
    other kind that saw as many tokens. Their order is that of the config: the best of them might be
    the best by chance.
    """
    if not answers:
        return "This study measures dense models only."
    model = min(answers, key=lambda each: each.rank)
    pruning = pruning_label(vars(model)).replace(", ", " (", 1)
    pruned = f"{model.model}, pruned by {pruning})"
    dense = f"(dense model: {model.dense.text})" if model.dense else ""
    if not model.adaptations:
        unadapted = model.unadapted.text if model.unadapted else ""
        return f"The perplexity of {pruned}, is {unadapted} {dense}."
    first = _first(study, model.adaptations)
    order = list(study.config.adaptations)
    rivals = sorted(model.rivals, key=lambda each: order.index(each.adaptation))[:_NAMED]
    text = "; ".join([_effect(study, first, pruned, dense), *_rivals(study, model, rivals)])
    compared = [first.gain or first, *(each.beside_first or each for each in rivals)]
    seeds = min(each.seeds for each in compared)
    if seeds < ENOUGH_SEEDS:
        start = "On this sample and order (one seed)" if seeds == 1 else f"With {seeds} seeds"
        return f"{start}, {text[0].lower()}{text[1:]}."
    return f"{text[0].upper()}{text[1:]}."


def _effect(study: Study, first: AdaptationAnswer, pruned: str, dense: str) -> str:
    kind, rest = _kind_and_rest(study, first)
    name, gain = f"{kind} ({rest})", first.gain
    if gain is None:
        return f"{name} gives {pruned}, a perplexity of {first.perplexity.text} {dense}"
    verb, without, to = _verb(gain), gain.from_.text, gain.to.text
    if verb is None:
        text = f"{name} does not clearly change the perplexity of {pruned}"
        return f"{text}: it is {without} without it and {to} with it {dense}"
    text = f"{name} {verb} the perplexity of {pruned}, from {without} to {to} {dense}"
    if verb == "lowers" and first.recovered and first.recovered.value is not None:
        return f"{text} and so recovers {first.recovered.text} of the loss that pruning adds"
    return text


def _verb(gain: Number) -> str | None:
    """Return what happens to the perplexity; None if the interval of the gain does not tell."""
    if gain.value is None:
        return "changes"
    # Infinity is a word in JSON.
    if gain.low is None or gain.high is None or float(gain.low) <= 0 <= float(gain.high):
        return None
    return "lowers" if float(gain.value) > 0 else "raises"


def _rivals(
    study: Study, model: PrunedModelAnswer, named: Sequence[AdaptationAnswer]
) -> Iterator[str]:
    """Yield what adaptations of the other kind reach on as many tokens, if there are any."""
    if not named:
        return
    told = []
    for each in named:
        beside, (kind, rest) = each.beside_first, _kind_and_rest(study, each)
        assert beside is not None
        verb = _verb(beside)
        compared = "higher" if verb == "raises" else "not clearly different"
        if verb == "lowers":
            share, _, interval = str(beside.text).rstrip(")").partition(" (")
            compared = f"{share} lower, {interval}"
        told.append(f"{beside.to.text} ({rest}; {compared})")
    others = len(model.rivals) - len(named)
    more = f", and {others} more {'is' if others == 1 else 'are'} ranked below" if others else ""
    yield f"on as many tokens, {kind} reaches {' and '.join(told)}{more}"


def _kind_and_rest(study: Study, adaptation: AdaptationAnswer) -> tuple[str, str]:
    """Return the kind of an adaptation (reconstruction or retraining), and which one it is."""
    label = adaptation_labels(study.as_json()["adaptations"])[adaptation.adaptation]
    kind, _, rest = label.partition(": ")
    return kind, rest
