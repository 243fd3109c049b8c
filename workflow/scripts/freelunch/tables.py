"""Tables, and the data of figures, from the records of a study.

Every number that is shown is made here, so that drawing and writing never compute. A number comes
with its uncertainty: the standard error over the text's windows and, where there are several seeds,
the standard deviation over them. Cells of a model are measured on the same windows, so differences
are taken window by window: that error is far smaller than the two perplexities' own.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from freelunch.artifact import write_atomically, write_json
from freelunch.cell import Cell
from freelunch.errors import UserError
from freelunch.records import load_records
from freelunch.study import Study
from freelunch.summary import NOT_FINITE, summary_text

Records = Mapping[Cell, Mapping[str, Any]]
# None where there is nothing to say (an empty field), NaN where a number is not finite.
Row = dict[str, str | int | float | None]

SUMMARY_COLUMNS = (
    *("model", "criterion", "pattern", "adaptation", "seed"),
    *("perplexity", "perplexity_standard_error", "loss", "loss_standard_error"),
    *("loss_minus_dense", "loss_minus_dense_standard_error", "perplexity_over_dense"),
    *("sparsity", "zeros", "weights", "windows", "window_length"),
    *("adaptation_tokens", "adaptation_flops", "adaptation_wall_s", "adaptation_peak_bytes"),
    *("adaptation_windows", "adaptation_windows_kept_pruned"),
    *("calibration_wall_s", "pruning_wall_s", "evaluation_wall_s"),
    *("checkpoint_sha256", "record"),
)
CRITERIA_COLUMNS = (
    *("criterion", "pattern", "model", "adaptation", "seeds"),
    *("perplexity", "perplexity_standard_error", "perplexity_standard_deviation_over_seeds"),
)
# The steps that a cost in the summary covers.
ADAPTATION = ("reconstruct_window",)
CALIBRATION = ("sample_calibration", "capture_dense")
PRUNING = ("prune_model",)
EVALUATION = ("evaluate_perplexity",)


def build_tables(
    study: Study, summary_csv: Path, summary_md: Path, metrics_json: Path, criteria_csv: Path
) -> None:
    """Write the tables of a study.

    Args:
        study: All its records have to be there.
        summary_csv: One row a cell, one column a fact.
        summary_md: For people; seeds are averaged.
        metrics_json: For DVC: model, pruning, adaptation, seed.
        criteria_csv: What the figure of the criteria draws; seeds are averaged.

    Raises:
        UserError: A record is missing, was made with other settings than today's, or was measured
            on other tokens than its dense model.
    """
    records = load_records(study)
    write_atomically(summary_csv, csv_text(SUMMARY_COLUMNS, summary_rows(records)))
    write_json(metrics_json, metrics_tree(records))
    means = means_over_seeds(records)
    write_atomically(criteria_csv, csv_text(CRITERIA_COLUMNS, means))
    write_atomically(summary_md, summary_text(study, means))


def summary_rows(records: Records) -> list[Row]:
    """Return one row a cell, with SUMMARY_COLUMNS, model by model, the dense cell first."""
    return [_summary_row(cell, records) for cells in seed_groups(records) for cell in cells]


def means_over_seeds(records: Records) -> list[Row]:
    """Return one row for all seeds of a cell, model by model, the dense cell first.

    Costs are means over seeds, but memory is the largest. An error is over windows, a standard
    deviation over seeds (None for one seed).
    """
    rows: list[Row] = []
    for cells in seed_groups(records):
        of_seeds = [_summary_row(cell, records) for cell in cells]
        perplexity = mean_over_seeds([_perplexity(records[cell]) for cell in cells])
        ratio: tuple[float | None, float | None, float | None] = (None, None, None)
        if not cells[0].is_dense:
            ratio = mean_over_seeds([_ratio(cell, records) for cell in cells])
        row = {column: of_seeds[0][column] for column in CRITERIA_COLUMNS[:4]}
        row |= {
            "seeds": len(cells),
            "perplexity": perplexity[0],
            "perplexity_standard_error": perplexity[1],
            "perplexity_standard_deviation_over_seeds": perplexity[2],
            "perplexity_over_dense": ratio[0],
            "perplexity_over_dense_standard_error": ratio[1],
            "windows": of_seeds[0]["windows"],
            "window_length": of_seeds[0]["window_length"],
            "sparsity": _over(fmean, of_seeds, "sparsity"),
            "adaptation_tokens": _over(fmean, of_seeds, "adaptation_tokens"),
            "adaptation_flops": _over(fmean, of_seeds, "adaptation_flops"),
            "adaptation_wall_s": _over(fmean, of_seeds, "adaptation_wall_s"),
            "adaptation_peak_bytes": _over(max, of_seeds, "adaptation_peak_bytes"),
            "adaptation_windows": _over(sum, of_seeds, "adaptation_windows"),
            "adaptation_windows_kept_pruned": _over(
                sum, of_seeds, "adaptation_windows_kept_pruned"
            ),
        }
        rows.append(row)
    return rows


def csv_text(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Return these columns of rows as CSV; floats are written so that they read back exactly."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def metrics_tree(records: Records) -> dict[str, Any]:
    """Return {model: {pruning: {adaptation: {seed: {perplexity, sparsity}}}}}, for DVC.

    DVC leaves a null out of its tables, so a perplexity that is not finite is said in words.
    """
    tree: dict[str, Any] = {}
    for cells in seed_groups(records):
        for cell in cells:
            perplexity = records[cell]["metrics"]["perplexity"]["perplexity"]
            of_pruning = tree.setdefault(cell.model, {}).setdefault(cell.pruning, {})
            of_pruning.setdefault(cell.adaptation, {})[f"seed{cell.seed}"] = {
                "perplexity": NOT_FINITE if perplexity is None else perplexity,
                "sparsity": records[cell]["identity"]["sparsity"],
            }
    return tree


def seed_groups(records: Records) -> list[list[Cell]]:
    """Return the cells that differ in their seed alone, model by model, the dense cell first."""
    groups: dict[str, dict[Cell, list[Cell]]] = {}
    for cell in sorted(records, key=lambda cell: not cell.is_dense):
        groups.setdefault(cell.model, {}).setdefault(replace(cell, seed=0), []).append(cell)
    return [cells for of_model in groups.values() for cells in of_model.values()]


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean of at least two values; NaN if one is not finite."""
    # `stdev` fails on NaN with an error about fractions.
    if not all(math.isfinite(value) for value in values):
        return math.nan
    return stdev(values) / math.sqrt(len(values))


def paired_difference(
    losses: Sequence[float], dense_losses: Sequence[float]
) -> tuple[float, float]:
    """Return the mean over windows of loss minus dense loss, and its standard error.

    Args:
        losses: Mean loss of each window, nats a token.
        dense_losses: The dense model's, of the same windows.
    """
    differences = [loss - dense for loss, dense in zip(losses, dense_losses, strict=True)]
    return fmean(differences), standard_error(differences)


def mean_over_seeds(
    seeds: Sequence[tuple[float, float, Sequence[float]]],
) -> tuple[float, float, float | None]:
    """Average a quantity exp(mean over windows of x) over seeds.

    Seeds share the text's windows, so their errors over windows do not average out: to first order
    the mean over seeds moves with window w as mean over seeds s of exp(mean x_s) * x_sw.

    Args:
        seeds: For each the quantity, its standard error over windows, and x of each window.

    Returns:
        The mean, its standard error over windows, and the standard deviation over seeds (None for
        one seed); NaN if one of the seeds is not finite.
    """
    if len(seeds) == 1:
        return seeds[0][0], seeds[0][1], None
    levels = [level for level, _, _ in seeds]
    if not all(math.isfinite(level) for level in levels):
        return math.nan, math.nan, math.nan
    windows = zip(*(xs for _, _, xs in seeds), strict=True)
    moves = [fmean(level * x for level, x in zip(levels, xs, strict=True)) for xs in windows]
    return fmean(levels), standard_error(moves), stdev(levels)


def _summary_row(cell: Cell, records: Records) -> Row:
    record = records[cell]
    perplexity, identity, cost = record["metrics"]["perplexity"], record["identity"], record["cost"]
    row: Row = {
        "model": cell.model,
        "criterion": cell.criterion,
        "pattern": cell.pattern,
        "adaptation": cell.adaptation,
        "seed": cell.seed,
        "perplexity": _number(perplexity["perplexity"]),
        "perplexity_standard_error": _number(perplexity["perplexity_standard_error"]),
        "loss": _number(perplexity["loss"]),
        "loss_standard_error": _number(perplexity["loss_standard_error"]),
        "loss_minus_dense": None,
        "loss_minus_dense_standard_error": None,
        "perplexity_over_dense": None,
        "sparsity": identity["sparsity"],
        "zeros": identity["zeros"],
        "weights": identity["weights"],
        "windows": perplexity["windows"],
        "window_length": perplexity["length"],
        "adaptation_tokens": _cost(cost, ADAPTATION, "tokens"),
        "adaptation_flops": _cost(cost, ADAPTATION, "flops"),
        "adaptation_wall_s": _cost(cost, ADAPTATION, "wall_s"),
        "adaptation_peak_bytes": _cost(cost, ADAPTATION, "peak_bytes"),
        "adaptation_windows": (record["adaptation"] or {}).get("windows"),
        "adaptation_windows_kept_pruned": (record["adaptation"] or {}).get("windows_kept_pruned"),
        "calibration_wall_s": _cost(cost, CALIBRATION, "wall_s"),
        "pruning_wall_s": _cost(cost, PRUNING, "wall_s"),
        "evaluation_wall_s": _cost(cost, EVALUATION, "wall_s"),
        "checkpoint_sha256": identity["checkpoint_sha256"],
        "record": cell.record_name,
    }
    if not cell.is_dense:
        losses, dense_losses = _paired_losses(cell, records)
        difference, error = paired_difference(losses, dense_losses)
        row["loss_minus_dense"] = difference
        row["loss_minus_dense_standard_error"] = error
        row["perplexity_over_dense"] = _exp(difference)
    return row


def _paired_losses(cell: Cell, records: Records) -> tuple[list[float], list[float]]:
    """Return the window losses of a cell and of its dense model, NaN where not finite."""
    dense = Cell.dense(cell.model)
    metrics, dense_metrics = (records[one]["metrics"]["perplexity"] for one in (cell, dense))
    for key in ("token_ids_sha256", "length", "stride"):
        if metrics[key] != dense_metrics[key]:
            raise UserError(
                "this cell was measured on other tokens than its dense model, so the two cannot "
                "be compared",
                where=cell.record_name,
                found=f"{key} = {metrics[key]}",
                expected=f"{key} = {dense_metrics[key]}, as in {dense.record_name}",
                todo="`snakemake --cores all --forcerun evaluate_perplexity` measures both again",
            )
    return _window_losses(metrics), _window_losses(dense_metrics)


def _window_losses(metrics: Mapping[str, Any]) -> list[float]:
    return [_number(loss) for loss in metrics["window_losses"]]


def _perplexity(record: Mapping[str, Any]) -> tuple[float, float, list[float]]:
    metrics = record["metrics"]["perplexity"]
    value, error = metrics["perplexity"], metrics["perplexity_standard_error"]
    return _number(value), _number(error), _window_losses(metrics)


def _ratio(cell: Cell, records: Records) -> tuple[float, float, list[float]]:
    losses, dense_losses = _paired_losses(cell, records)
    difference, error = paired_difference(losses, dense_losses)
    logs = [loss - dense for loss, dense in zip(losses, dense_losses, strict=True)]
    return _exp(difference), _exp(difference) * error, logs


def _over(statistic: Callable[[list[Any]], Any], rows: Sequence[Row], column: str) -> Any:
    """Return a statistic of those rows that have a value in a column; None if none has."""
    values = [row[column] for row in rows if row[column] is not None]
    return statistic(values) if values else None


def _cost(cost: Mapping[str, Any], steps: Sequence[str], key: str) -> int | float | None:
    """Return a cost summed over those of the steps that the cell came through; None if none."""
    parts = [cost[step][key] for step in steps if key in cost.get(step, {})]
    return sum(parts) if parts else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.nan
