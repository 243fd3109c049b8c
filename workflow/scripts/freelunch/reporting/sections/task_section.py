"""The section of the summary that shows zero-shot accuracy."""

from collections.abc import Iterator

from freelunch.analysis.accuracy import MEAN
from freelunch.analysis.pairing import Rows
from freelunch.reporting.formatting import NOTHING, shown_percent
from freelunch.reporting.summary import Section
from freelunch.study.cell import DENSE

WORDS = ("model", "criterion", "pattern", "adaptation")
MINUS_DENSE, MINUS_UNADAPTED = "\N{MINUS SIGN} dense", "\N{MINUS SIGN} unadapted"
DIFFERENCES = {MINUS_DENSE: "accuracy_minus_dense", MINUS_UNADAPTED: "accuracy_minus_unadapted"}
NOTE = (
    "Accuracy: the share of documents whose correct choice has the highest log-likelihood "
    "(lm-eval's `acc`, without examples); mean: the plain mean over tasks. ± is the standard error "
    "over documents. Differences are paired, document by document, in percentage points."
)


def tasks_section(tasks: Rows) -> Section:
    """Return the section."""
    return Section("tasks", "Zero-shot accuracy", task_lines(tasks), list(task_notes(tasks)), WORDS)


def task_lines(tasks: Rows) -> list[dict[str, str]]:
    """Return a line for each cell, from column to text."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in tasks:
        names = {key: row[key] for key in WORDS}
        if row["criterion"] == DENSE:
            names |= {"pattern": NOTHING, "adaptation": NOTHING}
        line = lines.setdefault(tuple(row[key] for key in WORDS), names)
        line[row["task"]] = shown_percent(row, "accuracy")
        if row["task"] == MEAN:
            for column, key in DIFFERENCES.items():
                # In points, so without the sign of percent.
                line[column] = shown_percent(row, key).removesuffix(" %")
    return list(lines.values())


def task_notes(tasks: Rows) -> Iterator[str]:
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
