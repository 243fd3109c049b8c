"""The section of the summary that shows zero-shot accuracy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from freelunch.analysis.accuracy import MEAN
from freelunch.reporting.formatting import NOTHING, percent
from freelunch.reporting.sections.section import Section
from freelunch.study.cell import DENSE

Row = Mapping[str, Any]
WORDS = ("model", "criterion", "pattern", "adaptation")
MINUS_DENSE, MINUS_UNADAPTED = "\N{MINUS SIGN} dense", "\N{MINUS SIGN} unadapted"
NOTE = (
    "Accuracy: the share of documents whose correct choice has the highest log-likelihood "
    "(lm-eval's `acc`, without examples); mean: the plain mean over tasks. ± is the standard error "
    "over documents. Differences are paired, document by document, in percentage points."
)


def tasks_section(tasks: Sequence[Row]) -> Section:
    """Return the section.

    Args:
        tasks: As `analysis.accuracy.task_rows` returns them; at least one.
    """
    return Section("tasks", "Zero-shot accuracy", task_lines(tasks), list(task_notes(tasks)), WORDS)


def task_lines(tasks: Sequence[Row]) -> list[dict[str, str]]:
    """Return a line for each cell, from column to text."""
    lines: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in tasks:
        cell = tuple(row[key] for key in WORDS)
        line = lines.setdefault(cell, _names(row))
        line[row["task"]] = percent(row["accuracy"], row["accuracy_standard_error"])
        if row["task"] == MEAN:
            line[MINUS_DENSE] = _points(row, "accuracy_minus_dense")
            line[MINUS_UNADAPTED] = _points(row, "accuracy_minus_unadapted")
    return list(lines.values())


def task_notes(tasks: Sequence[Row]) -> Iterator[str]:
    """Yield the notes below the table: the documents, and the meaning of the numbers."""
    asked: dict[str, tuple[int, int]] = {}
    for row in tasks:
        if row["task"] != MEAN:
            asked[row["task"]] = row["documents"], row["documents_in_all"]
    of_each = ", ".join(
        f"{task} {count:,}" if count == whole else f"{task} {count:,} of {whole:,}"
        for task, (count, whole) in asked.items()
    )
    yield f"Documents of each task, the same for all cells: {of_each}."
    # All cells of a model have the same documents and tokenizer, so they truncate the same.
    truncated = {row["model"]: row for row in tasks if row["truncated_requests"]}
    for model, row in truncated.items():
        yield (
            f"{model}: {row['truncated_requests']:,} requests were longer than the model's "
            f"context; {row['truncated_tokens']:,} tokens at their beginnings were dropped."
        )
    yield NOTE


def _names(row: Row) -> dict[str, str]:
    line = {key: row[key] for key in WORDS}
    if row["criterion"] == DENSE:
        line |= {"pattern": NOTHING, "adaptation": NOTHING}
    return line


def _points(row: Row, key: str) -> str:
    return percent(row[key], row[f"{key}_standard_error"]).removesuffix(" %")
