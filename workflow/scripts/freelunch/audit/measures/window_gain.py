"""Measures of how much windows gain, and of the memory that they take.

Windows of a pruned model are compared with those that see the same amount of text and have the same
settings otherwise (`Comparisons.window_group`). All windows that a measure names have to be there.
One exception: where `window: auto` took a smaller window for a model, larger ones that others have
are left out, since they do not fit into its memory; another model has to have it with as many
sequences. A window that no model has is missing, and so is the one that is compared, whatever
memory it needs.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
from freelunch.reporting.drawing.adaptation_looks import window_label
from freelunch.study.adaptations import Adaptation, LeastSquares, Reconstruction, Training
from freelunch.study.cell import NONE, pruned_model
from freelunch.study.comparisons import is_usual_window
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.windows import AUTO, HALVES, MATRIX, window_size

# Runs that a comparison of peak memory needs.
RUNS = 3
MISSED = "gain missed, as a share of the other window's gain"


@dataclass(frozen=True)
class _Kind:
    """A window, and whether it was solved exactly rather than trained."""

    window: int | str
    exact: bool = False

    def __str__(self) -> str:
        return f"{self.window} (solved exactly)" if self.exact else str(self.window)


@dataclass(frozen=True)
class _Windows:
    """The usual windows of a pruned model that see the same amount of text.

    Attributes:
        model: The pruned model.
        name: The model that was pruned.
        sequences: The number of sequences that they see.
        cells: All cells of the pruned model.
        amount: The amount of text in words, if the model has several.
        names: The adaptations by their windows.
        unlike: Windows that were adapted with other settings than these, such as another loss.
        limit: Blocks of the largest window that this model is known to fit; infinite without a
            `window: auto` to tell.
        compared: Windows that are compared here.
    """

    model: str
    name: str
    sequences: int
    cells: BySeed
    amount: str = ""
    names: dict[_Kind, str] = field(default_factory=dict)
    unlike: set[_Kind] = field(default_factory=set)
    limit: float = math.inf
    compared: Sequence[_Kind] = ()

    def about(self, *words: str) -> str:
        """Return what a number is about, with the amount of text."""
        return ", ".join(filter(None, [*words, self.amount]))

    def missed(
        self,
        evidence: Evidence,
        settings: Settings,
        subject: str,
        kind: _Kind,
        beside: Sequence[_Kind],
        *words: str,
    ) -> Measurement | Absent:
        """Return how much less a window gains than others; the largest share counts."""
        name, *others = (self.names[each] for each in (kind, *beside))
        return ask(
            evidence,
            settings,
            f"{self.model}, {subject or name}",
            [_missed(name, other) for other in others],
            shared_seeds(self.cells, [NONE, name, *others]),
            about=self.about(*words),
            pick=max,
        )


def window_difference(evidence: Evidence, settings: Settings) -> Asked:
    """How much less each of some `windows` gains than the window `beside`, as a share of what that
    gains, for each amount of text with which several windows were run; below 0, it gains more. All
    of them that fit into memory have to be there, and no others count.
    """
    beside = _Kind(settings["beside"])

    def compare(found: _Windows) -> Asked:
        for kind in found.compared:
            words = _beside(kind, beside)
            yield found.missed(evidence, settings, "windows", kind, [beside], words)

    return _compared(evidence, settings, beside, compare)


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
            cells = shared_seeds(by_name, [NONE, name, beside])
            about = f"{name} vs. {beside}"
            yield ask(evidence, settings, place, [_missed(name, beside)], cells, about=about)


def matrix_penalty(evidence: Evidence, settings: Settings) -> Asked:
    """How much less the window of a single matrix gains than each of some `windows`, as a share of
    what that gains, for each amount of text with which several windows were run. The matrix is
    solved exactly if `exact`, and trained otherwise. All of the windows that fit into memory have
    to be there, and no others count.
    """
    matrix = _Kind(MATRIX, settings["exact"])

    def compare(found: _Windows) -> Asked:
        for kind in found.compared:
            words = _beside(matrix, kind)
            yield found.missed(evidence, settings, "", matrix, [kind], words)

    return _compared(evidence, settings, matrix, compare)


def halves_missed(evidence: Evidence, settings: Settings) -> Asked:
    """How much less the window of half a block gains than each of some `windows`, as a share of
    what that gains, for each amount of text with which several windows were run; the largest share
    counts. Below 0, half a block gains more than all of them. Those that fit into memory have to be
    there; no others count.
    """
    halves = _Kind(HALVES)

    def compare(found: _Windows) -> Asked:
        yield found.missed(evidence, settings, "", halves, found.compared)

    return _compared(evidence, settings, halves, compare)


def halves_memory(evidence: Evidence, settings: Settings) -> Asked:
    """The peak memory of the job that adapts halves of a block, divided by the smallest peak of
    some `windows`, for each amount of text that several of them were adapted on. Those that fit
    into memory have to be there. Both are net of what the job's own process held when its work
    began, which is mostly libraries. The interval is over runs with different seeds, of which three
    are needed.
    """

    def compare(found: _Windows) -> Asked:
        half, *others = names = [found.names[kind] for kind in (halves, *found.compared)]
        cells, subject = shared_seeds(found.cells, names), found.about(found.model)
        used = [cell for name in names for cell in cells[name]]
        peaks = [[evidence.work_peak(cell) for cell in cells[name]] for name in names]
        if len(used) < RUNS * len(names):
            seeds = len(used) // len(names)
            yield Absent(subject, f"peak memory was measured with {seeds} of {RUNS} seeds")
        elif any(peak is None for of_seeds in peaks for peak in of_seeds):
            yield Absent(subject, "some records lack the peak memory of a job's own work")
        else:
            # What varies from run to run is the unit of the interval.
            runs = Sample(names, [np.array(peaks, dtype=float)[:, None]])
            # Beside the smallest, the ratio is largest.
            ratios = [_ratio(half, other) for other in others]
            subject = f"{found.model}, {half}"
            yield Measurement(subject, ratios, [runs], used, found.about(), max)

    halves = _Kind(HALVES)
    return _compared(evidence, settings, halves, compare)


def _beside(kind: _Kind, other: _Kind) -> str:
    return f"{window_label(kind.window)} vs. {window_label(other.window)}"


def _ratio(name: str, other: str) -> Statistic:
    return lambda means: divided(means[name], means[other])


def _missed(name: str, other: str) -> Statistic:
    """Return how much less an adaptation gains than another, as a share of the other's gain."""
    return lambda means: divided(means[name] - means[other], means[NONE] - means[other])


def _compared(
    evidence: Evidence, settings: Settings, wanted: _Kind, compare: Callable[[_Windows], Asked]
) -> Asked:
    """Yield a comparison of the windows of each pruned model, or which ones are missing, for each
    amount of text with which several windows were run.

    Args:
        evidence: The study.
        settings: Those of the measure. All of their `windows` have to be there, except for those
            that do not fit.
        wanted: The window that has to be there in any case.
        compare: Yields the comparison, given what is there.
    """
    beside = [_Kind(window) for window in settings["windows"]]
    models = list(_all_windows(evidence))
    if wanted.exact:
        # What is solved exactly has the calibration sample and no other.
        samples = evidence.study.calibration.samples
        models = [found for found in models if found.sequences == samples]
    for found in models:
        elsewhere: set[_Kind] = set()
        for other in models:
            if other.name != found.name and other.sequences == found.sequences:
                elsewhere |= {*other.names}
        too_large = [
            kind
            for kind in beside
            if kind in elsewhere - {*found.names} and window_size(kind.window) > found.limit
        ]
        compared = [kind for kind in beside if kind not in too_large]
        subject = found.about(found.model)
        missing = [kind for kind in (wanted, *compared) if kind not in found.names]
        if missing:
            alike = "" if found.unlike.isdisjoint(missing) else " with the settings of the others"
            reason = f"windows that were not run{alike}: {', '.join(map(str, missing))}"
            # Whether matrices are solved exactly is a choice of the study's for each model.
            entries = _adaptations(evidence, found.name)
            solves = any(isinstance(entry, LeastSquares) for entry in entries)
            left_out = wanted.exact and missing == [wanted] and wanted in elsewhere and not solves
            yield Absent(subject, reason, left_out=left_out)
            continue
        if too_large:
            reason = f"windows that do not fit into memory: {', '.join(map(str, too_large))}"
            yield Absent(subject, reason, left_out=True)
        if compared:
            yield from compare(replace(found, compared=compared))


def _all_windows(evidence: Evidence) -> Iterator[_Windows]:
    """Yield the windows of each pruned model for each number of sequences with which there are
    several windows, in its order. Whether they share a seed is not asked here.
    """
    study = evidence.study
    for by_name in evidence.pruned:
        usual = {
            name: settings
            for name, settings in study.config.adaptations.items()
            if NONE in by_name and name in by_name and is_usual_window(settings)
        }
        favoured = {*study.comparisons.selected_on_evaluation}
        # If all that train were chosen on the evaluation text, they are compared. The reason says
        # so.
        if {name for name, entry in usual.items() if isinstance(entry, Training)} <= favoured:
            favoured = set()
        found: dict[int, _Windows] = {}
        for name, settings in usual.items():
            if name in favoured:
                continue
            one, sequences = next(iter(by_name[name].values())), study.comparisons.sequences[name]
            here = found.get(sequences) or _Windows(
                pruned_model(one), one.model, sequences, by_name
            )
            found[sequences] = here
            kind = _Kind(evidence.window_of(one), isinstance(settings, LeastSquares))
            if name not in study.comparisons.window_group(one):
                here.unlike.add(kind)
                continue
            here.names.setdefault(kind, name)
            if isinstance(settings, Reconstruction) and settings.window == AUTO:
                found[sequences] = replace(here, limit=_largest(evidence, one.model))
        several = [found[amount] for amount in sorted(found) if len(found[amount].names) > 1]
        for here in several:
            tokens = here.sequences * study.calibration_of(here.name).length
            yield replace(here, amount=f"{tokens:,} tokens") if len(several) > 1 else here


def _largest(evidence: Evidence, model: str) -> float:
    """Return the blocks of the largest window that a model has in the study, finished or not, or
    that `window: auto` took for it, on any masks, with any settings and any amount of text.
    """
    windows = [
        settings.window
        for settings in _adaptations(evidence, model)
        if isinstance(settings, Reconstruction) and settings.window != AUTO
    ]
    known: Mapping[str, Adaptation] = evidence.study.config.adaptations
    for cell in evidence.records:
        if cell.model == model and isinstance(known.get(cell.adaptation), Reconstruction):
            windows.append(evidence.window_of(cell))
    return max(map(window_size, windows), default=-math.inf)


def _adaptations(evidence: Evidence, model: str) -> list[Adaptation]:
    """Return what a model is adapted by in the whole study, finished or not, in any part of it."""
    cells = evidence.study.of_part(None).asked
    names = {cell.adaptation for cell in cells if cell.model == model and cell.adaptation != NONE}
    return [evidence.study.config.adaptations[name] for name in sorted(names)]


_ADAPTATIONS = {"type": "array", "minItems": 1, "items": {"type": "string"}}
MEASURES = (
    Measure(window_difference, MISSED, {"beside": WINDOW, "windows": WINDOWS}),
    Measure(
        gain_difference,
        "gain missed, as a share of the other adaptation's gain",
        {"beside": {"type": "string"}, "adaptations": _ADAPTATIONS},
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
