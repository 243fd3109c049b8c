"""The numbers that tables, figures and text show, each computed once from the records, and the CSV
files that hold them.
"""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from freelunch.analysis.accuracy import task_rows
from freelunch.analysis.budget_effect import budget_rows
from freelunch.analysis.doubts import doubted, find_doubts
from freelunch.analysis.pairing import Records, Row, Rows
from freelunch.reporting import cells as of_cells
from freelunch.study.study import Study


def _rows(read: Callable[["Results"], Rows]) -> cached_property[Rows]:
    """Return rows that are computed when they are first asked for, with what is doubted of them."""
    return cached_property(lambda self: doubted(read(self), self.doubts))


@dataclass(frozen=True)
class Results:
    """The numbers of a finished study.

    Attributes:
        study: Its config.
        records: The record of each of its cells.
        folder: Folder of the records, with the answers to tasks beside them.
        doubts: What makes numbers of the study no finding.
        cells: A row for each cell; all rows have the `doubts` about their cells.
        means: A row for all seeds of each cell.
        criteria: The rows of `means` that compare criteria.
        criteria_budgets: The rows of `means` that compare criteria budget by budget.
        budgets: Retrainings beside the reconstruction, by budget.
        tasks: Zero-shot accuracies, by cell and task.
    """

    study: Study
    records: Records
    folder: Path

    doubts = cached_property(lambda self: find_doubts(self.records, self.folder))
    cells = _rows(lambda self: of_cells.cell_rows(self.records))
    means = _rows(lambda self: of_cells.means_over_seeds(self.records))
    criteria = _rows(
        lambda self: of_cells.criteria_rows(self.means, self.study.comparisons.criteria_budgets)
    )
    criteria_budgets = _rows(
        lambda self: of_cells.criteria_budget_rows(
            self.means, self.study.comparisons.criteria_budgets
        )
    )
    budgets = _rows(lambda self: budget_rows(self.records, self.study))
    tasks = _rows(lambda self: task_rows(self.records, self.folder))


@dataclass(frozen=True)
class Table:
    """A CSV file in the results of a study.

    Attributes:
        name: Its file is `<folder>/<name>.csv`.
        content: What it contains, in a few words, for the list of Snakemake's report.
        caption: What its columns mean, in reStructuredText.
        columns: Names of its columns; the unit of a column, if there is one, is part of its name.
        rows: Picks its rows from the results; further keys of a row are not written.
        folder: Below the folder of the study's results.
    """

    name: str
    content: str
    caption: Callable[[Study], str]
    columns: Sequence[str]
    rows: Callable[[Results], Rows]
    folder: str = "tables"

    @property
    def file(self) -> str:
        """Return the path of the file below the folder of the study's results."""
        return f"{self.folder}/{self.name}.csv"

    def text(self, results: Results) -> str:
        """Return the content of the file."""
        return csv_text(self.columns, self.rows(results))


def csv_text(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Return the given columns of rows as CSV; floats are written so that they read back exactly.

    None is an empty field, NaN is `nan`.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
