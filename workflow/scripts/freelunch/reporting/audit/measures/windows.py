"""Measures of the effect of the window size."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from freelunch.analysis.bootstrap import Means
from freelunch.reporting.audit.evidence import Evidence
from freelunch.reporting.audit.measures.measure import (
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
from freelunch.study.cell import NONE
from freelunch.study.naming import pruned_model
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.windows import HALVES, MATRIX

OF_BEST = "difference, as a share of the best window's gain"


def window_spread(evidence: Evidence, settings: Settings) -> Asked:
    """How far apart the losses of some `windows` are, as a share of what the best of them gains.
    All of them have to be in the study, and no others count.
    """
    for cells, rows in _windows(evidence):
        place = pruned_model(cells[NONE][0])
        chosen = [row for row in rows if row["window"] in settings["windows"]]
        if absent := _absent_windows(chosen, settings["windows"]):
            yield Absent(place, absent)
            continue
        names = [row["adaptation"] for row in chosen]

        def statistic(means: Means, names: Sequence[str] = names) -> float:
            losses = [means[name] for name in names]
            return divided(max(losses) - min(losses), means[NONE] - min(losses))

        subject = f"{place}, windows {', '.join(str(row['window']) for row in chosen)}"
        yield ask(evidence, settings, subject, statistic, only(cells, [NONE, *names]))


def matrix_penalty(evidence: Evidence, settings: Settings) -> Asked:
    """How much worse the window of a single matrix is than the worst of some `windows`, as a
    share of what the best of these gains. The matrix is solved exactly if `exact`, and trained
    otherwise. All of the windows have to be in the study, and no others count.
    """
    for cells, rows in _windows(evidence):
        place = pruned_model(cells[NONE][0])
        others = [row for row in rows if row["window"] in settings["windows"]]
        of_matrix = [
            row["adaptation"]
            for row in rows
            if row["window"] == MATRIX and bool(row["exact"]) == settings["exact"]
        ]
        absent = _absent_windows(others, settings["windows"])
        if absent or not of_matrix:
            how = "solved exactly" if settings["exact"] else "trained"
            yield Absent(place, absent or f"no window of one matrix was {how}")
            continue
        names = [row["adaptation"] for row in others]

        def statistic(
            means: Means, name: str = of_matrix[0], names: Sequence[str] = names
        ) -> float:
            losses = [means[other] for other in names]
            return divided(means[name] - max(losses), means[NONE] - min(losses))

        used = only(cells, [NONE, of_matrix[0], *names])
        yield ask(evidence, settings, f"{place}, {of_matrix[0]}", statistic, used)


def halves_missed(evidence: Evidence, settings: Settings) -> Asked:
    """How much less the window of half a block gains than the best of it and some `windows`, as a
    share of the best gain. All of them have to be in the study, and no others count.
    """
    for cells, rows in _windows(evidence):
        place = pruned_model(cells[NONE][0])
        wanted = [HALVES, *settings["windows"]]
        if absent := _absent_windows(rows, wanted):
            yield Absent(place, absent)
            continue
        names = [row["adaptation"] for row in rows if row["window"] in wanted]
        half = next(row["adaptation"] for row in rows if row["window"] == HALVES)

        def statistic(means: Means, half: str = half, names: Sequence[str] = names) -> float:
            best = min(means[name] for name in names)
            return divided(means[half] - best, means[NONE] - best)

        used = only(cells, [NONE, *names])
        yield ask(evidence, settings, f"{place}, {half}", statistic, used)


def halves_memory(evidence: Evidence, settings: Settings) -> Asked:
    """The peak resident memory of the job that adapts halves of a block, including its libraries,
    divided by the smallest peak of some `windows`, all of which have to be in the study.
    """
    for cells, rows in _windows(evidence):
        place = pruned_model(cells[NONE][0])
        if absent := _absent_windows(rows, [HALVES, *settings["windows"]]):
            yield Absent(place, absent)
            continue
        others = [row for row in rows if row["window"] in settings["windows"]]
        half = next(row for row in rows if row["window"] == HALVES)
        least = min(row["adaptation_peak_bytes"] for row in others)
        used = [cell for row in (half, *others) for cell in cells[row["adaptation"]]]
        times = half["adaptation_peak_bytes"] / least
        yield Measurement(f"{place}, {half['adaptation']}", constant(times), [], used)


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


def _absent_windows(rows: Sequence[Mapping[str, Any]], wanted: Sequence[Any]) -> str | None:
    """Return which of the wanted windows were not run, in words; None if all were."""
    there = [row["window"] for row in rows]
    missing = [str(window) for window in wanted if window not in there]
    return f"windows that were not run: {', '.join(missing)}" if missing else None


MEASURES = (
    Measure(window_spread, OF_BEST, {"windows": {**WINDOWS, "minItems": 2}}),
    Measure(matrix_penalty, OF_BEST, {"exact": {"type": "boolean"}, "windows": WINDOWS}),
    Measure(halves_missed, OF_BEST, {"windows": WINDOWS}),
    Measure(
        halves_memory,
        "memory, relative to the smallest window's",
        {"windows": WINDOWS},
        unit="times",
        metrics=(),
        repeated_by=RECONSTRUCT_WINDOW,
    ),
)
