"""Measures of the effect of the window size."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from freelunch.analysis.intervals import Pick, Statistic
from freelunch.reporting.audit.evidence import Evidence
from freelunch.reporting.audit.measures.measure import (
    WINDOW,
    WINDOWS,
    Absent,
    Asked,
    Cells,
    Measure,
    Measurement,
    Settings,
    ask,
    constant,
    divided,
    only,
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
    for cells, rows in _windows(evidence):
        place = pruned_model(cells[NONE][0])
        wanted = [settings["beside"], *settings["windows"]]
        if absent := _absent_windows(rows, wanted):
            yield Absent(place, absent)
            continue
        names = _adaptations(rows)
        beside = names[settings["beside"]]
        for window in settings["windows"]:
            yield ask(
                evidence,
                settings,
                f"{place}, windows",
                [_missed(names[window], beside)],
                only(cells, [NONE, names[window], beside]),
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
        seeds = sorted(set.intersection(*(set(by_name[it]) for it in (NONE, beside, *others))))
        for name in others:
            cells = {it: [by_name[it][seed] for seed in seeds] for it in (NONE, name, beside)}
            yield ask(
                evidence,
                settings,
                place,
                [_missed(name, beside)],
                cells,
                about=f"{name} vs. {beside}",
            )


def matrix_penalty(evidence: Evidence, settings: Settings) -> Asked:
    """How much less the window of a single matrix gains than each of some `windows`, as a share of
    what that gains; the smallest share counts. The matrix is solved exactly if `exact`, and trained
    otherwise. All of the windows have to be in the study, and no others count.
    """
    for cells, rows in _windows(evidence):
        place = pruned_model(cells[NONE][0])
        absent = _absent_windows(rows, settings["windows"])
        matrix = _adaptations(rows, settings["exact"]).get(MATRIX)
        if absent or matrix is None:
            how = "solved exactly" if settings["exact"] else "trained"
            yield Absent(place, absent or f"no window of one matrix was {how}")
            continue
        yield _beside_each(evidence, settings, cells, matrix, rows, min)


def halves_missed(evidence: Evidence, settings: Settings) -> Asked:
    """How much less the window of half a block gains than each of some `windows`, as a share of
    what that gains; the largest share counts. Below 0, half a block gains more than all of them,
    which have to be in the study; no others count.
    """
    for cells, rows in _windows(evidence):
        if absent := _absent_windows(rows, [HALVES, *settings["windows"]]):
            yield Absent(pruned_model(cells[NONE][0]), absent)
            continue
        yield _beside_each(evidence, settings, cells, _adaptations(rows)[HALVES], rows, max)


def halves_memory(evidence: Evidence, settings: Settings) -> Asked:
    """The peak resident memory of the job that adapts halves of a block, divided by the smallest
    peak of some `windows`, all of which have to be in the study. Both are net of the smallest peak
    of any job of that model, which is mostly libraries, and averaged over seeds, of which three are
    needed.
    """
    for cells, rows in _windows(evidence):
        place = pruned_model(cells[NONE][0])
        wanted = [HALVES, *settings["windows"]]
        if absent := _absent_windows(rows, wanted):
            yield Absent(place, absent)
            continue
        names = [row["adaptation"] for row in rows if row["window"] in wanted]
        used = [cell for name in names for cell in cells[name]]
        if len(used) < RUNS * len(names):
            yield Absent(place, f"peak memory was not measured in {RUNS} runs, with {RUNS} seeds")
            continue
        half = _adaptations(rows)[HALVES]
        base = _smallest_peak(evidence, used[0].model)
        net = {name: _peak(evidence, cells[name]) - base for name in names}
        least = min(value for name, value in net.items() if name != half)
        times = constant(net[half] / least if least > 0 else math.nan)
        yield Measurement(f"{place}, {half}", [times], [], used)


def _peak(evidence: Evidence, cells: Sequence[Cell]) -> float:
    """Return the peak memory of the adaptation of some cells, averaged over them."""
    return fmean(evidence.records[cell]["cost"][RECONSTRUCT_WINDOW]["peak_bytes"] for cell in cells)


def _smallest_peak(evidence: Evidence, model: str) -> int:
    """Return the smallest peak memory of any job of a model."""
    costs = [record["cost"] for cell, record in evidence.records.items() if cell.model == model]
    return int(min(step["peak_bytes"] for cost in costs for step in cost.values()))


def _missed(name: str, other: str) -> Statistic:
    """Return how much less an adaptation gains than another, as a share of the other's gain."""
    return lambda means: divided(means[name] - means[other], means[NONE] - means[other])


def _beside_each(
    evidence: Evidence,
    settings: Settings,
    cells: Cells,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    pick: Pick,
) -> Measurement | Absent:
    """Return how much less an adaptation gains than each of the windows of the settings."""
    others = [_adaptations(rows)[window] for window in settings["windows"]]
    return ask(
        evidence,
        settings,
        f"{pruned_model(cells[NONE][0])}, {name}",
        [_missed(name, other) for other in others],
        only(cells, [NONE, name, *others]),
        pick=pick,
    )


def _windows(evidence: Evidence) -> Iterator[tuple[Cells, list[Mapping[str, Any]]]]:
    """Yield, for each pruned model, the cells whose windows are compared and the windows' rows.

    The cells are by adaptation, and include the unadapted ones. The adaptations have dense inputs
    and targets; those chosen on the evaluation text are left out.
    """
    for by_name in evidence.pruned:
        rows = [
            row
            for row in evidence.windows
            if any(
                pruned_model(cell) == pruned_model(row) for cell in by_name.get(NONE, {}).values()
            )
            and (row["inputs"], row["targets"]) == ("dense", "dense")
            and row["selected_on"] != "evaluation"
        ]
        names = [NONE, *(row["adaptation"] for row in rows)]
        if rows and (seeds := sorted(set.intersection(*(set(by_name[name]) for name in names)))):
            yield {name: [by_name[name][seed] for seed in seeds] for name in names}, rows


def _adaptations(rows: Sequence[Mapping[str, Any]], exact: bool = False) -> dict[Any, str]:
    """Return the trained adaptations, or those that were solved exactly, by their window."""
    return {row["window"]: row["adaptation"] for row in rows if bool(row["exact"]) == exact}


def _absent_windows(rows: Sequence[Mapping[str, Any]], wanted: Sequence[Any]) -> str | None:
    """Return which of the wanted windows were not run, in words; None if all were."""
    there = [row["window"] for row in rows]
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
    Measure(matrix_penalty, MISSED, {"exact": {"type": "boolean"}, "windows": WINDOWS}),
    Measure(halves_missed, MISSED, {"windows": WINDOWS}),
    Measure(
        halves_memory,
        "memory, relative to the smallest window's",
        {"windows": WINDOWS},
        unit="times",
        metrics=(),
        repeated_by=RECONSTRUCT_WINDOW,
    ),
)
