"""Tables, and the data of figures, from the records of a study.

Every number that is shown is made here, so that drawing and writing never compute. A number comes
with its uncertainty: the standard error over the text's windows and, where there are several seeds,
the standard deviation over them.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from freelunch.analysis.accuracy import TASK_COLUMNS, task_rows
from freelunch.analysis.budget_effect import BUDGET_COLUMNS, REACH_COLUMNS, budget_rows, reach_rows
from freelunch.analysis.criteria_gap import (
    GAP_COLUMNS,
    PAIR_COLUMNS,
    SIZE_COLUMNS,
    gap_rows,
    pair_rows,
    size_rows,
)
from freelunch.analysis.drift import DRIFT_COLUMNS, drift_rows, last_drift
from freelunch.analysis.pairing import (
    Records,
    Row,
    exp,
    mean_over_seeds,
    measured_perplexity,
    number,
    paired_difference,
    paired_losses,
    seed_groups,
    window_losses,
)
from freelunch.analysis.window_effect import WINDOW_COLUMNS, window_rows
from freelunch.core.artifact import json_text, write_atomically
from freelunch.records.read import load_records
from freelunch.reporting.formatting import NOT_FINITE
from freelunch.reporting.inline_numbers import numbers_tree
from freelunch.reporting.latex import tables_text
from freelunch.reporting.summary import summary_sections, summary_text
from freelunch.study import steps
from freelunch.study.cell import Cell
from freelunch.study.search import choice_text, chosen_of
from freelunch.study.study import Study

SUMMARY_COLUMNS = (
    *("model", "criterion", "pattern", "adaptation", "seed"),
    *("perplexity", "perplexity_standard_error", "loss", "loss_standard_error"),
    *("loss_minus_dense", "loss_minus_dense_standard_error", "perplexity_over_dense"),
    *("held_out_perplexity", "held_out_perplexity_standard_error"),
    *("held_out_loss_minus_dense", "held_out_loss_minus_dense_standard_error", "drift_mean"),
    *("accuracy", "accuracy_standard_error"),
    *("byte_perplexity", "word_perplexity", "bits_per_byte"),
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
# The steps that a cost in the summary covers.
ADAPTATION = (steps.RECONSTRUCT_WINDOW, steps.RETRAIN_MODEL)
SEARCH = (steps.SEARCH,)
CALIBRATION = (steps.SAMPLE_CALIBRATION, steps.CAPTURE_DENSE)
PRUNING = (steps.PRUNE_MODEL,)
# Kept records that are older than one evaluation a cell name the step that measured perplexity.
EVALUATION = (steps.EVALUATE_CELL, "evaluate_perplexity")


def build_tables(study: Study, files: Mapping[str, Path]) -> None:
    """Write the tables of a study.

    Args:
        study: All its records have to be there.
        files: Where each goes, by the names that `table_texts` gives them.

    Raises:
        UserError: A record is missing, was made with other settings than today's, or was measured
            on other tokens than its dense model.
    """
    texts = table_texts(study, load_records(study), study.paths.records)
    if texts.keys() != files.keys():
        raise ValueError(f"tables {sorted(texts)} are not files {sorted(files)}")
    for name, text in texts.items():
        write_atomically(files[name], text)


def table_texts(study: Study, records: Records, folder: Path) -> dict[str, str]:
    """Return what is in each table of a study.

    Args:
        study: Its config.
        records: Of all its cells.
        folder: Where they are, and the answers to tasks beside them.

    Returns:
        summary_csv: One row a cell, one column a fact.
        summary_md: For people; seeds are averaged.
        summary_tex: Its tables, for a paper.
        numbers_json: Its numbers, for running text.
        metrics_json: For DVC: model, pruning, adaptation, seed.
        criteria_csv: What the figure of the criteria draws; seeds are averaged.
        gaps_csv: Gap between the best and the worst criterion, and what an adaptation leaves of it.
        sizes_csv: The same beside the size of the model, and what the figure of sizes draws.
        pairs_csv: Difference between every two criteria.
        windows_csv: What the window is worth, and what the figure of the windows draws.
        drift_csv: Drift of activations, and what its figure draws.
        budgets_csv: Retraining beside reconstruction, and what the figure of the budgets draws.
        reach_csv: Which budget of a retraining reaches the reconstruction.
        tasks_csv: Zero-shot accuracy, by cell and task; seeds are averaged.
    """
    means, gaps = means_over_seeds(records), gap_rows(records)
    windows = window_rows(records)
    budgets, reaches = budget_rows(records, study), reach_rows(records, study)
    tasks = task_rows(records, folder)
    sections = summary_sections(study, means, gaps, windows, budgets, reaches, tasks)
    return {
        "summary_csv": csv_text(SUMMARY_COLUMNS, summary_rows(records)),
        "summary_md": summary_text(sections),
        "summary_tex": tables_text(sections, study.name),
        "numbers_json": json_text(numbers_tree(means, tasks, gaps, windows, budgets, reaches)),
        "metrics_json": json_text(metrics_tree(records)),
        "criteria_csv": csv_text(CRITERIA_COLUMNS, comparing_criteria(means)),
        "gaps_csv": csv_text(GAP_COLUMNS, gaps),
        "sizes_csv": csv_text(SIZE_COLUMNS, size_rows(gaps, records)),
        "pairs_csv": csv_text(PAIR_COLUMNS, pair_rows(records)),
        "windows_csv": csv_text(WINDOW_COLUMNS, windows),
        "drift_csv": csv_text(DRIFT_COLUMNS, drift_rows(records, windows)),
        "budgets_csv": csv_text(BUDGET_COLUMNS, budgets),
        "reach_csv": csv_text(REACH_COLUMNS, reaches),
        "tasks_csv": csv_text(TASK_COLUMNS, tasks),
    }


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
        perplexity = mean_over_seeds([measured_perplexity(records[cell]) for cell in cells])
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
            "held_out_perplexity": _over(fmean, of_seeds, "held_out_perplexity"),
            # Each seed holds out other text.
            "held_out_perplexity_standard_error": _over(
                _error_of_mean, of_seeds, "held_out_perplexity_standard_error"
            ),
            "drift_mean": _over(fmean, of_seeds, "drift_mean"),
            "windows": of_seeds[0]["windows"],
            **{key: of_seeds[0][key] for key in ("window_length", "window_stride")},
            **{key: of_seeds[0][key] for key in ("parameters", "nonzero_parameters")},
            "stored_bytes": of_seeds[0]["stored_bytes"],
            "tokens_per_second_over_dense": _over(fmean, of_seeds, "tokens_per_second_over_dense"),
            "sparsity": _over(fmean, of_seeds, "sparsity"),
            "adaptation_tokens": _over(fmean, of_seeds, "adaptation_tokens"),
            "adaptation_flops": _over(fmean, of_seeds, "adaptation_flops"),
            "adaptation_wall_s": _over(fmean, of_seeds, "adaptation_wall_s"),
            "adaptation_peak_bytes": _over(max, of_seeds, "adaptation_peak_bytes"),
            "selected_on": of_seeds[0]["selected_on"],
            "choices": ", ".join(
                dict.fromkeys(str(row["choice"]) for row in of_seeds if row["choice"])
            ),
            "search_flops": _over(fmean, of_seeds, "search_flops"),
            "adaptation_windows": _over(sum, of_seeds, "adaptation_windows"),
            "adaptation_windows_kept_pruned": _over(
                sum, of_seeds, "adaptation_windows_kept_pruned"
            ),
            "adaptation_windows_worse": _over(sum, of_seeds, "adaptation_windows_worse"),
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
    """Return {model: {pruning: {adaptation: {seed: {perplexity, sparsity, accuracy}}}}}, for
    DVC; an accuracy where there is one.

    DVC leaves a null out of its tables, so a perplexity that is not finite is said in words.
    """
    tree: dict[str, Any] = {}
    for cells in seed_groups(records):
        for cell in cells:
            perplexity = records[cell]["metrics"]["perplexity"]["perplexity"]
            of_pruning = tree.setdefault(cell.model, {}).setdefault(cell.pruning, {})
            tasks = records[cell]["metrics"].get("tasks")
            of_pruning.setdefault(cell.adaptation, {})[f"seed{cell.seed}"] = {
                "perplexity": NOT_FINITE if perplexity is None else perplexity,
                "sparsity": records[cell]["identity"]["sparsity"],
                **({"accuracy": tasks["accuracy"]} if tasks else {}),
            }
    return tree


def _summary_row(cell: Cell, records: Records) -> Row:
    record = records[cell]
    perplexity, identity, cost = record["metrics"]["perplexity"], record["identity"], record["cost"]
    row: Row = {
        "model": cell.model,
        "criterion": cell.criterion,
        "pattern": cell.pattern,
        "adaptation": cell.adaptation,
        "seed": cell.seed,
        "perplexity": number(perplexity["perplexity"]),
        "perplexity_standard_error": number(perplexity["perplexity_standard_error"]),
        "loss": number(perplexity["loss"]),
        "loss_standard_error": number(perplexity["loss_standard_error"]),
        "loss_minus_dense": None,
        "loss_minus_dense_standard_error": None,
        "perplexity_over_dense": None,
        **_held_out(record),
        **_accuracy(record),
        **{key: perplexity[key] for key in ("byte_perplexity", "word_perplexity", "bits_per_byte")},
        "sparsity": identity["sparsity"],
        "zeros": identity["zeros"],
        "weights": identity["weights"],
        "parameters": identity["parameters"],
        "nonzero_parameters": identity["parameters"] - identity["zeros"],
        "stored_bytes": identity["stored_bytes"],
        "windows": perplexity["windows"],
        "window_length": perplexity["length"],
        "window_stride": perplexity["stride"],
        "adaptation_tokens": _cost(cost, ADAPTATION, "tokens"),
        "adaptation_flops": _cost(cost, ADAPTATION, "flops"),
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
    if not cell.is_dense:
        losses, dense_losses = paired_losses(cell, records)
        difference, error = paired_difference(losses, dense_losses)
        row["loss_minus_dense"] = difference
        row["loss_minus_dense_standard_error"] = error
        row["perplexity_over_dense"] = exp(difference)
    return row


def _held_out(record: Mapping[str, Any]) -> Row:
    """Return what was measured on held-out calibration text, beside the dense model there."""
    found = record["metrics"].get("drift")
    if not found:
        return {}
    difference, error = paired_difference(window_losses(found), window_losses(found["dense"]))
    speed = found["tokens_per_second"]
    return {
        "held_out_perplexity": number(found["perplexity"]),
        "held_out_perplexity_standard_error": number(found["perplexity_standard_error"]),
        "held_out_loss_minus_dense": difference,
        "held_out_loss_minus_dense_standard_error": error,
        "drift_mean": number(last_drift(record)),
        "tokens_per_second": speed["checkpoint"],
        "tokens_per_second_over_dense": speed["checkpoint"] / speed["dense"],
    }


def _accuracy(record: Mapping[str, Any]) -> Row:
    """Return the plain mean over tasks and its error over documents, where they were asked."""
    found = record["metrics"].get("tasks", {})
    return {key: found.get(key) for key in ("accuracy", "accuracy_standard_error")}


def _adaptation_facts(record: Mapping[str, Any]) -> Row:
    """Return what was adapted, and how what its settings left open was decided."""
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
        # A window of a reconstruction would have been kept as it was pruned.
        "adaptation_windows_worse": sum(
            loss["after"] > loss["before"] for loss in found.get("losses", {}).values()
        ),
        "selected_on": choice.get("selected_on"),
        "learning_rate": settings.get("learning_rate"),
        "epochs": settings.get("epochs"),
        "choice": choice_text([*choice["candidates"].values()], settings) if choice else None,
    }


def comparing_criteria(means: Sequence[Row]) -> list[Row]:
    """Return the rows that a comparison of criteria shows: of each model and pattern those with an
    adaptation that several criteria have, unless there is but one criterion.
    """

    def place(mean: Row) -> tuple[Any, ...]:
        return mean["model"], mean["pattern"]

    criteria: dict[tuple[Any, ...], set[Any]] = {}
    for mean in means:
        criteria.setdefault(place(mean), set()).add(mean["criterion"])
        criteria.setdefault((*place(mean), mean["adaptation"]), set()).add(mean["criterion"])
    return [
        mean
        for mean in means
        if len(criteria[place(mean)]) == 1 or len(criteria[*place(mean), mean["adaptation"]]) > 1
    ]


def _ratio(cell: Cell, records: Records) -> tuple[float, float, list[float]]:
    losses, dense_losses = paired_losses(cell, records)
    difference, error = paired_difference(losses, dense_losses)
    logs = [loss - dense for loss, dense in zip(losses, dense_losses, strict=True)]
    return exp(difference), exp(difference) * error, logs


def _error_of_mean(errors: Sequence[float]) -> float:
    """Return the error of the mean of independent numbers with these errors."""
    return math.hypot(*errors) / len(errors)


def _over(statistic: Callable[[list[Any]], Any], rows: Sequence[Row], column: str) -> Any:
    """Return a statistic of those rows that have a value in a column; None if none has."""
    values = [row[column] for row in rows if row.get(column) is not None]
    return statistic(values) if values else None


def _cost(cost: Mapping[str, Any], steps: Sequence[str], key: str) -> int | float | None:
    """Return a cost summed over those of the steps that the cell came through; None if none."""
    parts = [cost[step][key] for step in steps if key in cost.get(step, {})]
    return sum(parts) if parts else None
