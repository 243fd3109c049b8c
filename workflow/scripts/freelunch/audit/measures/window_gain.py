"""Measures of how much windows gain, and of the memory that they take.

Windows of a pruned model are compared with those that see the same amount of text and have the same
settings otherwise (`Comparisons.window_group`). All windows that a measure names have to be there.
One exception: where a model was adapted with `window: auto`, windows larger than all that it has do
not fit into its memory and are left out, if another model has them with as many sequences. A window
that no model has is missing, and so is the one that is compared, whatever memory it needs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from freelunch.analysis.intervals import Means, Numbers, Sample, Statistic
from freelunch.audit.evidence import Evidence
from freelunch.audit.measures.measure import (
    Absent,
    Asked,
    BySeed,
    Measure,
    Measurement,
    Settings,
    ask,
    divided,
    lost_beside,
    shared_seeds,
)
from freelunch.reporting.drawing.adaptation_looks import window_label
from freelunch.study.adaptations import LeastSquares, Training
from freelunch.study.cell import NONE, pruned_model
from freelunch.study.comparisons import is_usual_window
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.windows import ALL, AUTO, HALVES, MATRIX, window_size

# JSON Schemas of settings.
WINDOW = {"anyOf": [{"enum": [MATRIX, HALVES, ALL]}, {"type": "integer", "minimum": 1}]}
WINDOWS = {"type": "array", "minItems": 1, "uniqueItems": True, "items": WINDOW}
# Runs that a comparison of peak memory needs.
RUNS = 3
LOST = "improvement lost, as a share of the other window's"


@dataclass(frozen=True)
class _Kind:
    """A window, and whether it is solved in closed form rather than trained."""

    window: int | str
    exact: bool = False

    def __str__(self) -> str:
        return f"{self.window} (closed form)" if self.exact else str(self.window)

    def beside(self, other: "_Kind") -> str:
        return f"{window_label(self.window)} vs. {window_label(other.window)}"


@dataclass(frozen=True)
class _Windows:
    """The usual windows of a pruned model that see the same amount of text.

    Attributes:
        pruned: The pruned model in words.
        model: The model that was pruned.
        sequences: The number of sequences that they see.
        cells: All cells of the pruned model.
        amount: The amount of text in words, if the model has several.
        names: The adaptations by their windows.
        unlike: Windows that were adapted with other settings than these, such as another loss.
        autos: Windows that `window: auto` took.
        compared: Windows that are compared here.
    """

    pruned: str
    model: str
    sequences: int
    cells: BySeed
    amount: str = ""
    names: dict[_Kind, str] = field(default_factory=dict)
    unlike: set[_Kind] = field(default_factory=set)
    autos: set[_Kind] = field(default_factory=set)
    compared: Sequence[_Kind] = ()

    def about(self, *words: str) -> str:
        """Return what a number is about, with the amount of text."""
        return ", ".join(filter(None, [*words, self.amount]))

    def missed(
        self,
        evidence: Evidence,
        settings: Settings,
        kind: _Kind,
        beside: Sequence[_Kind],
        about: str = "",
        subject: str = "",
    ) -> Measurement | Absent:
        """Return how much less a window gains than others; the largest share counts."""
        name, *others = (self.names[each] for each in (kind, *beside))
        return ask(
            evidence,
            settings,
            f"{self.pruned}, {subject or name}",
            [lost_beside(name, other) for other in others],
            shared_seeds(self.cells, [NONE, name, *others]),
            about=self.about(about),
            pick=max,
        )


def window_difference(evidence: Evidence, settings: Settings) -> Asked:
    """How much less each of some `windows` gains than the window `beside`, as a share of what that
    gains, for each amount of text with which several windows were run; below 0, it gains more. All
    of them that fit into memory have to be there, and no others count.
    """
    beside = _Kind(settings["beside"])
    return _for_each(
        _compared(evidence, settings, beside),
        lambda found, kind: found.missed(
            evidence, settings, kind, [beside], kind.beside(beside), subject="windows"
        ),
    )


def gain_difference(evidence: Evidence, settings: Settings) -> Asked:
    """How much less each of some `adaptations` gains than the adaptation `beside`, as a share of
    what that gains; below 0, it gains more. All of them have to be there for each pruned model that
    has the adaptation `beside`, and no others count.
    """
    beside, others = settings["beside"], settings["adaptations"]
    for by_name in (each for each in evidence.pruned if beside in each):
        place = pruned_model(next(iter(by_name[beside].values())))
        if absent := [name for name in (NONE, *others) if name not in by_name]:
            yield Absent(place, f"adaptations that are not there: {', '.join(absent)}")
            continue
        for name in others:
            cells = shared_seeds(by_name, [NONE, name, beside])
            about = f"{name} vs. {beside}"
            yield ask(evidence, settings, place, [lost_beside(name, beside)], cells, about=about)


def matrix_penalty(evidence: Evidence, settings: Settings) -> Asked:
    """How much less the window of a single matrix gains than each of some `windows`, as a share of
    what that gains, for each amount of text with which several windows were run. The matrix is
    solved in closed form if `exact`, and trained otherwise. All of the windows that fit into memory
    have to be there, and no others count.
    """
    matrix = _Kind(MATRIX, settings["exact"])
    return _for_each(
        _compared(evidence, settings, matrix),
        lambda found, kind: found.missed(evidence, settings, matrix, [kind], matrix.beside(kind)),
    )


def memory_price(evidence: Evidence, settings: Settings) -> Asked:
    """How much less each of some `windows` gains than the window `beside`, as a share of what that
    gains, divided by the share of that one's memory that it saves: what all memory would cost. This
    is asked for each amount of text with which several windows were run. Below 0, it gains more and
    saves memory. Memory is the peak of a job's own work, net of what its process held when the work
    began; three runs with different seeds are needed. All windows that fit have to be there, and no
    others count.
    """
    beside = _Kind(settings["beside"])

    def price(found: _Windows, kind: _Kind) -> Measurement | Absent:
        names = [found.names[kind], found.names[beside]]
        lost = found.missed(evidence, settings, kind, [beside], kind.beside(beside))
        peaks = _peaks(evidence, found, names)
        if isinstance(lost, Absent):
            return lost
        if isinstance(peaks, Absent):
            return peaks
        # Losses have the names of the adaptations.
        memory = replace(peaks, names=[f"{name} memory" for name in names])
        of_memory = partial(_price, of_loss=lost.statistics[0], names=memory.names)
        why = "the window may save no memory"
        samples = [*lost.samples, memory]
        return replace(lost, statistics=[of_memory], samples=samples, undefined=why)

    return _for_each(_compared(evidence, settings, beside), price)


def halves_missed(evidence: Evidence, settings: Settings) -> Asked:
    """How much less the window of half a block gains than each of some `windows`, as a share of
    what that gains, for each amount of text with which several windows were run; the largest share
    counts. Below 0, half a block gains more than all of them. Those that fit into memory have to be
    there; no others count.
    """
    halves = _Kind(HALVES)
    for found in _compared(evidence, settings, halves):
        if isinstance(found, Absent):
            yield found
        else:
            yield found.missed(evidence, settings, halves, found.compared)


def halves_memory(evidence: Evidence, settings: Settings) -> Asked:
    """The peak memory of the job that adapts halves of a block, divided by the smallest peak of
    some `windows`, for each amount of text that several of them were adapted on. Those that fit
    into memory have to be there. Both are net of what the job's own process held when its work
    began, which is mostly libraries. The interval is over runs with different seeds, of which three
    are needed.
    """
    for found in _compared(evidence, settings, _Kind(HALVES)):
        yield found if isinstance(found, Absent) else _memory(evidence, found)


def _peaks(evidence: Evidence, found: _Windows, names: Sequence[str]) -> Sample | Absent:
    """Return the peak memory of some adaptations of a pruned model in each run."""
    cells = shared_seeds(found.cells, names)
    peaks = [[evidence.work_peak(cell) for cell in cells[name]] for name in names]
    if len(peaks[0]) < RUNS:
        reason = f"peak memory was measured with {len(peaks[0])} of {RUNS} seeds"
        return Absent(found.about(found.pruned), reason)
    if any(peak is None for of_seeds in peaks for peak in of_seeds):
        reason = "some records lack the peak memory of a job's own work"
        return Absent(found.about(found.pruned), reason)
    # What varies from run to run is the unit of the interval.
    return Sample(names, [np.array(peaks, dtype=float)[:, None]])


def _price(means: Means, of_loss: Statistic, names: Sequence[str]) -> Numbers:
    window, beside = (means[name] for name in names)
    return divided(of_loss(means), 1 - window / beside)


def _memory(evidence: Evidence, found: _Windows) -> Measurement | Absent:
    half, *others = names = [found.names[kind] for kind in (_Kind(HALVES), *found.compared)]
    runs = _peaks(evidence, found, names)
    if isinstance(runs, Absent):
        return runs

    def ratio(other: str) -> Statistic:
        return lambda means: divided(means[half], means[other])

    used = [cell for of_seeds in shared_seeds(found.cells, names).values() for cell in of_seeds]
    # Beside the smallest, the ratio is largest.
    ratios = [ratio(other) for other in others]
    return Measurement(f"{found.pruned}, {half}", ratios, [runs], used, found.about(), max)


def _for_each(
    compared: Iterable[_Windows | Absent],
    of_window: Callable[[_Windows, _Kind], Measurement | Absent],
) -> Asked:
    """Yield what is measured of each window that is compared, and which windows are missing."""
    for found in compared:
        if isinstance(found, Absent):
            yield found
        else:
            yield from (of_window(found, kind) for kind in found.compared)


def _compared(evidence: Evidence, settings: Settings, wanted: _Kind) -> Iterator[_Windows | Absent]:
    """Yield the windows of each pruned model, or which ones are missing, for each amount of text
    with which several windows were run. All `windows` of the settings have to be there, except for
    those that do not fit, and the one that is wanted in any case.
    """
    beside = [_Kind(window) for window in settings["windows"]]
    models = list(_all_windows(evidence))
    if wanted.exact:
        # What has a closed form has the calibration sample and no other.
        samples = evidence.study.calibration.samples
        models = [found for found in models if found.sequences == samples]
    for found in models:
        own = {kind for other in models if other.model == found.model for kind in other.names}
        elsewhere = {
            kind
            for other in models
            if other.model != found.model and other.sequences == found.sequences
            for kind in other.names
        } - own
        largest = max(window_size(kind.window) for kind in own)
        too_large = [
            kind
            for kind in beside
            if found.autos and kind in elsewhere and window_size(kind.window) > largest
        ]
        compared = [kind for kind in beside if kind not in too_large]
        subject = found.about(found.pruned)
        if missing := [kind for kind in (wanted, *compared) if kind not in found.names]:
            alike = "" if found.unlike.isdisjoint(missing) else " with the settings of the others"
            reason = f"windows that were not run{alike}: {', '.join(map(str, missing))}"
            # Whether matrices are solved in closed form is a choice of the study's for each model.
            left_out = wanted.exact and missing == [wanted] and wanted in elsewhere
            yield Absent(subject, reason, left_out=left_out)
            continue
        if too_large:
            reason = f"windows that do not fit into memory: {', '.join(map(str, too_large))}"
            yield Absent(subject, reason, left_out=True)
        if compared:
            yield replace(found, compared=compared)


def _all_windows(evidence: Evidence) -> Iterator[_Windows]:
    """Yield the windows of each pruned model for each number of sequences with which there are
    several windows, in its order. Whether they share a seed is not asked here.
    """
    study = evidence.study
    for by_name in (each for each in evidence.pruned if NONE in each):
        usual = {
            name: settings
            for name, settings in study.config.adaptations.items()
            if name in by_name and is_usual_window(settings)
        }
        favoured = {*study.comparisons.selected_on_evaluation}
        # If all that train were chosen on the evaluation text, they are compared. The reason says
        # so.
        if {name for name, entry in usual.items() if isinstance(entry, Training)} <= favoured:
            favoured = set()
        found: dict[int, _Windows] = {}
        for name in (each for each in usual if each not in favoured):
            one, sequences = next(iter(by_name[name].values())), study.comparisons.sequences[name]
            here = found.setdefault(
                sequences, _Windows(pruned_model(one), one.model, sequences, by_name)
            )
            kind = _Kind(evidence.window_of(one), isinstance(usual[name], LeastSquares))
            if name not in study.comparisons.window_group(one):
                here.unlike.add(kind)
                continue
            here.names.setdefault(kind, name)
            if getattr(usual[name], "window", None) == AUTO:
                here.autos.add(kind)
        several = [found[amount] for amount in sorted(found) if len(found[amount].names) > 1]
        for here in several:
            tokens = here.sequences * study.calibration_of(here.model).length
            yield replace(here, amount=f"{tokens:,} tokens") if len(several) > 1 else here


_ADAPTATIONS = {"type": "array", "minItems": 1, "items": {"type": "string"}}
MEASURES = (
    Measure(window_difference, LOST, {"beside": WINDOW, "windows": WINDOWS}),
    Measure(
        gain_difference,
        "improvement lost, as a share of the other adaptation's",
        {"beside": {"type": "string"}, "adaptations": _ADAPTATIONS},
    ),
    Measure(matrix_penalty, LOST, {"exact": {"type": "boolean"}, "windows": WINDOWS}),
    Measure(halves_missed, LOST, {"windows": WINDOWS}),
    Measure(
        memory_price,
        "improvement lost for all memory, as a share of the other window's",
        {"beside": WINDOW, "windows": WINDOWS},
    ),
    Measure(
        halves_memory,
        "memory of the work itself, relative to the smallest window's",
        {"windows": WINDOWS},
        unit="times",
        metrics=(),
        repeated_by=RECONSTRUCT_WINDOW,
    ),
)
