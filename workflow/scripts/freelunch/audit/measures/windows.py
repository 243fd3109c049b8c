"""Measures of the effect of the window size.

A measure compares one window with several others. Another window that is too large for a model's
memory is left out for this model. It counts as too large if `window: auto`, with the settings of
the others, took a smaller one, and if the study has none as large for this model, finished or not,
on any masks and with any settings; another model has to have it with as many sequences. A window
that no model has is missing, and so is the one that is compared, whatever memory it needs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from freelunch.analysis.intervals import Sample, Statistic
from freelunch.audit.evidence import Evidence
from freelunch.audit.measures.measure import (
    WINDOW,
    WINDOWS,
    Absent,
    Asked,
    BySeed,
    Measure,
    Measurement,
    Settings,
    ask,
    divided,
    shared_seeds,
)
from freelunch.reporting.labels import window_label
from freelunch.study.adaptations import Adaptation, LeastSquares, Reconstruction, Training
from freelunch.study.cell import NONE, pruned_model
from freelunch.study.comparisons import is_usual_window
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.windows import AUTO, HALVES, MATRIX, window_size

# Runs that a comparison of peak memory needs.
RUNS = 3
MISSED = "gain missed, as a share of the other window's gain"


def window_difference(evidence: Evidence, settings: Settings) -> Asked:
    """How much less each of some `windows` gains than the window `beside`, as a share of what that
    gains, for each amount of text with which several windows were run; below 0, it gains more. All
    of them that fit into memory have to be there, and no others count.
    """
    beside = _Kind(settings["beside"])
    for found in _with(evidence, [beside], _trained(settings["windows"])):
        if isinstance(found, Absent):
            yield found
            continue
        for kind in found.compared:
            yield ask(
                evidence,
                settings,
                f"{found.model}, windows",
                [_missed(found.names[kind], found.names[beside])],
                shared_seeds(found.cells, [NONE, found.names[kind], found.names[beside]]),
                about=found.about(f"{window_label(kind.window)} vs. {window_label(beside.window)}"),
            )


def gain_difference(evidence: Evidence, settings: Settings) -> Asked:
    """How much less each of some `adaptations` gains than the adaptation `beside`, as a share of
    what that gains; below 0, it gains more. All of them have to be there for each pruned model that
    has the adaptation `beside`, and no others count.
    """
    beside, others = settings["beside"], settings["adaptations"]
    for by_name in evidence.pruned:
        if beside not in by_name:
            continue
        place = pruned_model(next(iter(by_name[beside].values())))
        if absent := [name for name in (NONE, *others) if name not in by_name]:
            yield Absent(place, f"adaptations that are not there: {', '.join(absent)}")
            continue
        for name in others:
            yield ask(
                evidence,
                settings,
                place,
                [_missed(name, beside)],
                shared_seeds(by_name, [NONE, name, beside]),
                about=f"{name} vs. {beside}",
            )


def matrix_penalty(evidence: Evidence, settings: Settings) -> Asked:
    """How much less the window of a single matrix gains than each of some `windows`, as a share of
    what that gains, for each amount of text with which several windows were run. The matrix is
    solved exactly if `exact`, and trained otherwise. All of the windows that fit into memory have
    to be there, and no others count.
    """
    matrix = _Kind(MATRIX, settings["exact"])
    for found in _with(evidence, [matrix], _trained(settings["windows"])):
        if isinstance(found, Absent):
            yield found
            continue
        name = found.names[matrix]
        for kind in found.compared:
            yield ask(
                evidence,
                settings,
                f"{found.model}, {name}",
                [_missed(name, found.names[kind])],
                shared_seeds(found.cells, [NONE, name, found.names[kind]]),
                about=found.about(f"{window_label(MATRIX)} vs. {window_label(kind.window)}"),
            )


def halves_missed(evidence: Evidence, settings: Settings) -> Asked:
    """How much less the window of half a block gains than each of some `windows`, as a share of
    what that gains, for each amount of text with which several windows were run; the largest share
    counts. Below 0, half a block gains more than all of them. Those that fit into memory have to be
    there; no others count.
    """
    for found in _with(evidence, [_HALVES], _trained(settings["windows"])):
        if isinstance(found, Absent):
            yield found
            continue
        half, *others = (found.names[kind] for kind in (_HALVES, *found.compared))
        yield ask(
            evidence,
            settings,
            f"{found.model}, {half}",
            [_missed(half, other) for other in others],
            shared_seeds(found.cells, [NONE, half, *others]),
            about=found.about(),
            pick=max,
        )


def halves_memory(evidence: Evidence, settings: Settings) -> Asked:
    """The peak memory of the job that adapts halves of a block, divided by the smallest peak of
    some `windows`, for each amount of text that several of them were adapted on. Those that fit
    into memory have to be there. Both are net of what the job's own process held when its work
    began, which is mostly libraries. The interval is over runs with different seeds, of which three
    are needed.
    """
    for found in _with(evidence, [_HALVES], _trained(settings["windows"])):
        if isinstance(found, Absent):
            yield found
            continue
        names = [found.names[kind] for kind in (_HALVES, *found.compared)]
        cells = shared_seeds(found.cells, names)
        used = [cell for name in names for cell in cells[name]]
        if len(used) < RUNS * len(names):
            seeds = len(used) // len(names)
            reason = f"peak memory was measured with {seeds} of {RUNS} seeds"
            yield Absent(found.about(found.model), reason)
            continue
        half, *others = names
        peaks = [[evidence.work_peak(cell) for cell in cells[name]] for name in names]
        if any(peak is None for each in peaks for peak in each):
            yield Absent(
                found.about(found.model), "some records lack the peak memory of a job's own work"
            )
            continue

        # What varies from run to run is the unit of the interval.
        runs = Sample(names, [np.array(peaks, dtype=float)[:, None]])
        # Beside the smallest, the ratio is largest.
        ratios = [_ratio(half, other) for other in others]
        yield Measurement(f"{found.model}, {half}", ratios, [runs], used, found.about(), max)


def _ratio(name: str, other: str) -> Statistic:
    return lambda means: divided(means[name], means[other])


def _missed(name: str, other: str) -> Statistic:
    """Return how much less an adaptation gains than another, as a share of the other's gain."""
    return lambda means: divided(means[name] - means[other], means[NONE] - means[other])


@dataclass(frozen=True)
class _Kind:
    """A window, and whether it was solved exactly rather than trained."""

    window: int | str
    exact: bool = False

    def __str__(self) -> str:
        return f"{self.window} (solved exactly)" if self.exact else str(self.window)


_HALVES = _Kind(HALVES)


@dataclass(frozen=True)
class _Windows:
    """The usual windows of a pruned model that see the same amount of text.

    Attributes:
        model: The pruned model.
        amount: The amount of text in words, if the model has several.
        cells: All cells of the pruned model.
        names: The adaptations by their windows.
        unlike: Windows that were adapted with other settings than these, such as another loss.
        sequences: The number of sequences that they see.
        limit: Blocks of the largest window that this model is known to fit; infinite without a
            `window: auto` to tell.
        compared: Windows that are compared here.
    """

    model: str
    amount: str
    cells: BySeed
    names: Mapping[_Kind, str]
    unlike: set[_Kind]
    sequences: int
    limit: float
    compared: Sequence[_Kind] = ()

    def about(self, *words: str) -> str:
        """Return what a number is about, with the amount of text."""
        return ", ".join(filter(None, [*words, self.amount]))


def _trained(windows: Sequence[int | str]) -> list[_Kind]:
    return [_Kind(window) for window in windows]


def _with(
    evidence: Evidence, wanted: Sequence[_Kind], beside: Sequence[_Kind]
) -> Iterator[_Windows | Absent]:
    """Yield the windows of each pruned model, or which ones are missing, for each amount of text
    with which several windows were run.

    Args:
        evidence: The study.
        wanted: Windows that have to be there.
        beside: Windows that they are compared with, all of which have to be there, too, except for
            those that do not fit.
    """
    # What is solved exactly has the calibration sample and no other.
    only = evidence.study.calibration.samples if any(kind.exact for kind in wanted) else None
    models = [
        (next(iter(by_name[NONE].values())).model, found)
        for by_name in evidence.pruned
        for found in _by_amount(evidence, by_name)
        if only in (None, found.sequences)
    ]
    for model, found in models:
        elsewhere = {
            kind
            for other, its in models
            if other != model and its.sequences == found.sequences
            for kind in its.names
        }
        too_large = {
            kind
            for kind in elsewhere.difference(found.names)
            if window_size(kind.window) > found.limit
        }
        compared = [kind for kind in beside if kind not in too_large]
        missing = [kind for kind in (*wanted, *compared) if kind not in found.names]
        if missing:
            alike = "" if found.unlike.isdisjoint(missing) else " with the settings of the others"
            names = ", ".join(map(str, missing))
            reason = f"windows that were not run{alike}: {names}"
            # Whether matrices are solved exactly is a choice of the study's for each model.
            exact = {kind for kind in wanted if kind.exact}
            left_out = {*missing} <= exact & elsewhere and not any(
                isinstance(it, LeastSquares) for it in _adaptations(evidence, model)
            )
            yield Absent(found.about(found.model), reason, left_out=left_out)
            continue
        if out := [kind for kind in beside if kind in too_large]:
            reason = f"windows that do not fit into memory: {', '.join(map(str, out))}"
            yield Absent(found.about(found.model), reason, left_out=True)
        if compared:
            yield replace(found, compared=compared)


def _by_amount(evidence: Evidence, by_name: BySeed) -> list[_Windows]:
    """Return the windows of a pruned model for each number of sequences with which there are
    several windows, in its order. Whether they share a seed is not asked here.
    """
    study = evidence.study
    amounts: dict[int, dict[_Kind, str]] = {}
    unlike: dict[int, set[_Kind]] = {}
    autos: set[int] = set()
    usual = {
        name: settings
        for name, settings in study.config.adaptations.items()
        if NONE in by_name and name in by_name and is_usual_window(settings)
    }
    favoured = {*study.comparisons.selected_on_evaluation}
    # If all that train were chosen on the evaluation text, they are compared. The reason says so.
    if {name for name, settings in usual.items() if isinstance(settings, Training)} <= favoured:
        favoured = set()
    for name, settings in usual.items():
        if name not in favoured:
            one, sequences = next(iter(by_name[name].values())), study.comparisons.sequences[name]
            kind = _Kind(evidence.window_of(one), isinstance(settings, LeastSquares))
            if name in study.comparisons.window_group(one):
                amounts.setdefault(sequences, {}).setdefault(kind, name)
                if isinstance(settings, Reconstruction) and settings.window == AUTO:
                    autos.add(sequences)
            else:
                unlike.setdefault(sequences, set()).add(kind)
    several = {amount: names for amount, names in sorted(amounts.items()) if len(names) > 1}
    if not several:
        return []
    one = next(iter(by_name[NONE].values()))
    length = study.calibration_of(one.model).length
    return [
        _Windows(
            pruned_model(one),
            f"{amount * length:,} tokens" if len(several) > 1 else "",
            by_name,
            names,
            unlike.get(amount, set()),
            amount,
            _largest(evidence, one.model) if amount in autos else math.inf,
        )
        for amount, names in several.items()
    ]


def _largest(evidence: Evidence, model: str) -> float:
    """Return the blocks of the largest window that a model has in the study, finished or not, or
    that `window: auto` took for it, on any masks, with any settings and any amount of text.
    """
    asked = [
        settings.window
        for settings in _adaptations(evidence, model)
        if isinstance(settings, Reconstruction) and settings.window != AUTO
    ]
    known = evidence.study.config.adaptations
    taken = [
        evidence.window_of(cell)
        for cell in evidence.records
        if cell.model == model and isinstance(known.get(cell.adaptation), Reconstruction)
    ]
    return max(map(window_size, [*asked, *taken]), default=-math.inf)


def _adaptations(evidence: Evidence, model: str) -> list[Adaptation]:
    """Return what a model is adapted by in the whole study, finished or not, in any part of it."""
    cells = evidence.study.of_part(None).asked
    names = {cell.adaptation for cell in cells if cell.model == model and cell.adaptation != NONE}
    return [evidence.study.config.adaptations[name] for name in sorted(names)]


MEASURES = (
    Measure(window_difference, MISSED, {"beside": WINDOW, "windows": WINDOWS}),
    Measure(
        gain_difference,
        "gain missed, as a share of the other adaptation's gain",
        {
            "beside": {"type": "string"},
            "adaptations": {"type": "array", "minItems": 1, "items": {"type": "string"}},
        },
    ),
    Measure(
        matrix_penalty,
        MISSED,
        {"exact": {"type": "boolean"}, "windows": WINDOWS},
        windows=(MATRIX,),
    ),
    Measure(halves_missed, MISSED, {"windows": WINDOWS}, windows=(HALVES,)),
    Measure(
        halves_memory,
        "memory of the work itself, relative to the smallest window's",
        {"windows": WINDOWS},
        unit="times",
        metrics=(),
        repeated_by=RECONSTRUCT_WINDOW,
        windows=(HALVES,),
    ),
)
