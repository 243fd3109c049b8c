"""Zero-shot accuracy in tables, from made-up answers."""

import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from freelunch.analysis.accuracy import MEAN, TASK_COLUMNS, task_rows
from freelunch.evaluation.tasks import answers_bytes
from freelunch.records.read import answers_beside
from freelunch.reporting.sections import (
    MINUS_DENSE,
    MINUS_PRUNED,
    task_lines,
)
from freelunch.study.cell import Cell
from records_for_tests import PERPLEXITIES, make_records, make_study
from refusals import refused

DENSE, NONE, RECON = (
    Cell.parse(f"tiny/{name}")
    for name in ("dense/none/seed0", "wanda-u50/none/seed0", "wanda-u50/recon_block/seed0")
)
# Whether the answer to each document is right.
RIGHT: dict[Cell, dict[str, str]] = {
    DENSE: {"rte": "1111000011", "boolq": "110110"},
    NONE: {"rte": "1100000011", "boolq": "010010"},
    RECON: {"rte": "1110000011", "boolq": "110010"},
}
Made = dict[Cell, dict[str, Any]]


def made_up(folder: Path, right: dict[Cell, dict[str, str]] = RIGHT, **grid: list[int]) -> Made:
    """Return records with these answers, which are written beside them."""
    records = make_records(make_study(**grid), PERPLEXITIES)
    for cell, of_cell in right.items():
        tasks, answers = {}, {}
        for task, bits in of_cell.items():
            tasks[task] = {"documents": len(bits), "documents_in_all": 277, "version": 1.0}
            tasks[task] |= {"prompts_sha256": task, "sample_sha256": str(len(bits))}
            answers[task] = [
                {"document": at, "log_likelihoods": [-1.0, -2.0], "right": bit == "1"}
                for at, bit in enumerate(bits)
            ]
        truncated = {"requests": 0, "tokens": 0}
        metrics = {"tasks": tasks, "accuracy": 0.5, "truncated": truncated}
        records[cell]["metrics"]["tasks"] = metrics
        answers_beside(folder / cell.record_name).write_bytes(answers_bytes(answers))
    return records


def row_of(rows: list[Any], adaptation: str, task: str, criterion: str = "wanda") -> Any:
    wanted = {"criterion": criterion, "adaptation": adaptation, "task": task}
    (row,) = (row for row in rows if wanted.items() <= row.items())
    return row


def error_of(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


def test_differences_are_paired(tmp_path: Path) -> None:
    rows = task_rows(made_up(tmp_path), tmp_path)
    assert len(rows) == 3 * 3 and all(row.keys() == set(TASK_COLUMNS) for row in rows)
    row = row_of(rows, "recon_block", "rte")
    bits = zip(RIGHT[RECON]["rte"], RIGHT[NONE]["rte"], strict=True)
    error = error_of([int(one) - int(other) for one, other in bits])
    assert row["accuracy"] == 0.5
    assert row["accuracy_minus_pruned"] == pytest.approx(0.1)
    assert row["accuracy_minus_pruned_standard_error"] == pytest.approx(error)
    assert row["accuracy_minus_dense"] == pytest.approx(-0.1)
    # The error is far below those of the accuracies themselves.
    assert error < row["accuracy_standard_error"]


def test_the_mean_is_plain_whatever_the_tasks_sizes(tmp_path: Path) -> None:
    rows = task_rows(made_up(tmp_path), tmp_path)
    row = row_of(rows, "none", MEAN)
    assert row["accuracy"] == pytest.approx((4 / 10 + 2 / 6) / 2)
    errors = [row_of(rows, "none", task)["accuracy_standard_error"] for task in ("rte", "boolq")]
    assert row["accuracy_standard_error"] == pytest.approx(math.hypot(*errors) / 2)
    assert (row["documents"], row["accuracy_minus_pruned"]) == (16, None)


def test_the_dense_model_is_compared_with_nothing(tmp_path: Path) -> None:
    rows = task_rows(made_up(tmp_path), tmp_path)
    row = row_of(rows, "none", MEAN, "dense")
    assert row["accuracy_minus_dense"] is row["accuracy_minus_pruned"] is None
    lines = task_lines(rows)
    assert lines[0][MINUS_DENSE] == "-" and lines[2][MINUS_PRUNED].startswith("13")
    # Cells that are not asked have no rows.
    assert task_rows(make_records(make_study(), PERPLEXITIES), tmp_path) == []


@pytest.mark.parametrize("key", ["sample_sha256", "prompts_sha256"])
def test_other_documents_than_the_dense_model_are_refused(tmp_path: Path, key: str) -> None:
    records = made_up(tmp_path)
    records[RECON]["metrics"]["tasks"]["tasks"]["rte"][key] = "other"
    todo = "--forcerun evaluate_cell"
    with refused(where=RECON.record_name, found=f"rte: {key} = other", todo=todo):
        task_rows(records, tmp_path)


def test_seeds_are_averaged_document_by_document(tmp_path: Path) -> None:
    second = Cell.parse("tiny/wanda-u50/none/seed1")
    right = {cell: RIGHT[cell] for cell in (DENSE, NONE)}
    right[second] = {"rte": "0000000011", "boolq": "111111"}
    row = row_of(task_rows(made_up(tmp_path, right, seeds=[0, 1]), tmp_path), "none", "rte")
    assert (row["seeds"], row["accuracy"]) == (2, pytest.approx((4 + 2) / 20))
    bits = zip(RIGHT[NONE]["rte"], right[second]["rte"], strict=True)
    error = error_of([(int(one) + int(other)) / 2 for one, other in bits])
    assert row["accuracy_standard_error"] == pytest.approx(error)
