"""The numbers that tables, figures and text show, each computed once from the records."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from freelunch.analysis.accuracy import task_rows
from freelunch.analysis.budget_effect import budget_rows, reach_rows
from freelunch.analysis.criteria_gap import gap_rows, pair_rows, size_rows
from freelunch.analysis.drift import drift_rows
from freelunch.analysis.pairing import Records, Rows
from freelunch.analysis.window_effect import window_rows
from freelunch.reporting.cells import (
    cell_rows,
    criteria_budget_rows,
    criteria_rows,
    means_over_seeds,
)
from freelunch.study.study import Study


@dataclass(frozen=True)
class Results:
    """The numbers of a finished study.

    Attributes:
        study: Its config.
        records: The record of each of its cells.
        folder: Folder of the records, with the answers to tasks beside them.
    """

    study: Study
    records: Records
    folder: Path

    @cached_property
    def cells(self) -> Rows:
        """Return a row for each cell."""
        return cell_rows(self.records)

    @cached_property
    def means(self) -> Rows:
        """Return a row for all seeds of each cell."""
        return means_over_seeds(self.records)

    @cached_property
    def criteria(self) -> Rows:
        """Return the rows of `means` that compare criteria."""
        return criteria_rows(self.means, self.study.comparisons.criteria_budgets)

    @cached_property
    def criteria_budgets(self) -> Rows:
        """Return the rows of `means` that compare criteria budget by budget."""
        return criteria_budget_rows(self.means, self.study.comparisons.criteria_budgets)

    @cached_property
    def gaps(self) -> Rows:
        """Return the gaps between the best and the worst criterion, with and without adaptation."""
        return gap_rows(self.records)

    @cached_property
    def sizes(self) -> Rows:
        """Return the gaps beside the size of their model."""
        return size_rows(self.gaps, self.records)

    @cached_property
    def pairs(self) -> Rows:
        """Return the difference between every two criteria."""
        return pair_rows(self.records)

    @cached_property
    def windows(self) -> Rows:
        """Return a row for each reconstruction, with what its window gains."""
        return window_rows(self.records, self.study)

    @cached_property
    def drift(self) -> Rows:
        """Return the drift of activations, block by block."""
        return drift_rows(self.records, self.windows)

    @cached_property
    def budgets(self) -> Rows:
        """Return retrainings beside the reconstruction, by budget."""
        return budget_rows(self.records, self.study)

    @cached_property
    def reaches(self) -> Rows:
        """Return the budget at which each retraining reaches the reconstruction."""
        return reach_rows(self.records, self.study)

    @cached_property
    def tasks(self) -> Rows:
        """Return zero-shot accuracies, by cell and task."""
        return task_rows(self.records, self.folder)
