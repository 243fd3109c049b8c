"""What claims come down to: a number of each pruned model, from mean losses alone.

A measure finds the cells that it compares and says which statistic of their mean losses is asked;
`freelunch.audit.bootstrap` then has the number and its interval. Losses are in the metric that the
claim names: nats a token, or the share of wrong answers. What a measure is, its docstring says to
the reader of the audit, too.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from freelunch.audit.bootstrap import Means, Sample, Statistic
from freelunch.audit.evidence import Evidence
from freelunch.audit.verdicts import UNBOUNDED
from freelunch.budgets import reached_at
from freelunch.cell import NONE, Cell
from freelunch.comparison import exp
from freelunch.windows import HALVES, MATRIX

DENSE = "dense"


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
    """

    subject: str
    statistic: Statistic
    samples: Sequence[Sample]
    cells: Sequence[Cell]
    bounds: tuple[float, float] = UNBOUNDED


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
    """Of the loss that pruning costs, the share that the reconstruction gives back."""
    for cells, name in _reconstructed(evidence):
        place = _place(cells[NONE][0])

        def statistic(means: Means, name: str = name) -> float:
            return _divided(means[NONE] - means[name], means[NONE] - means[DENSE])

        yield _asked(evidence, settings, f"{place}, {name}", statistic, cells)


def recovery_at_size(evidence: Evidence, settings: Settings) -> Asked:
    """Of the loss that pruning costs, the share that the reconstruction gives back, in models with
    at least so many `parameters`.
    """
    sizes = _sizes(evidence)
    large = {model for model, size in sizes.items() if size >= settings["parameters"]}
    asked = [
        each for each in recovery(evidence, settings) if each.subject.partition(",")[0] in large
    ]
    if not asked:
        yield Absent(
            f"models of {settings['parameters']:,} parameters or more",
            f"the largest model of this study has {max(sizes.values()):,}",
        )
    yield from asked


def budget_ratio(evidence: Evidence, settings: Settings) -> Asked:
    """The smallest budget of a retraining that reaches the reconstruction, divided by the
    reconstruction's own, in `unit`. Between budgets that were run, the loss is taken to be straight
    over the logarithm of the budget; where the smallest reaches it, the number is at most that, and
    where none does, more than the largest.
    """
    unit = settings["unit"]
    for comparison in evidence.comparisons:
        reference = comparison.reference
        for series, members in comparison.series.items():
            if series == reference.series:
                continue
            amounts = [getattr(each, unit) / getattr(reference, unit) for each in members]

            def statistic(
                means: Means,
                amounts: Sequence[float] = amounts,
                names: Sequence[str] = [each.name for each in members],
                reference: str = reference.name,
            ) -> float:
                return reached_at(amounts, [means[name] - means[reference] for name in names])

            place = _place(reference.cells[0])
            yield _asked(
                evidence,
                settings,
                f"{place}, {series} against {reference.name}",
                statistic,
                {each.name: each.cells for each in (*members, reference)},
                (amounts[0], amounts[-1]),
            )


def window_spread(evidence: Evidence, settings: Settings) -> Asked:
    """How far apart the windows that hold a non-linear module are, as a share of what the best of
    them gains.
    """
    for cells, rows in _windows(evidence):
        names = [row["adaptation"] for row in rows if row["window"] != MATRIX]
        if len(names) < 2:
            continue

        def statistic(means: Means, names: Sequence[str] = names) -> float:
            losses = [means[name] for name in names]
            return _divided(max(losses) - min(losses), means[NONE] - min(losses))

        subject = f"{_place(cells[NONE][0])}, {len(names)} windows"
        yield _asked(evidence, settings, subject, statistic, _only(cells, [NONE, *names]))


def matrix_penalty(evidence: Evidence, settings: Settings) -> Asked:
    """By how much windows of single matrices are worse than the worst other window, as a share of
    what the best of those gains. `exact`: solved for, or trained.
    """
    for cells, rows in _windows(evidence):
        others = [row["adaptation"] for row in rows if row["window"] != MATRIX]
        for row in rows:
            if row["window"] != MATRIX or bool(row["exact"]) != settings["exact"] or not others:
                continue

            def statistic(
                means: Means, name: str = row["adaptation"], others: Sequence[str] = others
            ) -> float:
                losses = [means[other] for other in others]
                return _divided(means[name] - max(losses), means[NONE] - min(losses))

            subject = f"{_place(cells[NONE][0])}, {row['adaptation']}"
            names = [NONE, row["adaptation"], *others]
            yield _asked(evidence, settings, subject, statistic, _only(cells, names))


def halves_missed(evidence: Evidence, settings: Settings) -> Asked:
    """What the window of half a block gains less than the best window, as a share of the best's
    gain.
    """
    for cells, rows in _windows(evidence):
        names = [row["adaptation"] for row in rows]
        for row in rows:
            if row["window"] != HALVES or len(names) < 2:
                continue

            def statistic(
                means: Means, name: str = row["adaptation"], names: Sequence[str] = names
            ) -> float:
                best = min(means[other] for other in names)
                return _divided(means[name] - best, means[NONE] - best)

            subject = f"{_place(cells[NONE][0])}, {row['adaptation']}"
            yield _asked(evidence, settings, subject, statistic, _only(cells, [NONE, *names]))


def halves_memory(evidence: Evidence, settings: Settings) -> Asked:
    """Peak memory of the job that adapts halves of a block, divided by that of the smallest."""
    for cells, rows in _windows(evidence):
        least = min(row["adaptation_peak_bytes"] for row in rows)
        for row in rows:
            if row["window"] == HALVES and len(rows) > 1:
                times = row["adaptation_peak_bytes"] / least
                subject = f"{_place(cells[NONE][0])}, {row['adaptation']}"
                names = [each["adaptation"] for each in rows]
                yield _asked(
                    evidence,
                    settings,
                    subject,
                    lambda _, times=times: times,  # type: ignore[misc]
                    _only(cells, names),
                )


def gap_left(evidence: Evidence, settings: Settings) -> Asked:
    """The gap between the worst and the best criterion with the reconstruction, divided by that
    without it. `without_worst`: not counting the criterion that is worst without it.
    """
    for criteria, name in _criteria(evidence):
        yield _gap_left(evidence, settings, criteria, name)


def gap_left_by_size(evidence: Evidence, settings: Settings) -> Asked:
    """How much more of that gap is left in a model than in the next smaller one."""
    sizes = _sizes(evidence)
    by_pattern: dict[str, list[Measurement]] = {}
    for criteria, name in _criteria(evidence):
        found = _gap_left(evidence, settings, criteria, name)
        if isinstance(found, Measurement):
            by_pattern.setdefault(found.cells[0].pattern, []).append(found)
    several = {pattern: each for pattern, each in by_pattern.items() if len(each) > 1}
    if not several:
        yield Absent("models of different sizes", "this study compares criteria on one model only")
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
    """How far apart the perplexities of two `criteria` are with the reconstruction."""
    one, other = settings["criteria"]
    for criteria, name in _criteria(evidence):
        if one not in criteria or other not in criteria:
            continue
        cells = {criterion: criteria[criterion][1] for criterion in (one, other)}

        def statistic(means: Means) -> float:
            return abs(exp(means[one]) - exp(means[other]))

        place = f"{cells[one][0].model}, {cells[one][0].pattern}"
        subject = f"{place}, {name}: {one} and {other}"
        yield _asked(evidence, settings, subject, statistic, cells)


MEASURES: dict[str, Measure] = {
    measure.__name__: measure
    for measure in (
        *(recovery, recovery_at_size, budget_ratio),
        *(window_spread, matrix_penalty, halves_missed, halves_memory),
        *(gap_left, gap_left_by_size, perplexity_apart),
    )
}
# How the numbers of a measure are written; the others are shares.
UNITS = {
    "budget_ratio": "times",
    "halves_memory": "times",
    "perplexity_apart": "perplexity",
}


def _gap_left(
    evidence: Evidence,
    settings: Settings,
    criteria: Mapping[str, tuple[Sequence[Cell], Sequence[Cell]]],
    name: str,
) -> Measurement | Absent:
    one = next(iter(criteria.values()))[0][0]
    subject = f"{one.model}, {one.pattern}, {name}"
    # Names of one model have to differ from those of another.
    names = {
        it: tuple(f"{one.model} {it} {adaptation}" for adaptation in (NONE, name))
        for it in criteria
    }
    cells = {names[it][at]: of[at] for it, of in criteria.items() for at in (0, 1)}
    sample = evidence.sample(cells, settings["metric"])
    if sample is None:
        return Absent(subject, f"{settings['metric']} was not measured")
    counted = list(criteria)
    if settings["without_worst"]:
        means = sample.means()
        worst = max(counted, key=lambda it: (math.isnan(means[names[it][0]]), means[names[it][0]]))
        counted.remove(worst)
        subject += f", without {worst}"
    if len(counted) < 2:
        return Absent(subject, "there are no two criteria to compare")

    def statistic(means: Means) -> float:
        before, after = ([means[names[it][at]] for it in counted] for at in (0, 1))
        return _divided(max(after) - min(after), max(before) - min(before))

    used = [cell for it in counted for of in criteria[it] for cell in of]
    return Measurement(subject, statistic, [sample], used)


def _asked(
    evidence: Evidence,
    settings: Settings,
    subject: str,
    statistic: Statistic,
    cells: Cells,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Measurement | Absent:
    """Return what is asked of cells of one model."""
    sample = evidence.sample(cells, settings["metric"])
    if sample is None:
        return Absent(subject, f"{settings['metric']} was not measured on all of these cells")
    used = dict.fromkeys(cell for of_seeds in cells.values() for cell in of_seeds)
    return Measurement(subject, statistic, [sample], list(used), bounds)


def _reconstructed(evidence: Evidence) -> Iterator[tuple[Cells, str]]:
    """Yield, of each pruned model, the dense, the pruned and the reconstructed cells, and what the
    reconstruction is called: the one that other budgets are multiples of, or the first.
    """
    for by_name in evidence.pruned:
        name = next((it for it in evidence.study.references if it in by_name), None)
        if name is not None and (seeds := sorted(by_name.get(NONE, {}).keys() & by_name[name])):
            cells = {it: [by_name[it][seed] for seed in seeds] for it in (NONE, name)}
            # The dense model is the same whatever the seed.
            cells[DENSE] = [Cell.dense(cells[NONE][0].model)] * len(seeds)
            yield cells, name


def _windows(evidence: Evidence) -> Iterator[tuple[Cells, list[Mapping[str, Any]]]]:
    """Yield, of each pruned model, the cells of the adaptations that differ in their window alone,
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


def _criteria(
    evidence: Evidence,
) -> Iterator[tuple[dict[str, tuple[list[Cell], list[Cell]]], str]]:
    """Yield, of each model and pattern, the cells of each criterion without and with the
    reconstruction, by the seeds that all of them have, and what it is called.
    """
    found: dict[tuple[str, str, str], dict[str, Cells]] = {}
    for cells, name in _reconstructed(evidence):
        one = cells[NONE][0]
        found.setdefault((one.model, one.pattern, name), {})[one.criterion] = cells
    for (*_, name), criteria in found.items():
        seeds = set.intersection(*({it.seed for it in of[name]} for of in criteria.values()))
        if len(criteria) > 1 and seeds:

            def kept(of_seeds: Sequence[Cell], seeds: set[int] = seeds) -> list[Cell]:
                return [cell for cell in of_seeds if cell.seed in seeds]

            yield {it: (kept(of[NONE]), kept(of[name])) for it, of in criteria.items()}, name


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
