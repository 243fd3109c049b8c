"""What a study found, whatever the claims ask: what each adaptation gains, and an answer in words.

Every adaptation is compared with the pruned model that it started from, on the same windows and
with the same seeds, so that the intervals are those of paired differences.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from freelunch.analysis.intervals import Means, Numbers, Sample, Statistic, estimate
from freelunch.analysis.pairing import ENOUGH_SEEDS, Records
from freelunch.audit.evidence import Evidence
from freelunch.audit.measures.measure import shared_sample, shared_seeds
from freelunch.audit.measures.recovery import recovered_by
from freelunch.audit.numbers import estimate_json, json_number
from freelunch.reporting.cells import means_over_seeds
from freelunch.reporting.formatting import rounded
from freelunch.reporting.labels import adaptation_labels, pruning_label
from freelunch.study.cell import NONE, Cell
from freelunch.study.study import Study

# Two adaptations saw as many tokens if the numbers differ by at most this share.
_ALIKE = 0.05
# The answer names at most so many adaptations of the other kind.
_NAMED = 2
_AMOUNTS = {
    "tokens": "adaptation_tokens",
    "flops": "adaptation_flops",
    "peak_bytes": "adaptation_peak_bytes",
}
# What was found for a pruned model.
Found = Mapping[str, Any]


def gather_found(evidence: Evidence) -> list[dict[str, Any]]:
    """Return each pruned model with its adaptations, the lowest perplexity first.

    An adaptation has its perplexity, its `gain` (the share by which it lowers the perplexity), the
    share of the loss added by pruning that it has `recovered`, and its cost. The gain and the share
    are None if there is no cell without adaptation to compare it with. `beside_first` is the share
    by which it lowers the perplexity of the adaptation that the answer is about; None if the two
    are of one kind or saw different amounts of text. A share has the perplexities that it compares,
    over the seeds that both have.
    """
    means = _means(evidence.records)

    def level(cell: Cell) -> dict[str, Any] | None:
        return _level(means[cell]) if cell in means else None

    found = []
    for by_name in evidence.pruned:
        one = next(iter(next(iter(by_name.values())).values()))

        def named(name: str, one: Cell = one) -> Cell:
            return replace(one, adaptation=name, seed=0)

        adaptations = [
            {
                "adaptation": name,
                "seeds": len(of_seeds),
                "perplexity": level(named(name)),
                **_compared(evidence, by_name, name),
                **{key: means[named(name)][column] for key, column in _AMOUNTS.items()},
                "selected_on": means[named(name)]["selected_on"],
                "cells": [str(cell) for cell in of_seeds.values()],
            }
            for name, of_seeds in by_name.items()
            if name != NONE
        ]
        _beside_first(evidence, by_name, adaptations)
        found.append(
            {
                **{key: getattr(one, key) for key in ("model", "criterion", "pattern")},
                "dense": level(Cell.dense(one.model)),
                "unadapted": level(named(NONE)),
                "adaptations": sorted(adaptations, key=_order),
            }
        )
    return found


def _means(records: Records) -> dict[Cell, Mapping[str, Any]]:
    """Return the means over the seeds of each cell, by the cell with seed 0."""
    means: Sequence[Mapping[str, Any]] = means_over_seeds(records)
    return {
        Cell(mean["model"], mean["criterion"], mean["pattern"], mean["adaptation"], seed=0): mean
        for mean in means
    }


def _level(mean: Mapping[str, Any]) -> dict[str, Any]:
    """Return a perplexity, as a number and as text."""
    value, error = (mean[f"perplexity{end}"] for end in ("", "_standard_error"))
    return {"value": json_number(value), "text": rounded(value, error)}


def leading(found: Found) -> tuple[int, float]:
    """Return what sorts pruned models: most adaptations first, then the lowest perplexity without.

    The answer is about the first. Were it about any of those with as many adaptations, it might be
    about the worst criterion, which has most to gain.
    """
    value = (found["unadapted"] or {}).get("value")
    return -len(found["adaptations"]), value if isinstance(value, float) else math.inf


def _order(adaptation: Mapping[str, Any]) -> float:
    value = adaptation["perplexity"]["value"]
    return value if isinstance(value, float) else math.inf


def _compared(
    evidence: Evidence, by_name: Mapping[str, Mapping[int, Cell]], name: str
) -> dict[str, Any]:
    """Return what an adaptation gains and recovers, over the seeds that both models have."""
    sample = shared_sample(evidence, by_name, [NONE, name])
    if sample is None:
        return {"gain": None, "recovered": None}
    return {
        "gain": _lowered(evidence, by_name, sample, NONE, name),
        "recovered": _share(recovered_by(name), sample),
    }


def _lowered(
    evidence: Evidence,
    by_name: Mapping[str, Mapping[int, Cell]],
    sample: Sample,
    one: str,
    other: str,
) -> dict[str, Any]:
    """Return the share by which an adaptation lowers the perplexity of one, and the perplexities
    `from` which and `to` which it does, over the seeds that both have, which are the sample's.
    """
    cells = [cell for its in shared_seeds(by_name, [one, other]).values() for cell in its]
    dense = Cell.dense(cells[0].model)
    means = _means({cell: evidence.records[cell] for cell in (dense, *cells)})
    start, end = (_level(means[replace(cells[0], adaptation=it, seed=0)]) for it in (one, other))
    share = _share(_lowered_by(other, one), sample)
    return {**share, "seeds": sample.seeds, "from": start, "to": end}


def _beside_first(
    evidence: Evidence,
    by_name: Mapping[str, Mapping[int, Cell]],
    adaptations: Sequence[dict[str, Any]],
) -> None:
    """Compare each adaptation of a pruned model with the one that the answer is about."""
    first = _first(evidence.study, adaptations) if adaptations else None
    for each in adaptations:
        each["beside_first"] = None
        if first is not None and _is_rival(evidence.study, each, first):
            names = first["adaptation"], each["adaptation"]
            if (sample := shared_sample(evidence, by_name, names)) is not None:
                each["beside_first"] = _lowered(evidence, by_name, sample, *names)


def _is_rival(study: Study, one: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    """Return whether an adaptation is of the other kind and saw as many tokens."""
    retrains, other = (
        study.config.adaptations[each["adaptation"]].is_retraining for each in (one, first)
    )
    tokens, others = one["tokens"] or 0, first["tokens"] or 0
    return retrains != other and others > 0 and abs(tokens - others) <= _ALIKE * others


def _lowered_by(adaptation: str, beside: str) -> Statistic:
    """Return the share by which an adaptation lowers the perplexity of another, as a statistic."""

    def statistic(means: Means) -> Numbers:
        # Of draws with few degrees of freedom, some are far away.
        with np.errstate(over="ignore"):
            return np.asarray(-np.expm1(means[adaptation] - means[beside]))

    return statistic


def _share(statistic: Statistic, sample: Sample) -> dict[str, Any]:
    return estimate_json(estimate([statistic], [sample]), "share")


def answer_text(study: Study, found: Sequence[Found]) -> str:
    """Return in a sentence what was found for the pruned model that leads (`leading`).

    The sentence is about the reference (or the first adaptation), and the first adaptations of the
    other kind that saw as many tokens. Their order is that of the config: the best of them might be
    the best by chance.
    """
    if not found:
        return "This study measures dense models only."
    of = min(found, key=leading)
    pruned = f"{of['model']}, pruned by {pruning_label(of).replace(', ', ' (', 1)})"
    if not of["adaptations"]:
        unadapted = of["unadapted"]["text"]
        return f"The perplexity of {pruned}, is {unadapted} (dense model: {of['dense']['text']})."
    first = _first(study, of["adaptations"])
    text = "; ".join([_effect(study, of, first, pruned), *_rivals(study, of)])
    compared = [first["gain"] or first, *(it["beside_first"] for it in _named_rivals(study, of))]
    seeds = min(each["seeds"] for each in compared)
    if seeds < ENOUGH_SEEDS:
        start = "On this sample and order (one seed)" if seeds == 1 else f"With {seeds} seeds"
        return f"{start}, {text[0].lower()}{text[1:]}."
    return f"{text[0].upper()}{text[1:]}."


def _first(study: Study, adaptations: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the adaptation that the answer is about."""
    wanted = [*study.comparisons.references, *study.config.adaptations]
    return min(adaptations, key=lambda each: wanted.index(each["adaptation"]))


def _effect(study: Study, of: Found, adaptation: Mapping[str, Any], pruned: str) -> str:
    kind, rest = _named(study, adaptation)
    name, gain = f"{kind} ({rest})", adaptation["gain"]
    dense = f"(dense model: {of['dense']['text']})"
    if gain is None:
        return f"{name} gives {pruned}, a perplexity of {adaptation['perplexity']['text']} {dense}"
    verb, without, to = _verb(gain), gain["from"]["text"], gain["to"]["text"]
    if verb is None:
        text = f"{name} does not clearly change the perplexity of {pruned}"
        return f"{text}: it is {without} without it and {to} with it {dense}"
    text = f"{name} {verb} the perplexity of {pruned}, from {without} to {to} {dense}"
    if verb == "lowers" and (share := _recovered(adaptation)):
        return f"{text} and so recovers {share} of the loss that pruning adds"
    return text


def _recovered(adaptation: Mapping[str, Any]) -> str | None:
    """Return the share of the loss that an adaptation recovers."""
    share = adaptation["recovered"]
    known = share is not None and share["value"] is not None
    return str(share["text"]) if known else None


def _verb(gain: Mapping[str, Any]) -> str | None:
    """Return what happens to the perplexity; None if the interval of the gain does not tell."""
    value, low, high = (gain[key] for key in ("value", "low", "high"))
    if value is None:
        return "changes"
    # Infinity is a word in JSON.
    if low is None or float(low) <= 0 <= float(high):
        return None
    return "lowers" if float(value) > 0 else "raises"


def _rivals(study: Study, of: Found) -> Iterator[str]:
    """Yield what adaptations of the other kind reach on as many tokens, if there are any."""
    named = _named_rivals(study, of)
    if named:
        told = " and ".join(_rival(study, each) for each in named)
        others = sum(each["beside_first"] is not None for each in of["adaptations"]) - len(named)
        more = (
            f", and {others} more {'is' if others == 1 else 'are'} ranked below" if others else ""
        )
        kind, _ = _named(study, named[0])
        yield f"on as many tokens, {kind} reaches {told}{more}"


def _named_rivals(study: Study, of: Found) -> list[Mapping[str, Any]]:
    """Return the adaptations of the other kind that the answer names, in the config's order."""
    order = list(study.config.adaptations)
    rivals = [each for each in of["adaptations"] if each["beside_first"]]
    return sorted(rivals, key=lambda each: order.index(each["adaptation"]))[:_NAMED]


def _rival(study: Study, each: Mapping[str, Any]) -> str:
    _, rest = _named(study, each)
    beside, verb = each["beside_first"], _verb(each["beside_first"])
    if verb == "lowers":
        share, _, interval = str(beside["text"]).rstrip(")").partition(" (")
        compared = f"{share} lower, {interval}"
    else:
        compared = "higher" if verb == "raises" else "not clearly different"
    return f"{beside['to']['text']} ({rest}; {compared})"


def _named(study: Study, adaptation: Mapping[str, Any]) -> tuple[str, str]:
    """Return the kind of an adaptation (reconstruction or retraining), and which one it is."""
    label = adaptation_labels(study.as_json()["adaptations"])[adaptation["adaptation"]]
    kind, _, rest = label.partition(": ")
    return kind, rest
