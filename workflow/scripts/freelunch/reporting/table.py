"""A table of numbers: a CSV file, declared once."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from freelunch.analysis.pairing import Row, Rows
from freelunch.study.study import Study

if TYPE_CHECKING:
    from freelunch.reporting.results import Results


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
    rows: Callable[["Results"], Rows]
    folder: str = "tables"

    @property
    def file(self) -> str:
        """Return the path of the file below the folder of the study's results."""
        return f"{self.folder}/{self.name}.csv"

    def text(self, results: "Results") -> str:
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
