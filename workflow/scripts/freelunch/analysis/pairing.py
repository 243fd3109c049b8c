"""Compare cells by their records: window by window, and over seeds.

Cells of a model are measured on the same windows, so their losses are compared window by window.
The error of such a difference is far smaller than the errors of the two losses.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from heapq import heapreplace
from statistics import fmean, stdev
from typing import Any

from freelunch.core.errors import UserError, run_again
from freelunch.records.record import AdaptationFacts, CostFacts
from freelunch.records.record import Records as Records
from freelunch.study.cell import Cell
from freelunch.study.steps import EVALUATE_CELL

# A line of a table, by column. None is an empty field, NaN a number that is not finite.
Row = dict[str, Any]
Rows = Sequence[Row]
# What was measured with each seed on each unit of a text: (seeds, units).
Measured = Sequence[Sequence[float]]
# Seeds from which more can be said than what holds for these samples and orders.
ENOUGH_SEEDS = 3


def seed_groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Return the cells that differ in their seed alone, model by model, the dense cell first."""
    groups: dict[str, dict[Cell, list[Cell]]] = {}
    for cell in sorted(cells, key=lambda cell: not cell.is_dense):
        groups.setdefault(cell.model, {}).setdefault(replace(cell, seed=0), []).append(cell)
    return [of_seeds for of_model in groups.values() for of_seeds in of_model.values()]


def pruned_models(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Return the cells of each pruned model, with all adaptations and seeds."""
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        if cell.is_pruned:
            groups.setdefault((cell.model, cell.criterion, cell.pattern), []).append(cell)
    return list(groups.values())


def by_adaptation(cells: Iterable[Cell]) -> dict[str, dict[int, Cell]]:
    """Return the cells of a pruned model by adaptation, then by seed."""
    by_name: dict[str, dict[int, Cell]] = {}
    for cell in cells:
        by_name.setdefault(cell.adaptation, {})[cell.seed] = cell
    return by_name


def window_means(seeds: Measured) -> list[float]:
    """Return what was measured on each window, averaged over seeds."""
    return [fmean(window) for window in zip(*seeds, strict=True)]


def paired_losses(cell: Cell, records: Records) -> tuple[list[float], list[float]]:
    """Return the losses of a cell and of its dense model on each window, nats per token, NaN where
    not finite. UserError: the two were measured on different tokens.
    """
    cells = cell, Cell.dense(cell.model)
    metrics, dense_metrics = (records[one]["metrics"]["perplexity"] for one in cells)
    for key in ("token_ids_sha256", "length", "stride"):
        check_alike(cell, key, metrics[key], dense_metrics[key])
    return unit_losses(metrics), unit_losses(dense_metrics)


def check_alike(cell: Cell, what: str, own: object, dense: object) -> None:
    """Raise UserError if a cell was measured on something else than its dense model."""
    if own != dense:
        raise UserError(
            "this cell and its dense model were measured on different tokens or documents",
            where=cell.record_name,
            found=f"{what} = {own}",
            expected=f"{what} = {dense}, as in {Cell.dense(cell.model).record_name}",
            todo=run_again(EVALUATE_CELL),
        )


def loss_differences(
    one: Mapping[int, Cell], other: Mapping[int, Cell], seeds: Iterable[int], records: Records
) -> list[list[float]]:
    """Return the losses of some cells minus those of others, each by seed: (seeds, units)."""
    pairs = (
        (paired_losses(one[seed], records)[0], paired_losses(other[seed], records)[0])
        for seed in seeds
    )
    return [[loss - other_loss for loss, other_loss in zip(*pair, strict=True)] for pair in pairs]


def measured_perplexity(record: Mapping[str, Any]) -> tuple[float, float, list[float]]:
    """Return a perplexity, its standard error, and the loss of each independent unit."""
    metrics = record["metrics"]["perplexity"]
    value, losses = number(metrics["perplexity"]), unit_losses(metrics)
    return value, value * standard_error(losses), losses


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; NaN if a value is not finite or there is only one."""
    return _deviation(values) / math.sqrt(len(values))


def paired_difference(
    losses: Sequence[float], other_losses: Sequence[float]
) -> tuple[float, float]:
    """Return the mean over windows of loss minus other loss, and its standard error."""
    differences = [loss - other for loss, other in zip(losses, other_losses, strict=True)]
    return fmean(differences), standard_error(differences)


def mean_over_seeds(
    seeds: Sequence[tuple[float, float, Sequence[float]]],
) -> tuple[float, float, float | None]:
    """Average over seeds a quantity exp(mean over windows of x), given with its standard error over
    windows and x of each window. Return the mean, its standard error over windows, and the
    standard deviation over seeds (None for one seed); NaN if one of the seeds is not finite.

    Seeds share the windows of the text, so their errors over windows do not average out. To first
    order the mean over seeds changes with window w by the mean over seeds s of exp(mean x_s) x_sw.
    """
    if len(seeds) == 1:
        return seeds[0][0], seeds[0][1], None
    levels = [level for level, _, _ in seeds]
    windows = zip(*(xs for _, _, xs in seeds), strict=True)
    moves = [fmean(level * x for level, x in zip(levels, xs, strict=True)) for xs in windows]
    return fmean(levels), standard_error(moves), spread_over_seeds(levels)


def perplexity_over_seeds(
    cells: Iterable[Cell], records: Records
) -> tuple[float, float, float | None]:
    """Return the perplexity of cells that differ in their seed, as `mean_over_seeds` does."""
    return mean_over_seeds([measured_perplexity(records[cell]) for cell in cells])


def over_units_and_seeds(measured: Measured) -> tuple[float, float, float | None]:
    """Return the mean, its standard error over units and its standard deviation over seeds."""
    of_units = window_means(measured)
    spread = spread_over_seeds([fmean(of_seed) for of_seed in measured])
    return fmean(of_units), standard_error(of_units), spread


def with_errors(name: str, *numbers: float | None) -> Row:
    """Return the columns of a number: itself, its standard error and, if given, its spread."""
    return dict(zip(error_columns(name), numbers, strict=False))


def error_columns(name: str) -> tuple[str, str, str]:
    """Return the names of the columns of a number, its standard error and its spread over seeds."""
    return name, f"{name}_standard_error", f"{name}_standard_deviation_over_seeds"


def spread_over_seeds(values: Sequence[float]) -> float | None:
    """Return the standard deviation; None for one seed, NaN if one is not finite."""
    return _deviation(values) if len(values) > 1 else None


def operations(cost: CostFacts) -> float:
    """Return the operations of an adaptation, those of the dense pass for its targets included."""
    return float(cost["flops"] + cost.get("dense_flops", 0))


def selected_on(facts: AdaptationFacts) -> str | None:
    """Return the text on which the settings of an adaptation were chosen; None without a search."""
    return facts["choice"]["selected_on"] if facts["choice"] else None


def number(value: float | None) -> float:
    """Return a number of a record, NaN for null: JSON has no NaN."""
    return math.nan if value is None else value


def exp(value: float) -> float:
    """Return e to a power; NaN where that is too large for a float."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.nan


def unit_losses(metrics: Mapping[str, Any]) -> list[float]:
    """Return the loss of each independent unit of a text, NaN where it is not finite. Windows of
    joined documents, and sequences that were drawn at random, are units of their own.

    Windows of one document are not independent, so that a document is a unit; small documents may
    share one (`_units`). The value of a unit is the mean loss of all windows, plus its own
    deviation from it, weighted by its windows: the mean over units is the mean over windows, and
    the error of that mean is clustered by document (to first order, as of a ratio).
    """
    losses = [number(loss) for loss in metrics["window_losses"]]
    documents = metrics.get("documents")
    if documents is None:
        return losses
    mean, unit_of = fmean(losses), _units(documents)
    deviations = dict.fromkeys(unit_of.values(), 0.0)
    for document, loss in zip(documents, losses, strict=True):
        deviations[unit_of[document]] += loss - mean
    share = len(deviations) / len(losses)
    return [mean + share * deviation for deviation in deviations.values()]


def _units(documents: Sequence[int]) -> dict[int, int]:
    """Return the unit of each document.

    Intervals take units to weigh about as much as each other: with one long document among 48, an
    interval over documents would contain the truth in 68 % of studies instead of 95 %. So there are
    as many units as equally long documents that would give the same error, and each document, the
    longest first, goes to the unit with the fewest windows. That number is rounded up from three
    quarters on: nine windows of two documents are two units, not one without an error.
    """
    windows = Counter(documents)
    squares = sum(count**2 for count in windows.values())
    alike = (4 * len(documents) ** 2 + squares) // (4 * squares)
    # The smallest unit comes first.
    units = [(0, unit) for unit in range(alike)]
    unit_of = dict.fromkeys(windows, 0)
    for document, count in windows.most_common():
        size, unit = units[0]
        unit_of[document] = unit
        heapreplace(units, (size + count, unit))
    return unit_of


def _deviation(values: Sequence[float]) -> float:
    # `stdev` raises on NaN, and on a single value.
    known = len(values) > 1 and all(math.isfinite(value) for value in values)
    return stdev(values) if known else math.nan
