"""The tables of all cells and of their tasks on an audit's page, and the form of their numbers."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freelunch.analysis.accuracy import MEAN
from freelunch.reporting.formatting import NOTHING, marked, percent, rounded, with_error
from freelunch.reporting.metrics import METRICS, Metric
from freelunch.reporting.sections.tasks import MINUS_DENSE, MINUS_UNADAPTED
from freelunch.study.cell import DENSE, NONE

WORDS = ("model", "criterion", "pattern", "adaptation", "selected_on", "record")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        title: Its heading.
        key: The column of `summary.csv` that it is sorted by.
        shown: Returns its text in a row.
    """

    title: str
    key: str
    shown: Callable[[Row], str]


def significant(value: float | None) -> str:
    """Return a number with three significant digits, or with all digits before the point."""
    return rounded(value, value / 10) if value else NOTHING


def duration(seconds: float | None) -> str:
    """Return a time in seconds, minutes or hours."""
    if seconds is None:
        return NOTHING
    for unit, size, below in (("s", 1, 120), ("min", 60, 7200)):
        if seconds < below:
            return f"{significant(seconds / size)} {unit}"
    return f"{significant(seconds / 3600)} h"


def sorting(value: object) -> str:
    """Return the key that a number is sorted by.

    It is empty where there is no number, and infinity where the number is not finite.
    """
    if value is None:
        return ""
    number = float(str(value))
    return repr(number) if math.isfinite(number) else "Infinity"


def _named(row: Row, more: Sequence[str]) -> str:
    """Return the name of a cell, as far as it tells it from the others of the study."""
    dense = row["criterion"] == DENSE
    pruning = DENSE if dense else f"{row['criterion']}-{row['pattern']}"
    model = [row["model"]] if "model" in more else []
    seed = [f"seed{row['seed']:.0f}"] if "seed" in more else []
    adaptation = [] if dense and row["adaptation"] == NONE else [row["adaptation"]]
    return marked("/".join([*model, pruning, *adaptation, *seed]), row.get("selected_on"))


def _several(rows: Sequence[Row], *keys: str) -> list[str]:
    """Return the keys in which rows differ."""
    return [key for key in keys if len({row[key] for row in rows}) > 1]


def _with_error(key: str) -> Callable[[Row], str]:
    return lambda row: with_error(row[key], row[f"{key}_standard_error"])


def _amount(key: str, unit: float) -> Callable[[Row], str]:
    return lambda row: NOTHING if row[key] is None else significant(row[key] / unit)


def _count(key: str) -> Callable[[Row], str]:
    return lambda row: NOTHING if row[key] is None else f"{row[key]:,.0f}"


def _percent(key: str) -> Callable[[Row], str]:
    return lambda row: NOTHING if row[key] is None else f"{100 * row[key]:.1f} %"


def _ratio(row: Row) -> str:
    ratio, error = row["perplexity_over_dense"], row["loss_minus_dense_standard_error"]
    return NOTHING if ratio is None or error is None else rounded(ratio, ratio * error)


def _metric(metric: Metric) -> Callable[[Row], str]:
    return lambda row: metric.shown(row) or NOTHING


COLUMNS = (
    Column("Perplexity", "perplexity", _with_error("perplexity")),
    Column("Loss \N{MINUS SIGN} dense", "loss_minus_dense", _with_error("loss_minus_dense")),
    Column("\N{MULTIPLICATION SIGN} dense", "perplexity_over_dense", _ratio),
    *(
        Column(metric.page_heading, metric.column, _metric(metric))
        for metric in METRICS
        if metric.page_heading
    ),
    Column("Sparsity", "sparsity", _percent("sparsity")),
    Column("Tokens", "adaptation_tokens", _count("adaptation_tokens")),
    Column("TFLOP", "adaptation_flops", _amount("adaptation_flops", 1e12)),
    Column("Time", "adaptation_wall_s", lambda row: duration(row["adaptation_wall_s"])),
    Column("GB", "adaptation_peak_bytes", _amount("adaptation_peak_bytes", 1e9)),
)


_NUMBERS = {"seed", *(f"{it.key}{end}" for it in COLUMNS for end in ("", "_standard_error"))}


def shown_cells(tables: Path) -> dict[str, Any] | None:
    """Return columns and rows of the table of all cells; None if there is no summary of them.

    A column that is empty for all cells is left out. A cell's name has the model and the seed only
    if there are several, since the head of the page names them.

    Args:
        tables: Folder with `summary.csv`.
    """
    if not (tables / "summary.csv").is_file():
        return None
    rows = [_parsed(row) for row in _read(tables / "summary.csv")]
    columns = [each for each in COLUMNS if any(row.get(each.key) is not None for row in rows)]
    more = _several(rows, "model", "seed")
    return {
        "columns": [each.title for each in columns],
        "rows": [
            {
                "record": row["record"],
                "name": _named(row, more),
                "fields": [
                    {"text": each.shown(row), "value": sorting(row[each.key])} for each in columns
                ],
            }
            for row in rows
        ],
    }


def shown_tasks(tables: Path) -> dict[str, Any] | None:
    """Return columns and rows of the table of zero-shot accuracies; None if no tasks were asked.

    Args:
        tables: Folder with `tasks.csv`.
    """
    path = tables / "tasks.csv"
    asked = _read(path) if path.is_file() else []
    if not asked:
        return None
    more = _several(asked, "model")
    rows: dict[str, dict[str, Any]] = {}
    for one in asked:
        name = _named(one, more)
        row = rows.setdefault(name, {"name": name, "records": one["records"].split(), "fields": {}})
        row["fields"][one["task"]] = _accuracy_field(one, "accuracy")
        if one["task"] == MEAN:
            for key, title in _DIFFERENCES.items():
                row["fields"][title] = _accuracy_field(one, key)
    documents = {
        each["task"]: (int(each["documents"]), int(each["documents_in_all"])) for each in asked
    }
    del documents[MEAN]
    return {
        "columns": [MEAN, *_DIFFERENCES.values(), *documents],
        "documents": documents,
        "rows": list(rows.values()),
    }


# The differences of the mean over tasks, with their headings.
_DIFFERENCES = {
    "accuracy_minus_dense": f"{MEAN} {MINUS_DENSE}",
    "accuracy_minus_unadapted": f"{MEAN} {MINUS_UNADAPTED}",
}


def _accuracy_field(row: Mapping[str, str], key: str) -> dict[str, str | None]:
    """Return an accuracy of a row of `tasks.csv`, or a difference of two."""
    numbers = [float(row[it]) if row[it] else None for it in (key, f"{key}_standard_error")]
    return {"text": percent(*numbers), "value": sorting(numbers[0])}


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _parsed(row: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that are shown, numbers as numbers, empty fields as None."""
    numbers = {key: float(row[key]) if row[key] else None for key in _NUMBERS & row.keys()}
    return numbers | {key: row[key] or None for key in WORDS}
