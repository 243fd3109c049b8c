"""One row for each cell of a study, and one for all seeds of a cell.

Each number comes with its uncertainty: the standard error over the windows of the text and, if
there are several seeds, the standard deviation over them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean
from typing import Any

from freelunch.analysis import pairing
from freelunch.records.record import CandidateFacts, Record, Records
from freelunch.reporting.metrics import METRIC_COLUMNS, METRICS, Value, fact
from freelunch.study import steps
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.retraining import read_adaptation
from freelunch.study.search import SEARCHED, chosen_of


@dataclass(frozen=True)
class Fact:
    """A fact in the record of a cell that becomes a column of `summary.csv`.

    Attributes:
        column: The column; the unit, if there is one, is part of its name.
        read: Returns it from a record; None if the record lacks it.
        over_seeds: Makes one number of those of several seeds; None where none is needed.
    """

    column: str
    read: Callable[[Record], Value]
    over_seeds: Callable[[list[Any]], Value] | None = None


def _cost(key: str, *of: str) -> Callable[[Record], Value]:
    """Return a function that sums a cost, or takes the peak, over the steps that a cell took part
    in, and those of the adaptations that it started from.
    """

    def read(record: Record) -> Value:
        parts = [cost[key] for cost in _costs(record, of) if key in cost]
        whole = max if key.startswith("peak") else sum
        return whole(parts) if parts else None

    return read


def _costs(record: Record, of: Sequence[str]) -> list[Any]:
    return [cost for step, cost in record["cost"].items() if step.partition(" of ")[0] in of]


def _operations(record: Record) -> Value:
    known = [pairing.operations(cost) for cost in _costs(record, ADAPTATION) if "flops" in cost]
    return sum(known) if known else None


def _nonzero(record: Record) -> Value:
    return record["identity"]["parameters"] - record["identity"]["zeros"]


def _chosen(key: str) -> Callable[[Record], Value]:
    """Return a function that reads a setting of an adaptation, or what a search chose for it."""

    def read(record: Record) -> Value:
        choice = record["adaptation"]["choice"] if record["adaptation"] else None
        return chosen_of(choice, record["spec"].get("adaptation") or {}).get(key)

    return read


# The loss minus that of the dense model with the same training.
MINUS_CONTROL = "loss_minus_control"
# The steps whose costs are an adaptation's.
ADAPTATION = (steps.RECONSTRUCT_WINDOW, steps.RETRAIN_MODEL)
# All seeds share these.
_first = itemgetter(0)
FACTS = (
    Fact("sparsity", fact("identity", "sparsity"), fmean),
    Fact("zeros", fact("identity", "zeros")),
    Fact("weights", fact("identity", "weights")),
    Fact("windows", fact("metrics", "perplexity", "windows"), _first),
    Fact("window_length", fact("metrics", "perplexity", "length"), _first),
    Fact("window_stride", fact("metrics", "perplexity", "stride"), _first),
    Fact("parameters", fact("identity", "parameters"), _first),
    Fact("nonzero_parameters", _nonzero, _first),
    Fact("stored_bytes", fact("identity", "stored_bytes"), _first),
    Fact("adaptation_tokens", _cost("tokens", *ADAPTATION), fmean),
    Fact("adaptation_flops", _operations, fmean),
    Fact("adaptation_wall_s", _cost("wall_s", *ADAPTATION), fmean),
    Fact("adaptation_peak_bytes", _cost("peak_bytes", *ADAPTATION), max),
    Fact("adaptation_distinct_tokens", fact("adaptation", "distinct_tokens")),
    Fact("adaptation_steps", fact("adaptation", "steps")),
    Fact("trained_parameters", fact("adaptation", "trained_parameters")),
    Fact("adaptation_cpu_s", _cost("cpu_s", *ADAPTATION)),
    Fact("adaptation_window", fact("adaptation", "window")),
    Fact("adaptation_windows", fact("adaptation", "windows"), sum),
    Fact("adaptation_windows_kept_pruned", fact("adaptation", "windows_kept_pruned"), sum),
    Fact("selected_on", fact("adaptation", "choice", "selected_on"), _first),
    Fact("learning_rate", _chosen("learning_rate")),
    Fact("epochs", _chosen("epochs")),
    Fact("search_flops", _cost("flops", steps.SEARCH), fmean),
    Fact("search_wall_s", _cost("wall_s", steps.SEARCH)),
    Fact("calibration_wall_s", _cost("wall_s", steps.SAMPLE_CALIBRATION, steps.CAPTURE_DENSE)),
    Fact("pruning_wall_s", _cost("wall_s", steps.PRUNE_MODEL)),
    Fact("evaluation_wall_s", _cost("wall_s", steps.EVALUATE_CELL)),
    Fact("checkpoint_sha256", fact("identity", "checkpoint_sha256")),
)
SUMMARY_COLUMNS = (
    *("model", "criterion", "pattern", "adaptation", "seed"),
    *("perplexity", "perplexity_standard_error", "loss", "loss_standard_error"),
    *("loss_minus_dense", "loss_minus_dense_standard_error", "perplexity_over_dense"),
    *pairing.error_columns(MINUS_CONTROL)[:2],
    *METRIC_COLUMNS,
    *(each.column for each in FACTS),
    *("marks", "record"),
)
CRITERIA_COLUMNS = (
    *("criterion", "pattern", "model", "adaptation", "seeds"),
    *pairing.error_columns("perplexity"),
)
CRITERIA_BUDGET_COLUMNS = (*CRITERIA_COLUMNS, "series", "tokens")
# As `Comparisons.criteria_budgets` has them.
BudgetsOfCriteria = Mapping[tuple[str, str], Sequence[Sequence[str]]]


def cell_rows(records: Records) -> list[pairing.Row]:
    """Return a row, with SUMMARY_COLUMNS, for each cell: model by model, the dense cell first."""
    return [_cell_row(cell, records) for cells in pairing.seed_groups(records) for cell in cells]


def _cell_row(cell: Cell, records: Records) -> pairing.Row:
    record = records[cell]
    perplexity = record["metrics"]["perplexity"]
    difference, error, ratio = None, None, None
    if not cell.is_dense:
        difference, error = pairing.paired_difference(*pairing.paired_losses(cell, records))
        ratio = pairing.exp(difference)
    return {
        **{key: getattr(cell, key) for key in SUMMARY_COLUMNS[:5]},
        "perplexity": pairing.number(perplexity["perplexity"]),
        "perplexity_standard_error": pairing.number(perplexity["perplexity_standard_error"]),
        "loss": pairing.number(perplexity["loss"]),
        "loss_standard_error": pairing.number(perplexity["loss_standard_error"]),
        **pairing.with_errors("loss_minus_dense", difference, error),
        "perplexity_over_dense": ratio,
        **pairing.with_errors(MINUS_CONTROL, *_minus_control([cell], records)[:2]),
        **_metrics(cell, cell.seed, records),
        **{each.column: each.read(record) for each in FACTS},
        "record": cell.record_name,
    }


def means_over_seeds(records: Records) -> list[pairing.Row]:
    """Return a row for all seeds of each cell: model by model, the dense cell first.

    Costs are averaged over seeds, but memory is the largest. A standard error is over windows, a
    standard deviation over seeds (None for one seed).
    """
    return [_mean_row(cells, records) for cells in pairing.seed_groups(records)]


def _mean_row(cells: Sequence[Cell], records: Records) -> pairing.Row:
    one, of_seeds = cells[0], [records[cell] for cell in cells]
    ratio: Sequence[float | None] = (None, None)
    measured = [_metrics(cell, cell.seed, records) for cell in cells]
    if one.is_dense:
        # A dense cell is evaluated once, but each seed has held-out text of its own.
        seeds = sorted({cell.seed for cell in records if cell.model == one.model})
        measured = [_metrics(one, seed, records) for seed in seeds]
    else:
        ratio = pairing.mean_over_seeds([_ratio(cell, records) for cell in cells])[:2]
    row = {
        **{key: getattr(one, key) for key in SUMMARY_COLUMNS[:4]},
        "seeds": len(cells),
        **pairing.with_errors("perplexity", *pairing.perplexity_over_seeds(cells, records)),
        **pairing.with_errors("perplexity_over_dense", *ratio),
        **pairing.with_errors(MINUS_CONTROL, *_minus_control(cells, records)),
    }
    for metric in METRICS:
        row |= metric.over_seeds(measured)
    for each in FACTS:
        if each.over_seeds:
            known = [value for value in map(each.read, of_seeds) if value is not None]
            row[each.column] = each.over_seeds(known) if known else None
    row["choices"] = ", ".join(dict.fromkeys(filter(None, map(_choice, of_seeds))))
    return row


def _minus_control(cells: Sequence[Cell], records: Records) -> Sequence[float | None]:
    """Return how much the loss of cells that differ in their seed, in nats per token, lies above
    that of the dense model with the same training, its standard error and its spread over seeds;
    None for each if that was not run, or nothing was pruned. What learns from the dense model alone
    would leave that one as it is.
    """
    its = {cell.seed: cell for cell in cells}
    settings = records[cells[0]]["spec"].get("adaptation")
    entry = read_adaptation(settings) if settings else None
    controls = {
        cell.seed: cell.control if entry and entry.learns_text else Cell.dense(cell.model)
        for cell in cells
        if cell.is_pruned
    }
    if entry is None or not controls or {*controls.values()} - {*records}:
        return None, None, None
    return pairing.over_units_and_seeds(pairing.loss_differences(its, controls, its, records))


def _metrics(cell: Cell, seed: int, records: Records) -> pairing.Row:
    """Return METRIC_COLUMNS of a cell. Those of a dense cell have its perplexity on the held-out
    text of a seed, which the evaluation of each pruned cell of that seed measures.
    """
    record: Mapping[str, Any] = records[cell]
    if cell.is_dense:
        of_seed = (
            facts["metrics"]["drift"]["dense"]
            for other, facts in records.items()
            if (other.model, other.seed) == (cell.model, seed) and "drift" in facts["metrics"]
        )
        if (held_out := next(of_seed, None)) is not None:
            record = {**record, "metrics": {**record["metrics"], "drift": held_out}}
    return {column: value for each in METRICS for column, value in each.measured(record).items()}


def _ratio(cell: Cell, records: Records) -> tuple[float, float, list[float]]:
    """Return the perplexity over the dense model's, its error, and its logarithm by window."""
    losses, dense_losses = pairing.paired_losses(cell, records)
    difference, error = pairing.paired_difference(losses, dense_losses)
    logs = [loss - dense for loss, dense in zip(losses, dense_losses, strict=True)]
    return pairing.exp(difference), pairing.exp(difference) * error, logs


def _choice(record: Record) -> str | None:
    choice = record["adaptation"]["choice"] if record["adaptation"] else None
    return choice_text([*choice["candidates"].values()], chosen_of(choice, {})) if choice else None


def choice_text(candidates: Sequence[CandidateFacts], chosen: Mapping[str, Any]) -> str:
    """Return which of the candidates of a search was chosen, in words."""
    rate, count = (chosen[key] for key in SEARCHED)
    words = f"learning rate {rate:g}"
    several = len({each["epochs"] for each in candidates}) > 1
    return f"{words} and epochs {count}" if several else words


# --- Rows that compare criteria


def criteria_rows(means: pairing.Rows, budgets: BudgetsOfCriteria) -> pairing.Rows:
    """Return the rows of the adaptations that several criteria have with the same model and
    pattern, and those of the dense models beside them; all rows if there is no such adaptation. Of
    adaptations that differ only in their budget, there is only the first.
    """
    criteria: dict[tuple[str, ...], set[str]] = {}
    for mean in means:
        if mean["criterion"] != DENSE:
            criteria.setdefault(_place(mean), set()).add(mean["criterion"])
    shared = {at for at, names in criteria.items() if len(names) > 1} or criteria.keys()
    series = _series(budgets)
    return _shown(means, {at for at in shared if series.get(at, at[-1]) == at[-1]})


def criteria_budget_rows(means: pairing.Rows, budgets: BudgetsOfCriteria) -> pairing.Rows:
    """Return the rows, with CRITERIA_BUDGET_COLUMNS, of the adaptations that differ only in their
    budget, of the same models without adaptation, and of the dense models.

    The last two have no series and no tokens. A series is named after its first adaptation.
    """
    series = _series(budgets)
    return [
        {**row, "series": series.get(_place(row)), "tokens": row["adaptation_tokens"]}
        for row in _shown(means, {*series, *((*place, NONE) for place in budgets)})
    ]


def _series(budgets: BudgetsOfCriteria) -> dict[tuple[str, ...], str]:
    return {
        (*place, name): names[0]
        for place, series in budgets.items()
        for names in series
        for name in names
    }


def _shown(means: pairing.Rows, places: Collection[tuple[str, ...]]) -> pairing.Rows:
    """Return the rows of some places, and those of the dense models beside them."""
    dense = {(model, NONE, NONE) for model, *_ in places}
    return [mean for mean in means if _place(mean) in {*places, *dense}]


def _place(mean: pairing.Row) -> tuple[str, ...]:
    return mean["model"], mean["pattern"], mean["adaptation"]
