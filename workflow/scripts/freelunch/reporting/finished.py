"""A finished study: the config and records from which tables and claims are computed."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from freelunch.analysis.pairing import Records, Rows
from freelunch.analysis.window_effect import window_rows
from freelunch.study.study import Study


@dataclass(frozen=True)
class FinishedStudy:
    """A finished study.

    Attributes:
        study: Its config.
        records: The record of each of its cells.
        folder: Folder of the records, with the answers to tasks beside them.
    """

    study: Study
    records: Records
    folder: Path

    @cached_property
    def windows(self) -> Rows:
        """Return a row for each reconstruction, with what its window gains."""
        return window_rows(self.records, self.study)
