"""One row for each cell of a study, and one for all seeds of a cell.

Each number comes with its uncertainty: the standard error over the windows of the text and, if
there are several seeds, the standard deviation over them.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from freelunch.analysis.pairing import (
    Records,
    Row,
    Rows,
    exp,
    mean_over_seeds,
    measured_perplexity,
    number,
    operations,
    paired_difference,
    paired_losses,
    seed_groups,
)
from freelunch.reporting.metrics import METRIC_COLUMNS, METRICS
from freelunch.study import steps
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.search import SEARCHED, chosen_of

SUMMARY_COLUMNS = (
    *("model", "criterion", "pattern", "adaptation", "seed"),
    *("perplexity", "perplexity_standard_error", "loss", "loss_standard_error"),
    *("loss_minus_dense", "loss_minus_dense_standard_error", "perplexity_over_dense"),
    *METRIC_COLUMNS,
    *("sparsity", "zeros", "weights", "windows", "window_length", "window_stride"),
    *("parameters", "nonzero_parameters", "stored_bytes"),
    *("tokens_per_second", "tokens_per_second_over_dense"),
    *("adaptation_tokens", "adaptation_flops", "adaptation_wall_s", "adaptation_peak_bytes"),
    *("adaptation_distinct_tokens", "adaptation_steps", "trained_parameters", "adaptation_cpu_s"),
    *("adaptation_window", "adaptation_windows", "adaptation_windows_kept_pruned"),
    *("selected_on", "learning_rate", "epochs", "search_flops", "search_wall_s"),
    *("calibration_wall_s", "pruning_wall_s", "evaluation_wall_s"),
    *("checkpoint_sha256", "record"),
)
CRITERIA_COLUMNS = (
    *("criterion", "pattern", "model", "adaptation", "seeds"),
    *("perplexity", "perplexity_standard_error", "perplexity_standard_deviation_over_seeds"),
)
# As `Study.budgets_of_criteria` has them.
BudgetsOfCriteria = Mapping[tuple[str, str], Sequence[Sequence[str]]]
CRITERIA_BUDGET_COLUMNS = (*CRITERIA_COLUMNS, "series", "tokens")
# The steps whose costs each part of the summary adds up.
ADAPTATION = (steps.RECONSTRUCT_WINDOW, steps.RETRAIN_MODEL)
SEARCH = (steps.SEARCH,)
CALIBRATION = (steps.SAMPLE_CALIBRATION, steps.CAPTURE_DENSE)
PRUNING = (steps.PRUNE_MODEL,)
# Records from before there was one evaluation per cell name the step that measured perplexity.
EVALUATION = (steps.EVALUATE_CELL, "evaluate_perplexity")
# How seeds become one row: columns that all seeds share, that are averaged, and that are added up.
_SHARED = (
    *("windows", "window_length", "window_stride"),
    *("parameters", "nonzero_parameters", "stored_bytes", "selected_on"),
)
_AVERAGED = (
    *("tokens_per_second_over_dense", "sparsity"),
    *("adaptation_tokens", "adaptation_flops", "adaptation_wall_s", "search_flops"),
)
_ADDED = (*("adaptation_windows", "adaptation_windows_kept_pruned", "adaptation_windows_worse"),)


def cell_rows(records: Records) -> list[Row]:
    """Return a row, with SUMMARY_COLUMNS, for each cell: model by model, the dense cell first."""
    return [_cell_row(cell, records) for cells in seed_groups(records) for cell in cells]


def means_over_seeds(records: Records) -> list[Row]:
    """Return a row for all seeds of each cell: model by model, the dense cell first.

    Costs are averaged over seeds, but memory is the largest. A standard error is over windows, a
    standard deviation over seeds (None for one seed).
    """
    return [_mean_row(cells, records) for cells in seed_groups(records)]


def criteria_rows(means: Rows, budgets: BudgetsOfCriteria) -> Rows:
    """Return the rows that compare criteria.

    These are the rows of the adaptations that several criteria have with the same model and
    pattern, and those of the dense models beside them; all rows if there is no such adaptation. Of
    adaptations that differ only in their budget, there is only the first.

    Args:
        means: As `means_over_seeds` returns them.
        budgets: As `Study.budgets_of_criteria` has them.
    """
    criteria: dict[tuple[str, str, str], set[str]] = {}
    for mean in means:
        criteria.setdefault((*_place(mean), mean["adaptation"]), set()).add(mean["criterion"])
    shared = {at for at, its in criteria.items() if len(its) > 1} or criteria.keys()
    others = {
        (*place, name)
        for place, of_place in budgets.items()
        for _, *more in of_place
        for name in more
    }
    shown = shared - others
    models = {model for model, _, _ in shown}
    return [
        mean
        for mean in means
        if (*_place(mean), mean["adaptation"]) in shown
        or (mean["criterion"] == DENSE and mean["model"] in models)
    ]


def criteria_budget_rows(means: Rows, budgets: BudgetsOfCriteria) -> Rows:
    """Return the rows, with CRITERIA_BUDGET_COLUMNS, that compare criteria budget by budget.

    These are the rows of the adaptations that differ only in their budget, those of the same models
    without adaptation, and those of the dense models. The last two have no series and no tokens. A
    series is named after its first adaptation.

    Args:
        means: As `means_over_seeds` returns them.
        budgets: As `Study.budgets_of_criteria` has them.
    """
    series = {
        (*place, name): names[0]
        for place, of_place in budgets.items()
        for names in of_place
        for name in names
    }
    models = {model for model, _ in budgets}
    return [
        {
            **mean,
            "series": series.get((*_place(mean), mean["adaptation"])),
            "tokens": mean["adaptation_tokens"],
        }
        for mean in means
        if (*_place(mean), mean["adaptation"]) in series
        or (mean["adaptation"] == NONE and _place(mean) in budgets)
        or (mean["criterion"] == DENSE and mean["model"] in models)
    ]


def _place(mean: Mapping[str, Any]) -> tuple[str, str]:
    return mean["model"], mean["pattern"]


def _mean_row(cells: Sequence[Cell], records: Records) -> Row:
    of_seeds = [_cell_row(cell, records) for cell in cells]
    perplexity = mean_over_seeds([measured_perplexity(records[cell]) for cell in cells])
    ratio: tuple[float | None, float | None, float | None] = (None, None, None)
    if not cells[0].is_dense:
        ratio = mean_over_seeds([_ratio(cell, records) for cell in cells])
    measured = of_seeds
    if cells[0].is_dense:
        # A dense cell is evaluated once, but each seed has held-out text of its own.
        seeds = sorted({cell.seed for cell in records if cell.model == cells[0].model})
        measured = [_metrics(cells[0], seed, records) for seed in seeds]
    choices = dict.fromkeys(str(row["choice"]) for row in of_seeds if row["choice"])
    return {
        **{key: of_seeds[0][key] for key in ("model", "criterion", "pattern", "adaptation")},
        "seeds": len(cells),
        "perplexity": perplexity[0],
        "perplexity_standard_error": perplexity[1],
        "perplexity_standard_deviation_over_seeds": perplexity[2],
        "perplexity_over_dense": ratio[0],
        "perplexity_over_dense_standard_error": ratio[1],
        **{
            column: value
            for metric in METRICS
            for column, value in metric.over_seeds(measured).items()
        },
        **{column: of_seeds[0][column] for column in _SHARED},
        **{column: _over(fmean, of_seeds, column) for column in _AVERAGED},
        **{column: _over(sum, of_seeds, column) for column in _ADDED},
        "adaptation_peak_bytes": _over(max, of_seeds, "adaptation_peak_bytes"),
        "choices": ", ".join(choices),
    }


def _cell_row(cell: Cell, records: Records) -> Row:
    record = records[cell]
    perplexity, identity, cost = record["metrics"]["perplexity"], record["identity"], record["cost"]
    return {
        "model": cell.model,
        "criterion": cell.criterion,
        "pattern": cell.pattern,
        "adaptation": cell.adaptation,
        "seed": cell.seed,
        "perplexity": number(perplexity["perplexity"]),
        "perplexity_standard_error": number(perplexity["perplexity_standard_error"]),
        "loss": number(perplexity["loss"]),
        "loss_standard_error": number(perplexity["loss_standard_error"]),
        **_beside_dense(cell, records),
        **_metrics(cell, cell.seed, records),
        "sparsity": identity["sparsity"],
        "zeros": identity["zeros"],
        "weights": identity["weights"],
        "parameters": identity["parameters"],
        "nonzero_parameters": identity["parameters"] - identity["zeros"],
        "stored_bytes": identity["stored_bytes"],
        "windows": perplexity["windows"],
        "window_length": perplexity["length"],
        "window_stride": perplexity["stride"],
        **_speed(record),
        "adaptation_tokens": _cost(cost, ADAPTATION, "tokens"),
        "adaptation_flops": _operations(cost),
        "adaptation_wall_s": _cost(cost, ADAPTATION, "wall_s"),
        "adaptation_peak_bytes": _cost(cost, ADAPTATION, "peak_bytes"),
        "adaptation_cpu_s": _cost(cost, ADAPTATION, "cpu_s"),
        **_adaptation_facts(record),
        "search_flops": _cost(cost, SEARCH, "flops"),
        "search_wall_s": _cost(cost, SEARCH, "wall_s"),
        "calibration_wall_s": _cost(cost, CALIBRATION, "wall_s"),
        "pruning_wall_s": _cost(cost, PRUNING, "wall_s"),
        "evaluation_wall_s": _cost(cost, EVALUATION, "wall_s"),
        "checkpoint_sha256": identity["checkpoint_sha256"],
        "record": cell.record_name,
    }


def _metrics(cell: Cell, seed: int, records: Records) -> Row:
    """Return METRIC_COLUMNS of a cell; for a dense cell, with its perplexity on held-out text.

    The evaluation of each pruned cell measures the dense model, too, on the held-out text of the
    cell's seed.
    """
    record: Mapping[str, Any] = records[cell]
    if cell.is_dense:
        held_out = (
            drift["dense"]
            for other, its in records.items()
            if (other.model, other.seed) == (cell.model, seed)
            and (drift := its["metrics"].get("drift")) is not None
        )
        if (measured := next(held_out, None)) is not None:
            record = {**record, "metrics": {**record["metrics"], "drift": measured}}
    return {
        column: value for metric in METRICS for column, value in metric.measured(record).items()
    }


def _beside_dense(cell: Cell, records: Records) -> Row:
    """Return the loss minus that of the dense model, window by window; None for a dense cell."""
    difference, error = None, None
    if not cell.is_dense:
        difference, error = paired_difference(*paired_losses(cell, records))
    return {
        "loss_minus_dense": difference,
        "loss_minus_dense_standard_error": error,
        "perplexity_over_dense": None if difference is None else exp(difference),
    }


def _speed(record: Mapping[str, Any]) -> Row:
    """Return the speed of tokens through the blocks; None if drift was not measured."""
    drift = record["metrics"].get("drift")
    if drift is None:
        return dict.fromkeys(("tokens_per_second", "tokens_per_second_over_dense"))
    speed = drift["tokens_per_second"]
    return {
        "tokens_per_second": speed["checkpoint"],
        "tokens_per_second_over_dense": speed["checkpoint"] / speed["dense"],
    }


def _adaptation_facts(record: Mapping[str, Any]) -> Row:
    """Return what was adapted, and which of the listed settings a search chose."""
    found, settings = record["adaptation"] or {}, record["spec"].get("adaptation") or {}
    choice = found.get("choice") or {}
    settings = chosen_of(choice, settings)
    return {
        "adaptation_distinct_tokens": found.get("distinct_tokens"),
        "adaptation_steps": found.get("steps"),
        "trained_parameters": found.get("trained_parameters"),
        "adaptation_window": found.get("window"),
        "adaptation_windows": found.get("windows"),
        "adaptation_windows_kept_pruned": found.get("windows_kept_pruned"),
        # Only retrainings count: a reconstruction window that got worse keeps its pruned weights.
        "adaptation_windows_worse": sum(
            loss["after"] > loss["before"] for loss in found.get("losses", {}).values()
        ),
        "selected_on": choice.get("selected_on"),
        "learning_rate": settings.get("learning_rate"),
        "epochs": settings.get("epochs"),
        "choice": choice_text([*choice["candidates"].values()], settings) if choice else None,
    }


def _ratio(cell: Cell, records: Records) -> tuple[float, float, list[float]]:
    """Return the perplexity over the dense model's, its error, and its logarithm by window."""
    losses, dense_losses = paired_losses(cell, records)
    difference, error = paired_difference(losses, dense_losses)
    logs = [loss - dense for loss, dense in zip(losses, dense_losses, strict=True)]
    return exp(difference), exp(difference) * error, logs


def _over(statistic: Callable[[list[Any]], Any], rows: Sequence[Row], column: str) -> Any:
    """Return a statistic of the rows that have a value in a column; None if none has."""
    values = [row[column] for row in rows if row[column] is not None]
    return statistic(values) if values else None


def _cost(cost: Mapping[str, Any], steps: Sequence[str], key: str) -> int | float | None:
    """Return a cost summed over the steps that the cell took part in; None if there were none."""
    parts = [cost[step][key] for step in steps if key in cost.get(step, {})]
    return sum(parts) if parts else None


def _operations(cost: Mapping[str, Any]) -> float | None:
    """Return the operations of an adaptation; None if its step noted none, or there is none."""
    parts = [cost[step] for step in ADAPTATION if "flops" in cost.get(step, {})]
    return sum(map(operations, parts)) if parts else None


def choice_text(candidates: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> str:
    """Return what was chosen, in words; they say if the learning rate is at an end of its list.

    Args:
        candidates: The candidates of one search, each with the keys SEARCHED.
        chosen: The chosen candidate.
    """
    rates, epochs = ({each[key] for each in candidates} for key in SEARCHED)
    rate, count = (chosen[key] for key in SEARCHED)
    end = ""
    if len(rates) > 1 and rate in (min(rates), max(rates)):
        end = f" (the {'lowest' if rate == min(rates) else 'highest'} tried)"
    words = f"learning rate {rate:g}{end}"
    return words if len(epochs) == 1 else f"{words} and epochs {count}"
