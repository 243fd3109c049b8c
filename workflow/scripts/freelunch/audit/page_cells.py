"""The tables of all cells and of their tasks on an audit's page."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from freelunch.analysis.accuracy import MEAN
from freelunch.analysis.pairing import Rows
from freelunch.reporting.formatting import (
    NOTHING,
    duration,
    marked,
    percent,
    rounded,
    three_digits,
    with_error,
)
from freelunch.reporting.metrics import METRICS, Metric
from freelunch.reporting.sections import MINUS_DENSE, MINUS_UNADAPTED
from freelunch.study.cell import DENSE, NONE

Row = Mapping[str, Any]
# The differences of the mean over tasks, with their headings.
_DIFFERENCES = {
    "accuracy_minus_dense": f"{MEAN} {MINUS_DENSE}",
    "accuracy_minus_unadapted": f"{MEAN} {MINUS_UNADAPTED}",
}


@dataclass(frozen=True)
class Field:
    """A number of a table: its text, and what it is sorted by."""

    text: str
    value: str


@dataclass(frozen=True)
class CellLine:
    """A line of a table: the name of its cell, its records, and its fields by their headings."""

    name: str
    records: list[str]
    fields: dict[str, Field] = field(default_factory=dict)


@dataclass(frozen=True)
class CellTable:
    """A table of cells; `documents` are those asked, and all, of each task."""

    columns: list[str]
    rows: list[CellLine]
    documents: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A column of the table of all cells.

    Attributes:
        title: Its heading.
        key: The column of `summary.csv` that it is sorted by.
        text: Returns its text in a row.
    """

    title: str
    key: str
    text: Callable[[Row], str]


def sorting(value: object) -> str:
    """Return the key that a number is sorted by.

    It is empty where there is no number, and infinity where the number is not finite.
    """
    if value is None:
        return ""
    number = float(str(value))
    return repr(number) if math.isfinite(number) else "Infinity"


def _with_error(title: str, key: str) -> Column:
    return Column(title, key, lambda row: with_error(row[key], row[f"{key}_standard_error"]))


def _known(title: str, key: str, text: Callable[[float], str]) -> Column:
    """Return a column that is a dash where there is no number."""
    return Column(title, key, lambda row: NOTHING if row[key] is None else text(row[key]))


def _metric(metric: Metric) -> Column:
    heading = str(metric.page_heading)
    return Column(heading, metric.column, lambda row: metric.shown(row) or NOTHING)


def _ratio(row: Row) -> str:
    ratio, error = row["perplexity_over_dense"], row["loss_minus_dense_standard_error"]
    return NOTHING if ratio is None or error is None else rounded(ratio, ratio * error)


COLUMNS = (
    _with_error("Perplexity", "perplexity"),
    _with_error("Loss \N{MINUS SIGN} dense", "loss_minus_dense"),
    Column("\N{MULTIPLICATION SIGN} dense", "perplexity_over_dense", _ratio),
    *(_metric(metric) for metric in METRICS if metric.page_heading),
    _known("Sparsity", "sparsity", lambda share: f"{100 * share:.1f} %"),
    _known("Tokens", "adaptation_tokens", "{:,.0f}".format),
    _known("TFLOP", "adaptation_flops", lambda flops: three_digits(flops / 1e12)),
    _known("Time", "adaptation_wall_s", duration),
    _known("GB", "adaptation_peak_bytes", lambda size: three_digits(size / 1e9)),
)


def cells_table(cells: Rows) -> CellTable:
    """Return the table of all cells.

    A column that is empty for all cells is left out. A cell's name has the model and the seed only
    if there are several, since the head of the page names them.
    """
    columns = [each for each in COLUMNS if any(row[each.key] is not None for row in cells)]
    more = _several(cells, "model", "seed")
    lines = []
    for row in cells:
        fields = {it.title: Field(it.text(row), sorting(row[it.key])) for it in columns}
        lines.append(CellLine(_name(row, more), [row["record"]], fields))
    return CellTable([each.title for each in columns], lines)


def tasks_table(tasks: Rows) -> CellTable | None:
    """Return the table of zero-shot accuracies; None if no tasks were asked."""
    if not tasks:
        return None
    more = _several(tasks, "model")
    lines: dict[str, CellLine] = {}
    documents = {}
    for row in tasks:
        name, task = _name(row, more), row["task"]
        line = lines.setdefault(name, CellLine(name, row["records"].split()))
        line.fields[task] = _accuracy(row, "accuracy")
        if task == MEAN:
            for key, title in _DIFFERENCES.items():
                line.fields[title] = _accuracy(row, key)
        else:
            documents[task] = (row["documents"], row["documents_in_all"])
    columns = [MEAN, *_DIFFERENCES.values(), *documents]
    return CellTable(columns, list(lines.values()), documents)


def _accuracy(row: Row, key: str) -> Field:
    """Return an accuracy, or a difference of two."""
    return Field(percent(row[key], row[f"{key}_standard_error"]), sorting(row[key]))


def _name(row: Row, more: Sequence[str]) -> str:
    """Return the name of a cell, as far as it tells it from the others of the study."""
    dense = row["criterion"] == DENSE
    pruning = DENSE if dense else f"{row['criterion']}-{row['pattern']}"
    model = [row["model"]] if "model" in more else []
    seed = [f"seed{row['seed']}"] if "seed" in more else []
    adaptation = [] if dense and row["adaptation"] == NONE else [row["adaptation"]]
    return marked("/".join([*model, pruning, *adaptation, *seed]), row.get("selected_on"))


def _several(rows: Rows, *keys: str) -> list[str]:
    """Return the keys in which rows differ."""
    return [key for key in keys if len({row[key] for row in rows}) > 1]
