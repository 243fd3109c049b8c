"""Measures of the effect of the window size.

A window that is larger than the one that `window: auto` took for a model does not fit into the
memory that the study gives it. It need not be there for this model if another model has it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from freelunch.analysis.intervals import Sample, Statistic
from freelunch.reporting.audit.evidence import Evidence
from freelunch.reporting.audit.measures.measure import (
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
from freelunch.study.adaptations import LeastSquares, Reconstruction, Training
from freelunch.study.cell import NONE
from freelunch.study.comparisons import is_usual_window
from freelunch.study.naming import pruned_model
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.windows import HALVES, MATRIX, window_size

# Runs that a comparison of peak memory needs.
RUNS = 3
MISSED = "gain missed, as a share of the other window's gain"


def window_difference(evidence: Evidence, settings: Settings) -> Asked:
    """How much less each of some `windows` gains than the window `beside`, as a share of what that
    gains, for each amount of text with which several windows were run; below 0, it gains more. All
    of them have to be there, and no others count.
    """
    beside_all = _trained(settings["beside"])
    for found in _with(evidence, beside_all, _trained(*settings["windows"])):
        if isinstance(found, Absent):
            yield found
            continue
        beside = found.trained(settings["beside"])
        for window in settings["windows"]:
            if _Kind(window) not in found.names:  # It does not fit.
                continue
            yield ask(
                evidence,
                settings,
                f"{found.model}, windows",
                [_missed(found.trained(window), beside)],
                shared_seeds(found.cells, [NONE, found.trained(window), beside]),
                about=found.about(f"{window_label(window)} vs. {window_label(settings['beside'])}"),
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
    solved exactly if `exact`, and trained otherwise. All of the windows have to be there, and no
    others count.
    """
    of_matrix, windows = _Kind(MATRIX, settings["exact"]), settings["windows"]
    for found in _with(evidence, [of_matrix, *_trained(*windows)]):
        if isinstance(found, Absent):
            yield found
            continue
        matrix = found.names[of_matrix]
        for window in windows:
            yield ask(
                evidence,
                settings,
                f"{found.model}, {matrix}",
                [_missed(matrix, found.trained(window))],
                shared_seeds(found.cells, [NONE, matrix, found.trained(window)]),
                about=found.about(f"{window_label(MATRIX)} vs. {window_label(window)}"),
            )


def halves_missed(evidence: Evidence, settings: Settings) -> Asked:
    """How much less the window of half a block gains than each of some `windows`, as a share of
    what that gains, for each amount of text with which several windows were run; the largest share
    counts. Below 0, half a block gains more than all of them, which have to be there; no others
    count.
    """
    wanted = _trained(HALVES, *settings["windows"])
    for found in _with(evidence, wanted):
        if isinstance(found, Absent):
            yield found
            continue
        half, *others = (found.names[kind] for kind in wanted)
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
    some `windows`, all of which have to be there, for each amount of text that several of them were
    adapted on. Both are net of what the job's own process held when its work began, which is
    mostly libraries. The interval is over runs with different seeds, of which three are needed.
    """
    wanted = _trained(HALVES, *settings["windows"])
    for found in _with(evidence, wanted):
        if isinstance(found, Absent):
            yield found
            continue
        names = [found.names[kind] for kind in wanted]
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


@dataclass(frozen=True)
class _Windows:
    """The usual windows of a pruned model that see the same amount of text.

    Attributes:
        model: The pruned model.
        amount: The amount of text in words, if the model has several.
        cells: All cells of the pruned model.
        names: The adaptations by their windows.
        unlike: Windows that were adapted with other settings than these, such as another loss.
        largest: The window that `auto` took, and the GB into which it had to fit; None without it.
    """

    model: str
    amount: str
    cells: BySeed
    names: Mapping[_Kind, str]
    unlike: set[_Kind]
    largest: tuple[int | str, float] | None

    def fits(self, kind: _Kind) -> bool:
        """Return whether a window fits into the memory that the study gives it, as far as known."""
        return self.largest is None or window_size(kind.window) <= window_size(self.largest[0])

    def about(self, *words: str) -> str:
        """Return what a number is about, with the amount of text."""
        return ", ".join(filter(None, [*words, self.amount]))

    def trained(self, window: int | str) -> str:
        """Return the adaptation that trains a window."""
        return self.names[_Kind(window)]


def _trained(*windows: int | str) -> list[_Kind]:
    return [_Kind(window) for window in windows]


def _with(
    evidence: Evidence, wanted: Sequence[_Kind], apart: Sequence[_Kind] = ()
) -> Iterator[_Windows | Absent]:
    """Yield the windows of each pruned model, or which of the wanted ones are missing, for each
    amount of text with which several windows were run.

    A model into whose memory a window does not fit is left out if another model has that window.

    Args:
        evidence: The study.
        wanted: Windows that are compared together, all of which have to be there.
        apart: Windows that are compared with these one by one, so that a model is left out only if
            none of them fits.
    """
    kinds = [*wanted, *apart]
    # What is solved exactly has the calibration sample and no other.
    only = evidence.study.calibration.samples if any(kind.exact for kind in kinds) else None
    models = [
        found
        for by_name in evidence.pruned
        for sequences, found in _by_amount(evidence, by_name).items()
        if only in (None, sequences)
    ]
    seen = {kind for found in models for kind in found.names}
    for found in models:
        too_large = {kind for kind in seen if kind not in found.names and not found.fits(kind)}
        if too_large.intersection(wanted) or (apart and too_large.issuperset(apart)):
            continue
        missing = [kind for kind in kinds if kind not in found.names and kind not in too_large]
        yield Absent(found.about(found.model), _not_run(found, missing)) if missing else found


def _not_run(found: _Windows, missing: Sequence[_Kind]) -> str:
    """Return in words that windows were not adapted."""
    names = [f"{it.window} (solved exactly)" if it.exact else str(it.window) for it in missing]
    alike = "" if found.unlike.isdisjoint(missing) else " with the settings of the others"
    reason = f"windows that were not run{alike}: {', '.join(names)}"
    if found.largest is None or all(map(found.fits, missing)):
        return reason
    window, memory_gb = found.largest
    return f"{reason} (window {window} is the largest that fits into {memory_gb:g} GB)"


def _by_amount(evidence: Evidence, by_name: BySeed) -> dict[int, _Windows]:
    """Return the windows of a pruned model, by the sequences that they see, where there are several
    windows. Whether they share a seed is not asked here.
    """
    study = evidence.study
    amounts: dict[int, dict[_Kind, str]] = {}
    unlike: dict[int, set[_Kind]] = {}
    largest: dict[int, tuple[int | str, float]] = {}
    usual = {
        name: settings
        for name, settings in study.config.adaptations.items()
        if NONE in by_name and name in by_name and is_usual_window(settings)
    }
    favoured = {*study.selected_on_evaluation}
    # If all that train were chosen on the evaluation text, they are compared. The reason says so.
    if {name for name, settings in usual.items() if isinstance(settings, Training)} <= favoured:
        favoured = set()
    for name, settings in usual.items():
        if isinstance(settings, Reconstruction) and settings.memory_gb is not None:
            window = evidence.window_of(next(iter(by_name[name].values())))
            largest[study.sequences[name]] = window, settings.memory_gb
        if name not in favoured:
            one = next(iter(by_name[name].values()))
            kind = _Kind(evidence.window_of(one), isinstance(settings, LeastSquares))
            if name in study.compared_windows(one):
                amounts.setdefault(study.sequences[name], {}).setdefault(kind, name)
            else:
                unlike.setdefault(study.sequences[name], set()).add(kind)
    several = {amount: names for amount, names in sorted(amounts.items()) if len(names) > 1}
    if not several:
        return {}
    one = next(iter(by_name[NONE].values()))
    length = study.calibration_of(one.model).length
    return {
        amount: _Windows(
            pruned_model(one),
            f"{amount * length:,} tokens" if len(several) > 1 else "",
            by_name,
            names,
            unlike.get(amount, set()),
            largest.get(amount),
        )
        for amount, names in several.items()
    }


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
