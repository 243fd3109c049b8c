"""Accuracy on the zero-shot tasks, and how pruning and adaptation change it.

All cells answer the same documents, so two cells are compared document by document. The error of
such a difference is far smaller than the errors of the two accuracies.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from freelunch.analysis import pairing
from freelunch.records.read import load_answers
from freelunch.study.cell import NONE, Cell

# The name, in place of a task, of the plain mean over all tasks.
MEAN = "mean"
TASK_COLUMNS = (
    *("model", "criterion", "pattern", "adaptation", "seeds"),
    *("task", "documents", "documents_in_all", "version"),
    *pairing.error_columns("accuracy")[:2],
    "chance",
    *pairing.error_columns("accuracy_minus_dense")[:2],
    *pairing.error_columns("accuracy_minus_pruned")[:2],
    *("truncated_requests", "truncated_tokens", "records"),
)
# For each task of a cell, whether the answer to each document is right: a share of its seeds.
Right = Mapping[str, Sequence[float]]
# The answers of a cell, as `load_answers` returns them.
Answers = Mapping[str, Sequence[Mapping[str, Any]]]


def task_rows(records: pairing.Records, folder: Path) -> list[pairing.Row]:
    """Return a row, with TASK_COLUMNS, for each task of each cell that was evaluated on tasks, and
    one for their plain mean; seeds are averaged, document by document. The folder of the records
    has the answers beside them. UserError: answers are missing, or two cells were asked
    different documents.
    """
    asked = {cell: record for cell, record in records.items() if "tasks" in record["metrics"]}
    answers = {cell: _answers(cell, asked, folder) for cell in asked}
    right = {cell: _right(of_cell) for cell, of_cell in answers.items()}
    rows: list[pairing.Row] = []
    for cells in pairing.seed_groups(asked):
        one, mine = cells[0], _over_seeds([right[cell] for cell in cells])
        dense = None if one.is_dense else _over_seeds([right[Cell.dense(one.model)]])
        before = [right[it] for cell in cells if (it := replace(cell, adaptation=NONE)) in right]
        unadapted = None
        if one.adaptation != NONE and len(before) == len(cells):
            unadapted = _over_seeds(before)
        metrics, guessed = asked[one]["metrics"]["tasks"], guessing(answers[one])
        for task in (*mine, MEAN):
            facts = [metrics["tasks"][name] for name in (mine if task == MEAN else [task])]
            # Counted over all tasks together, since the model is asked all of them at once.
            truncated = metrics["truncated"] if task == MEAN else {}
            rows.append(
                {
                    **{key: getattr(one, key) for key in TASK_COLUMNS[:4]},
                    "seeds": len(cells),
                    "task": task,
                    "documents": sum(each["documents"] for each in facts),
                    "documents_in_all": sum(each["documents_in_all"] for each in facts),
                    "version": None if task == MEAN else facts[0]["version"],
                    "records": " ".join(cell.record_name for cell in cells),
                    **pairing.with_errors("accuracy", *_mean(mine, task)),
                    "chance": guessed[task][0],
                    **pairing.with_errors("accuracy_minus_dense", *_difference(mine, dense, task)),
                    **pairing.with_errors(
                        "accuracy_minus_pruned", *_difference(mine, unadapted, task)
                    ),
                    "truncated_requests": truncated.get("requests"),
                    "truncated_tokens": truncated.get("tokens"),
                }
            )
    return rows


def guessing(answers: Answers) -> dict[str, tuple[float, float]]:
    """Return the accuracy of guessing in each task, and in their mean, with its standard error over
    documents: the choices of a document are equally likely.
    """
    choices = {task: [len(each["log_likelihoods"]) for each in answers[task]] for task in answers}
    found = {
        task: (
            fmean(1 / count for count in counts),
            math.sqrt(math.fsum((1 - 1 / count) / count for count in counts)) / len(counts),
        )
        for task, counts in choices.items()
    }
    chances, errors = zip(*found.values(), strict=True)
    return {**found, MEAN: (fmean(chances), math.hypot(*errors) / len(found))}


def accuracies(answers: Answers) -> dict[str, float]:
    """Return the share of right answers in each task, and their plain mean."""
    right = _right(answers)
    return {task: _mean(right, task)[0] for task in (*right, MEAN)}


def _answers(cell: Cell, records: pairing.Records, folder: Path) -> Answers:
    """Return the answers of a cell. UserError: its dense model was asked other documents."""
    dense = Cell.dense(cell.model)
    mine, theirs = (records[each]["metrics"]["tasks"]["tasks"] for each in (cell, dense))
    for task, facts in mine.items():
        for key in ("sample_sha256", "prompts_sha256"):
            pairing.check_alike(cell, f"{task}: {key}", facts[key], theirs[task][key])
    answers = load_answers(folder / cell.record_name)
    return {task: answers[task] for task in mine}


def _right(answers: Answers) -> Right:
    return {task: [bool(answer["right"]) for answer in of] for task, of in answers.items()}


def _over_seeds(seeds: Sequence[Right]) -> Right:
    return {task: pairing.window_means([right[task] for right in seeds]) for task in seeds[0]}


def _mean(right: Right, task: str) -> tuple[float, float]:
    """Return the mean of a task, or of all tasks' means, and its error over documents."""
    tasks = list(right) if task == MEAN else [task]
    errors = [pairing.standard_error(right[each]) for each in tasks]
    return fmean(fmean(right[each]) for each in tasks), math.hypot(*errors) / len(tasks)


def _difference(right: Right, other: Right | None, task: str) -> tuple[float | None, float | None]:
    if other is None:
        return None, None
    pairs = {each: [a - b for a, b in zip(right[each], other[each], strict=True)] for each in right}
    return _mean(pairs, task)
