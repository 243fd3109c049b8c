"""What claims come down to: a number of each pruned model, from mean losses alone.

A measure finds the cells that it compares and says which statistic of their mean losses is asked;
`analysis.bootstrap` then has the number and its interval. Losses are in the metric that the
claim names: nats a token, or the share of wrong answers. What a measure is, its docstring says to
the reader of the audit, too.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from freelunch.analysis.bootstrap import Means, Sample, Statistic
from freelunch.analysis.budget_effect import UNITS, reached_at
from freelunch.analysis.pairing import exp
from freelunch.core.errors import UserError, nearest
from freelunch.costs.plan import Plan
from freelunch.reporting.audit.data import DATA
from freelunch.reporting.audit.evidence import ACCURACY, METRICS, PERPLEXITY, Evidence
from freelunch.reporting.audit.verdicts import UNBOUNDED, UNDEFINED
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.methods import METHODS, NEXT_TOKEN
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.study import Study
from freelunch.study.windows import ALL, HALVES, MATRIX

ROOT = DATA.parents[1]


@dataclass(frozen=True)
class Measurement:
    """A number that was asked, not yet computed.

    Attributes:
        subject: Of what.
        statistic: From mean losses, by the names in the samples.
        samples: Of each model one.
        cells: Which the number comes from.
        bounds: What it can be told between: less is "at most" the first, more "more than" the
            second, and infinite.
        undefined: What it means that there is no number, or not in all draws.
        command: What repeats it, where that is not to measure the cells again.
    """

    subject: str
    statistic: Statistic
    samples: Sequence[Sample]
    cells: Sequence[Cell]
    bounds: tuple[float, float] = UNBOUNDED
    undefined: str = UNDEFINED
    command: str | None = None


@dataclass(frozen=True)
class Absent:
    """What cannot be measured, and why."""

    subject: str
    reason: str


Settings = Mapping[str, Any]
Asked = Iterator[Measurement | Absent]
Measure = Callable[[Evidence, Settings], Asked]
# Of each seed one.
Cells = Mapping[str, Sequence[Cell]]


def recovery(evidence: Evidence, settings: Settings) -> Asked:
    """Of the loss that pruning costs, the share that the reconstruction gives back. All `criteria`
    have to be there, and no others count.
    """
    for (model, pattern, name), criteria in _by_criterion(evidence, settings["metric"]).items():
        if missing := [it for it in settings["criteria"] if it not in criteria]:
            subject = f"{model}, {pattern}, {name}"
            yield Absent(subject, f"there are no cells of {', '.join(missing)}")
            continue
        for criterion in settings["criteria"]:
            cells = criteria[criterion]

            def statistic(means: Means, name: str = name) -> float:
                return _divided(means[NONE] - means[name], means[NONE] - means[DENSE])

            subject = f"{_place(cells[NONE][0])}, {name}"
            yield _asked(evidence, settings, subject, statistic, cells)


def gain(evidence: Evidence, settings: Settings) -> Asked:
    """By how much the reconstruction lowers the loss: nats a token, or a share of answers. Pruned
    models that were not measured count as untested.
    """
    asked = []
    for cells, name in _reconstructed(evidence, settings["metric"]):

        def statistic(means: Means, name: str = name) -> float:
            return means[NONE] - means[name]

        subject = f"{_place(cells[NONE][0])}, {name}"
        asked.append(_asked(evidence, settings, subject, statistic, _only(cells, [NONE, name])))
    measured = [each for each in asked if isinstance(each, Measurement)]
    yield from measured
    # Not all cells are asked what takes long: one line for all of these.
    if absent := [each for each in asked if isinstance(each, Absent)]:
        count = f"{len(absent)} pruned model{'s' if len(absent) > 1 else ''}"
        yield Absent(f"{count} {'more' if measured else ''}".strip(), absent[0].reason)


def recovery_at_size(evidence: Evidence, settings: Settings) -> Asked:
    """Of the loss that pruning costs, the share that the reconstruction gives back, in models with
    at least so many `parameters`. All `criteria` have to be there, and no others count.
    """
    sizes = _sizes(evidence)
    large = {
        cell: record
        for cell, record in evidence.records.items()
        if sizes[cell.model] >= settings["parameters"]
    }
    asked = list(recovery(Evidence(evidence.study, large, evidence.folder), settings))
    if not asked:
        yield Absent(
            f"models of {settings['parameters']:,} parameters or more",
            f"the largest model of this study has {max(sizes.values()):,}",
        )
    yield from asked


def budget_ratio(evidence: Evidence, settings: Settings) -> Asked:
    """The smallest budget with which any way of retraining on text reaches the reconstruction,
    divided by the reconstruction's own, in `unit`. All `methods` have to be there, and no others
    count. Between budgets that were run, the loss is taken to be straight over the logarithm of the
    budget, if they are at most `apart` times apart: what lies beyond a larger step does not count.
    A number no larger than the smallest budgets of all ways is at most that; where none reaches it,
    it is more than the largest that all were run with. That counts only where each was run with as
    much as the reconstruction or less, too, and was not made worse by more: else less may do.
    """
    unit, apart = settings["unit"], settings["apart"]
    for comparison in evidence.comparisons:
        reference = comparison.reference
        ways = {
            series: members
            for series, members in comparison.series.items()
            if members[0].settings["method"] in settings["methods"]
            and members[0].settings["loss"] == NEXT_TOKEN
        }
        subject = f"{_place(reference.cells[0])}, {', '.join(ways)} against {reference.name}"
        there = {members[0].settings["method"] for members in ways.values()}
        if missing := [name for name in settings["methods"] if name not in there]:
            place = f"{_place(reference.cells[0])}, retraining against {reference.name}"
            yield Absent(place, f"retraining that was not run: {', '.join(missing)}")
            continue
        amounts = {
            each.name: getattr(each, unit) / getattr(reference, unit)
            for members in ways.values()
            for each in members
        }
        of_ways = [
            _without_gaps({each.name: amounts[each.name] for each in way}, apart)
            for way in ways.values()
        ]

        def statistic(
            means: Means,
            of_ways: Sequence[Mapping[str, float]] = of_ways,
            reference: str = reference.name,
        ) -> float:
            found = [_reached(way, means, reference) for way in of_ways]
            reached = [value for value in found if math.isfinite(value)]
            return min(reached) if reached else max(found, key=math.isnan)

        used = {name for way in of_ways for name in way}
        cells = {each.name: each.cells for way in ways.values() for each in way}
        least, most = (
            pick(choose(way.values()) for way in of_ways)
            for pick, choose in ((max, min), (min, max))
        )
        yield _asked(
            evidence,
            settings,
            subject,
            statistic,
            {**_only(cells, sorted(used)), reference.name: reference.cells},
            (least, most),
            "in some draws at least, none reaches it, and one of them was run only with more than "
            "the reconstruction or was made worse by more: less may do",
        )


def window_spread(evidence: Evidence, settings: Settings) -> Asked:
    """How far apart some `windows` are, as a share of what the best of them gains. All of them have
    to be there, and no others count.
    """
    for cells, rows in _windows(evidence):
        place = _place(cells[NONE][0])
        chosen = [row for row in rows if row["window"] in settings["windows"]]
        if absent := _absent_windows(chosen, settings["windows"]):
            yield Absent(place, absent)
            continue
        names = [row["adaptation"] for row in chosen]

        def statistic(means: Means, names: Sequence[str] = names) -> float:
            losses = [means[name] for name in names]
            return _divided(max(losses) - min(losses), means[NONE] - min(losses))

        subject = f"{place}, windows {', '.join(str(row['window']) for row in chosen)}"
        yield _asked(evidence, settings, subject, statistic, _only(cells, [NONE, *names]))


def matrix_penalty(evidence: Evidence, settings: Settings) -> Asked:
    """By how much windows of single matrices are worse than the worst of some `windows`, as a share
    of what the best of these gains. `exact`: solved for, or trained. All of them have to be there,
    and no others count.
    """
    for cells, rows in _windows(evidence):
        place = _place(cells[NONE][0])
        others = [row for row in rows if row["window"] in settings["windows"]]
        of_matrix = [
            row["adaptation"]
            for row in rows
            if row["window"] == MATRIX and bool(row["exact"]) == settings["exact"]
        ]
        absent = _absent_windows(others, settings["windows"])
        if absent or not of_matrix:
            yield Absent(place, absent or "there is no such window of a matrix")
            continue
        names = [row["adaptation"] for row in others]

        def statistic(
            means: Means, name: str = of_matrix[0], names: Sequence[str] = names
        ) -> float:
            losses = [means[other] for other in names]
            return _divided(means[name] - max(losses), means[NONE] - min(losses))

        used = _only(cells, [NONE, of_matrix[0], *names])
        yield _asked(evidence, settings, f"{place}, {of_matrix[0]}", statistic, used)


def halves_missed(evidence: Evidence, settings: Settings) -> Asked:
    """What the window of half a block gains less than the best of it and some `windows`, as a share
    of the best's gain. All of them have to be there, and no others count.
    """
    for cells, rows in _windows(evidence):
        place = _place(cells[NONE][0])
        wanted = [HALVES, *settings["windows"]]
        if absent := _absent_windows(rows, wanted):
            yield Absent(place, absent)
            continue
        names = [row["adaptation"] for row in rows if row["window"] in wanted]
        half = next(row["adaptation"] for row in rows if row["window"] == HALVES)

        def statistic(means: Means, half: str = half, names: Sequence[str] = names) -> float:
            best = min(means[name] for name in names)
            return _divided(means[half] - best, means[NONE] - best)

        used = _only(cells, [NONE, *names])
        yield _asked(evidence, settings, f"{place}, {half}", statistic, used)


def halves_memory(evidence: Evidence, settings: Settings) -> Asked:
    """Peak resident memory of the job that adapts halves of a block, its libraries included,
    divided by the least of some `windows`, which all have to be there.
    """
    for cells, rows in _windows(evidence):
        place = _place(cells[NONE][0])
        if absent := _absent_windows(rows, [HALVES, *settings["windows"]]):
            yield Absent(place, absent)
            continue
        others = [row for row in rows if row["window"] in settings["windows"]]
        half = next(row for row in rows if row["window"] == HALVES)
        least = min(row["adaptation_peak_bytes"] for row in others)
        used = [cell for row in (half, *others) for cell in cells[row["adaptation"]]]
        times = half["adaptation_peak_bytes"] / least
        yield Measurement(f"{place}, {half['adaptation']}", _constant(times), [], used)


def gap_left(evidence: Evidence, settings: Settings) -> Asked:
    """The gap in loss between the worst and the best of some `criteria` with the reconstruction,
    divided by that without it. All of them have to be there, and no others count.
    """
    for criteria, name in _criteria(evidence, settings["metric"]):
        yield _gap_left(evidence, settings, criteria, name)


def gap_left_by_size(evidence: Evidence, settings: Settings) -> Asked:
    """How much more of that gap is left in a model than in the next smaller one."""
    sizes = _sizes(evidence)
    by_pattern: dict[str, list[Measurement]] = {}
    for criteria, name in _criteria(evidence, settings["metric"]):
        found = _gap_left(evidence, settings, criteria, name)
        if isinstance(found, Measurement):
            by_pattern.setdefault(found.cells[0].pattern, []).append(found)
    several = {pattern: each for pattern, each in by_pattern.items() if len(each) > 1}
    if not several:
        yield Absent(
            "models of different sizes",
            "this study does not compare these criteria on models of several sizes",
        )
    for pattern, of_models in several.items():
        ordered = sorted(of_models, key=lambda each: sizes[each.cells[0].model])
        for small, large in pairwise(ordered):

            def statistic(
                means: Means, small: Measurement = small, large: Measurement = large
            ) -> float:
                return large.statistic(means) - small.statistic(means)

            yield Measurement(
                f"{pattern}: {large.subject} minus {small.subject}",
                statistic,
                [*small.samples, *large.samples],
                [*small.cells, *large.cells],
            )


def perplexity_apart(evidence: Evidence, settings: Settings) -> Asked:
    """How far apart the perplexities of two `criteria` are with the reconstruction, in models whose
    dense perplexity is at most `dense_at_most`: differences do not carry over to other levels.
    """
    one, other = settings["criteria"]
    for criteria, name in _criteria(evidence, settings["metric"]):
        if one not in criteria or other not in criteria:
            continue
        cells = {criterion: criteria[criterion][1] for criterion in (one, other)}
        model = cells[one][0].model
        subject = f"{model}, {cells[one][0].pattern}, {name}: {one} and {other}"
        metrics = evidence.records[Cell.dense(model)]["metrics"]["perplexity"]
        dense, most = metrics["perplexity"], settings["dense_at_most"]
        if dense is None or dense > most:
            found = "not finite" if dense is None else f"{dense:.1f}"
            yield Absent(subject, f"the dense perplexity is {found}, not at most {most}")
            continue

        def statistic(means: Means) -> float:
            return abs(exp(means[one]) - exp(means[other]))

        yield _asked(evidence, settings, subject, statistic, cells)


def planned_memory(evidence: Evidence, settings: Settings) -> Asked:
    """Peak memory of the job of an `adaptation` in another `study`, which does not have to be run,
    as the plan predicts it.
    """
    plan = Plan.of(Study.load(ROOT / settings["study"]))
    name = settings["adaptation"]
    if name not in plan.study.config["adaptations"]:
        raise UserError(
            "a claim names an adaptation that its study does not have",
            where=settings["study"],
            found=name,
            expected=nearest(name, plan.study.config["adaptations"]),
            todo="correct the claim",
        )
    for cell in plan.study.cells:
        cost = None
        if cell.adaptation == name:
            job = (cell.model, cell.criterion, name, cell.pattern)
            cost = plan.step(RECONSTRUCT_WINDOW, *job)
        if cost is not None:
            gigabytes = cost.memory_bytes / 1e9
            yield Measurement(
                f"{cell.model}, {name}",
                _constant(gigabytes),
                [],
                [],
                command=f"make plan STUDY={settings['study']}",
            )


MEASURES: dict[str, Measure] = {
    measure.__name__: measure
    for measure in (
        *(gain, recovery, recovery_at_size, budget_ratio),
        *(window_spread, matrix_penalty, halves_missed, halves_memory),
        *(gap_left, gap_left_by_size, perplexity_apart, planned_memory),
    )
}
_WINDOWS = {
    "type": "array",
    "minItems": 1,
    "uniqueItems": True,
    "items": {"anyOf": [{"enum": [MATRIX, HALVES, ALL]}, {"type": "integer", "minimum": 1}]},
}
_NAMES = {"type": "array", "minItems": 2, "uniqueItems": True, "items": {"type": "string"}}
# What each has to be given, as JSON Schemas.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "recovery": {"criteria": {**_NAMES, "minItems": 1}},
    "recovery_at_size": {
        "parameters": {"type": "integer", "minimum": 1},
        "criteria": {**_NAMES, "minItems": 1},
    },
    "budget_ratio": {
        "unit": {"enum": list(UNITS)},
        "methods": {"type": "array", "minItems": 1, "items": {"enum": list(METHODS)}},
        "apart": {"type": "number", "exclusiveMinimum": 1},
    },
    "window_spread": {"windows": {**_WINDOWS, "minItems": 2}},
    "matrix_penalty": {"exact": {"type": "boolean"}, "windows": _WINDOWS},
    "halves_missed": {"windows": _WINDOWS},
    "halves_memory": {"windows": _WINDOWS},
    "gap_left": {"criteria": _NAMES},
    "gap_left_by_size": {"criteria": _NAMES},
    "perplexity_apart": {
        "criteria": {**_NAMES, "maxItems": 2},
        "dense_at_most": {"type": "number", "exclusiveMinimum": 0},
    },
    "planned_memory": {"study": {"type": "string"}, "adaptation": {"type": "string"}},
}
# The metrics whose losses each can compare, if not all; those of memory compare none.
_METRICS: dict[str, tuple[str, ...]] = {
    "perplexity_apart": (PERPLEXITY,),
    "halves_memory": (),
    "planned_memory": (),
}
# How the numbers of a measure are written; the others are shares.
_UNITS = {
    "budget_ratio": "times",
    "halves_memory": "times",
    "perplexity_apart": "perplexity",
    "planned_memory": "GB",
}
# The rule that a measure's numbers come from, where that is not the evaluation of its cells.
REPEATED_BY = {"halves_memory": RECONSTRUCT_WINDOW}


def metrics_of(measure: str) -> tuple[str, ...]:
    """Return the metrics whose losses a measure can compare; none if it compares memory."""
    return _METRICS.get(measure, METRICS)


def unit_of(measure: str, metric: str | None) -> str:
    """Return how the numbers of a measure are written."""
    if measure == "gain":
        return "points" if metric == ACCURACY else "nats"
    return _UNITS.get(measure, "share")


def _constant(value: float) -> Statistic:
    return lambda _: value


def _without_gaps(way: Mapping[str, float], apart: float) -> dict[str, float]:
    """Return the budgets of a way of retraining up to the first step that is too large."""
    found: dict[str, float] = {}
    last = math.inf
    for name, amount in way.items():
        if found and amount > apart * last:
            break
        found[name] = last = amount
    return found


def _reached(way: Mapping[str, float], means: Means, reference: str) -> float:
    """Return the budget with which a way of retraining reaches the reconstruction: infinity if more
    than all that were run, NaN if that cannot be said.
    """
    budgets, excess = list(way.values()), [means[name] - means[reference] for name in way]
    reached = reached_at(budgets, excess)
    made_worse = len(excess) > 1 and excess[-1] > excess[-2]
    unknown = math.isinf(reached) and (budgets[0] > 1 or made_worse)
    return math.nan if unknown else reached


def _gap_left(
    evidence: Evidence,
    settings: Settings,
    criteria: Mapping[str, tuple[Sequence[Cell], Sequence[Cell]]],
    name: str,
) -> Measurement | Absent:
    one = next(iter(criteria.values()))[0][0]
    subject = f"{one.model}, {one.pattern}, {name}"
    if missing := [it for it in settings["criteria"] if it not in criteria]:
        return Absent(subject, f"there are no cells of {', '.join(missing)}")
    # Names of one model have to differ from those of another.
    names = {
        it: [f"{one.model} {it} {adaptation}" for adaptation in (NONE, name)]
        for it in settings["criteria"]
    }
    cells = {names[it][at]: criteria[it][at] for it in names for at in (0, 1)}

    def statistic(means: Means) -> float:
        before, after = ([means[each[at]] for each in names.values()] for at in (0, 1))
        return _divided(max(after) - min(after), max(before) - min(before))

    return _asked(evidence, settings, subject, statistic, cells)


def _asked(
    evidence: Evidence,
    settings: Settings,
    subject: str,
    statistic: Statistic,
    cells: Cells,
    bounds: tuple[float, float] = UNBOUNDED,
    undefined: str = UNDEFINED,
) -> Measurement | Absent:
    """Return what is asked of cells of one model."""
    sample = evidence.sample(cells, settings["metric"])
    if sample is None:
        return Absent(subject, f"{settings['metric']} was not measured on all of these cells")
    used = dict.fromkeys(cell for of_seeds in cells.values() for cell in of_seeds)
    return Measurement(subject, statistic, [sample], list(used), bounds, undefined)


def _reconstructed(evidence: Evidence, metric: str) -> Iterator[tuple[Cells, str]]:
    """Yield, of each pruned model, the dense, the pruned and the reconstructed cells, and what the
    reconstruction is called: the one that other budgets are multiples of, or the first.

    Of the seeds that were measured; of all, where none was.
    """
    for by_name in evidence.pruned:
        name = next((it for it in evidence.study.references if it in by_name), None)
        if name is not None and (seeds := sorted(by_name.get(NONE, {}).keys() & by_name[name])):
            measured = [
                seed
                for seed in seeds
                if all(evidence.measures(by_name[it][seed], metric) for it in (NONE, name))
            ]
            seeds = measured or seeds
            cells = {it: [by_name[it][seed] for seed in seeds] for it in (NONE, name)}
            # The dense model is the same whatever the seed.
            cells[DENSE] = [Cell.dense(cells[NONE][0].model)] * len(seeds)
            yield cells, name


def _windows(evidence: Evidence) -> Iterator[tuple[Cells, list[Mapping[str, Any]]]]:
    """Yield, of each pruned model, the cells of the adaptations that are compared by their window,
    those without, and the adaptations' rows.

    With dense inputs and targets. What was chosen on the evaluation text is left out.
    """
    for by_name in evidence.pruned:
        rows = [
            row
            for row in evidence.windows
            if any(_place(cell) == _place_of(row) for cell in by_name.get(NONE, {}).values())
            and (row["inputs"], row["targets"]) == ("dense", "dense")
            and row["selected_on"] != "evaluation"
        ]
        names = [NONE, *(row["adaptation"] for row in rows)]
        if rows and (seeds := sorted(set.intersection(*(set(by_name[name]) for name in names)))):
            yield {name: [by_name[name][seed] for seed in seeds] for name in names}, rows


def _by_criterion(evidence: Evidence, metric: str) -> dict[tuple[str, str, str], dict[str, Cells]]:
    """Return what `_reconstructed` yields, by model, pattern and reconstruction, then criterion."""
    found: dict[tuple[str, str, str], dict[str, Cells]] = {}
    for cells, name in _reconstructed(evidence, metric):
        one = cells[NONE][0]
        found.setdefault((one.model, one.pattern, name), {})[one.criterion] = cells
    return found


def _criteria(
    evidence: Evidence, metric: str
) -> Iterator[tuple[dict[str, tuple[list[Cell], list[Cell]]], str]]:
    """Yield, of each model and pattern, the cells of each criterion without and with the
    reconstruction, by the seeds that all of them have, and what it is called.
    """
    for (*_, name), criteria in _by_criterion(evidence, metric).items():
        seeds = set.intersection(*({it.seed for it in of[name]} for of in criteria.values()))
        if len(criteria) > 1 and seeds:

            def kept(of_seeds: Sequence[Cell], seeds: set[int] = seeds) -> list[Cell]:
                return [cell for cell in of_seeds if cell.seed in seeds]

            yield {it: (kept(of[NONE]), kept(of[name])) for it, of in criteria.items()}, name


def _absent_windows(rows: Sequence[Mapping[str, Any]], wanted: Sequence[Any]) -> str | None:
    """Return which windows are not there, in words; None if all are."""
    there = [row["window"] for row in rows]
    missing = [str(window) for window in wanted if window not in there]
    return f"windows that were not run: {', '.join(missing)}" if missing else None


def _sizes(evidence: Evidence) -> dict[str, int]:
    """Return how many parameters each model has."""
    return {
        cell.model: record["identity"]["parameters"]
        for cell, record in evidence.records.items()
        if cell.is_dense
    }


def _only(cells: Cells, names: Sequence[str]) -> Cells:
    return {name: cells[name] for name in names}


def _place(cell: Cell) -> str:
    return f"{cell.model}, {cell.criterion}, {cell.pattern}"


def _place_of(row: Mapping[str, Any]) -> str:
    return f"{row['model']}, {row['criterion']}, {row['pattern']}"


def _divided(value: float, by: float) -> float:
    return value / by if by > 0 else math.nan
