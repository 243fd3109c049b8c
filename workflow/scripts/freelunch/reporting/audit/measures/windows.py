"""Measures of the effect of the window size."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from freelunch.analysis.intervals import Sample, Statistic
from freelunch.analysis.window_effect import usual_windows
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
from freelunch.study.cell import NONE, Cell
from freelunch.study.naming import pruned_model
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.windows import HALVES, MATRIX

# Runs that a comparison of peak memory needs.
RUNS = 3
MISSED = "gain missed, as a share of the other window's gain"


def window_difference(evidence: Evidence, settings: Settings) -> Asked:
    """How much less each of some `windows` gains than the window `beside`, as a share of what that
    gains; below 0, it gains more. All of them have to be in the study, and no others count.
    """
    for place, by_name, rows in _windows(evidence):
        wanted = [settings["beside"], *settings["windows"]]
        names = _adaptations(rows)
        if absent := _absent_windows(names, wanted):
            yield Absent(place, absent)
            continue
        beside = names[settings["beside"]]
        for window in settings["windows"]:
            yield ask(
                evidence,
                settings,
                f"{place}, windows",
                [_missed(names[window], beside)],
                shared_seeds(by_name, [NONE, names[window], beside]),
                about=f"{window_label(window)} vs. {window_label(settings['beside'])}",
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
    what that gains. The matrix is solved exactly if `exact`, and trained otherwise. All of the
    windows have to be in the study, and no others count.
    """
    for place, by_name, rows in _windows(evidence):
        trained = _adaptations(rows)
        absent = _absent_windows(trained, settings["windows"])
        matrix = _adaptations(rows, settings["exact"]).get(MATRIX)
        if absent or matrix is None:
            how = "solved exactly" if settings["exact"] else "trained"
            yield Absent(place, absent or f"no window of one matrix was {how}")
            continue
        for window in settings["windows"]:
            yield ask(
                evidence,
                settings,
                f"{place}, {matrix}",
                [_missed(matrix, trained[window])],
                shared_seeds(by_name, [NONE, matrix, trained[window]]),
                about=f"{window_label(MATRIX)} vs. {window_label(window)}",
            )


def halves_missed(evidence: Evidence, settings: Settings) -> Asked:
    """How much less the window of half a block gains than each of some `windows`, as a share of
    what that gains; the largest share counts. Below 0, half a block gains more than all of them,
    which have to be in the study; no others count.
    """
    for place, by_name, rows in _windows(evidence):
        trained = _adaptations(rows)
        if absent := _absent_windows(trained, [HALVES, *settings["windows"]]):
            yield Absent(place, absent)
            continue
        half, *others = (trained[window] for window in (HALVES, *settings["windows"]))
        yield ask(
            evidence,
            settings,
            f"{place}, {half}",
            [_missed(half, other) for other in others],
            shared_seeds(by_name, [NONE, half, *others]),
            pick=max,
        )


def halves_memory(evidence: Evidence, settings: Settings) -> Asked:
    """The peak memory of the job that adapts halves of a block, divided by the smallest peak of
    some `windows`, all of which have to be in the study. Both are net of what the job's own process
    held when its work began, which is mostly libraries. The interval is over runs with different
    seeds, of which three are needed.
    """
    for place, by_name, rows in _windows(evidence):
        wanted = [HALVES, *settings["windows"]]
        trained = _adaptations(rows)
        if absent := _absent_windows(trained, wanted):
            yield Absent(place, absent)
            continue
        names = [trained[window] for window in wanted]
        cells = shared_seeds(by_name, names)
        used = [cell for name in names for cell in cells[name]]
        if len(used) < RUNS * len(names):
            seeds = len(used) // len(names)
            yield Absent(place, f"peak memory was measured with {seeds} of {RUNS} seeds")
            continue
        half, *others = names
        peaks = [[_work_peak(evidence, cell) for cell in cells[name]] for name in names]
        if any(peak is None for each in peaks for peak in each):
            yield Absent(place, "some records lack the peak memory of a job's own work")
            continue

        # What varies from run to run is the unit of the interval.
        runs = Sample(names, [np.array(peaks, dtype=float)[:, None]])
        # Beside the smallest, the ratio is largest.
        ratios = [_ratio(half, other) for other in others]
        yield Measurement(f"{place}, {half}", ratios, [runs], used, pick=max)


def _ratio(name: str, other: str) -> Statistic:
    return lambda means: divided(means[name], means[other])


def _work_peak(evidence: Evidence, cell: Cell) -> int | None:
    """Return the peak memory of the adaptation of a cell, net of its process's own; None where the
    system did not tell.
    """
    peak = evidence.records[cell]["cost"][RECONSTRUCT_WINDOW].get("peak_work_bytes")
    return None if peak is None else int(peak)


def _missed(name: str, other: str) -> Statistic:
    """Return how much less an adaptation gains than another, as a share of the other's gain."""
    return lambda means: divided(means[name] - means[other], means[NONE] - means[other])


def _windows(evidence: Evidence) -> Iterator[tuple[str, BySeed, list[Mapping[str, Any]]]]:
    """Yield the name of each pruned model, its cells, and the rows of its usual windows."""
    for by_name in evidence.pruned:
        place = pruned_model(next(iter(next(iter(by_name.values())).values())))
        rows = usual_windows([row for row in evidence.windows if pruned_model(row) == place])
        if rows:
            yield place, by_name, rows


def _adaptations(rows: Sequence[Mapping[str, Any]], exact: bool = False) -> dict[Any, str]:
    """Return the trained adaptations, or those that were solved exactly, by their window."""
    return {row["window"]: row["adaptation"] for row in rows if bool(row["exact"]) == exact}


def _absent_windows(there: Collection[Any], wanted: Sequence[Any]) -> str | None:
    """Return which of the wanted windows were not trained, in words; None if all were."""
    missing = [str(window) for window in wanted if window not in there]
    return f"windows that were not run: {', '.join(missing)}" if missing else None


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
