"""The figures of a study: each module in this folder declares one and draws it.

Planning imports the declarations to find out which figures a study has and which data they need.
So matplotlib is imported only where it is used.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from freelunch.analysis.pairing import Rows
from freelunch.reporting.results import Results, Table
from freelunch.study.study import Study

FORMATS = ("png", "svg", "pdf")


def looks(study: Study) -> dict[str, Any]:
    """Return `adaptations`, which decide the looks: all of the config, shown or not, so that each
    looks the same in every figure.
    """
    return {"adaptations": study.as_json()["adaptations"]}


def looks_and_text(study: Study) -> dict[str, Any]:
    """Return the same, and `text`, the name of the evaluation text, for an axis."""
    return {**looks(study), "text": study.perplexity.text}


@dataclass(frozen=True)
class Figure:
    """A figure, and the CSV file that it draws.

    Attributes:
        name: Its files are `figures/<name>.*`.
        title: What it shows, in a few words.
        caption: How to read it, in reStructuredText; an empty line begins a paragraph.
        alternative: A description of it for readers who cannot see it.
        claims: Identifiers of the claims that it is evidence for; the audit's page shows it there.
        wanted: Returns whether a study has it.
        data: What its CSV file contains, in a few words.
        data_caption: What the columns of the CSV file mean, in reStructuredText.
        columns: Columns of the CSV file.
        rows: Picks the rows of the CSV file from the results of a study.
        drawing: Name of the module that draws it: its `draw` returns the figure, given the rows of
            the CSV file, in which every field is text, and the settings.
        settings: Returns the settings: the other arguments of `draw`, by name.
        sums_up: Whether it sums up the whole study; the audit's page begins with it.
    """

    name: str
    title: str
    caption: Callable[[Study], str]
    alternative: str
    claims: Sequence[str]
    wanted: Callable[[Study], bool]
    data: str
    data_caption: Callable[[Study], str]
    columns: Sequence[str]
    rows: Callable[[Results], Rows]
    drawing: str
    settings: Callable[[Study], Mapping[str, object]] = looks
    sums_up: bool = False

    @property
    def table(self) -> Table:
        """Return the table of what the figure draws."""
        return Table(self.name, self.data, self.data_caption, self.columns, self.rows, "figures")


@cache
def figures() -> dict[str, Figure]:
    """Return all figures by name, in the order of their names."""
    declared = [importlib.import_module(module).FIGURE for module in figure_modules()]
    return {figure.name: figure for figure in sorted(declared, key=lambda figure: figure.name)}


def figure_modules() -> list[str]:
    """Return the modules that declare figures, for digests of the code that reads them all."""
    return sorted(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))
