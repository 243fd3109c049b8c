"""The figures of a study: each module in this folder declares one; `reporting.drawing` draws it.

Declarations import no drawing library, so planning can quickly find out which figures a study has
and which data they need.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from freelunch.analysis.pairing import Rows
from freelunch.reporting.table import Table
from freelunch.study.study import Study

if TYPE_CHECKING:
    from freelunch.reporting.results import Results

FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Figure:
    """A figure, and the CSV file that it draws.

    Attributes:
        name: Its files are `figures/<name>.*`; `reporting.drawing.<name>` has its `draw(rows,
            **settings)`, which returns it drawn.
        title: What it shows, in a few words.
        caption: How to read it, in reStructuredText; an empty line begins a paragraph.
        alternative: A description of it for readers who cannot see it.
        claims: Identifiers of the claims that it is evidence for; the audit's page shows it there.
        wanted: Returns whether a study has it.
        settings: Returns what `draw` needs to know of a study.
        data: What its CSV file contains, in a few words.
        data_caption: What the columns of the CSV file mean, in reStructuredText.
        columns: Columns of the CSV file.
        rows: Picks the rows of the CSV file from the results of a study.
        sums_up: Whether it sums up the whole study; the audit's page begins with it.
    """

    name: str
    title: str
    caption: Callable[[Study], str]
    alternative: str
    claims: Sequence[str]
    wanted: Callable[[Study], bool]
    settings: Callable[[Study], Mapping[str, Any]]
    data: str
    data_caption: Callable[[Study], str]
    columns: Sequence[str]
    rows: Callable[["Results"], Rows]
    sums_up: bool = False

    @property
    def table(self) -> Table:
        """Return the table of what the figure draws."""
        return Table(self.name, self.data, self.data_caption, self.columns, self.rows, "figures")


@cache
def figures() -> dict[str, Figure]:
    """Return all figures by name, in the order of their names."""
    declared = [importlib.import_module(module).FIGURE for module in figure_modules()]
    return {figure.name: figure for figure in declared}


def figures_of(study: Study) -> list[Figure]:
    """Return the figures that a study has."""
    return [figure for figure in figures().values() if figure.wanted(study)]


def figure_modules() -> list[str]:
    """Return the modules that declare figures, for digests of the code that reads them all."""
    return sorted(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))


def drawing_module(figure: str) -> str:
    """Return the module that draws a figure, for the digest of the job that draws it."""
    return f"freelunch.reporting.drawing.{figure}"
