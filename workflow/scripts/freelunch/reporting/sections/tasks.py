"""The part of the summary that says what the zero-shot tasks say, in words and rounded numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from freelunch.analysis.accuracy import MEAN
from freelunch.reporting.formatting import NOTHING, percent
from freelunch.study.cell import DENSE

NOTES = (
    "Accuracy: share of documents whose right choice has the highest log-likelihood (lm-eval's "
    "acc, without examples); mean: the plain mean of the tasks. ± is the standard error over "
    "documents. Differences are paired, document by document, in percentage points.",
)


def task_lines(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return a line for each cell, from column to text."""
    lines: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in rows:
        cell = tuple(row[key] for key in ("model", "criterion", "pattern", "adaptation"))
        line = lines.setdefault(cell, _names(row))
        accuracy = percent(row["accuracy"], row["accuracy_standard_error"])
        line[row["task"]] = accuracy
        if row["task"] == MEAN:
            line["minus dense"] = _points(row, "accuracy_minus_dense")
            line["minus not adapted"] = _points(row, "accuracy_minus_unadapted")
    return list(lines.values())


def task_notes(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what was asked, and what the numbers are."""
    asked: dict[str, tuple[int, int]] = {}
    for row in rows:
        if row["task"] != MEAN:
            asked[row["task"]] = row["documents"], row["documents_in_all"]
    of_each = ", ".join(
        f"{task} {count:,}" if count == whole else f"{task} {count:,} of {whole:,}"
        for task, (count, whole) in asked.items()
    )
    yield f"Documents of each task, the same for all cells: {of_each}."
    # The same documents and the same tokenizer: the same for all cells of a model.
    truncated = {row["model"]: row for row in rows if row["truncated_requests"]}
    for model, row in truncated.items():
        yield (
            f"{model}: {row['truncated_requests']:,} requests were longer than the model takes; "
            f"{row['truncated_tokens']:,} tokens at their beginnings were left out."
        )
    yield from NOTES


def _names(row: Mapping[str, Any]) -> dict[str, str]:
    line = {key: row[key] for key in ("model", "criterion", "pattern", "adaptation")}
    if row["criterion"] == DENSE:
        line |= {"pattern": NOTHING, "adaptation": NOTHING}
    return line


def _points(row: Mapping[str, Any], key: str) -> str:
    return percent(row[key], row[f"{key}_standard_error"]).removesuffix(" %")
