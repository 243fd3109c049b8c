"""A published table as evidence for claims: its numbers stand in place of records."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from freelunch.analysis.budget_effect import BudgetComparison
from freelunch.analysis.pairing import by_adaptation, pruned_models
from freelunch.audit.evidence import ACCURACY, PERPLEXITY, Evidence
from freelunch.audit.published_file import Published
from freelunch.study.adaptations import Windowed
from freelunch.study.cell import Cell
from freelunch.study.study import Study

# The nominal size at the end of a model's name, such as 1.3b or 125m.
_SIZE = re.compile(r"-(\d+(?:\.\d+)?)([bm])(?:-|$)")
_UNITS = {"b": 10**9, "m": 10**6}


@dataclass(frozen=True)
class PublishedTable(Evidence):
    """The numbers of one source in one metric.

    Measures of claims take it as they take the records of a study. A number is a sample with a
    single window, so that it has no interval. Numbers of different sources, or of windows of
    different lengths, never stand in one table.

    Attributes:
        rows: The published number of each cell; all of them have seed 0.
    """

    rows: Mapping[Cell, Published]

    @property
    def metric(self) -> str:
        """Return the metric of all numbers, as claims name it."""
        return ACCURACY if next(iter(self.rows.values())).tasks else PERPLEXITY

    @property
    def source(self) -> str:
        """Return who published the table, and where."""
        one = next(iter(self.rows.values()))
        return f"{one.source}, {one.reference}"

    @property
    def reconstructs(self) -> bool:
        """Return whether a pruned model of the table was reconstructed; claims are about that."""
        return any(by_name.keys() & self.study.references for by_name in self.pruned)

    def losses(self, cell: Cell, metric: str) -> list[list[float]] | None:
        """Return the loss of a cell as a single window; None if it was not published."""
        if metric != self.metric or cell not in self.rows:
            return None
        value = self.rows[cell].value
        return [[1 - value / 100 if metric == ACCURACY else math.log(value)]]

    def window_of(self, cell: Cell) -> int | str:
        """Return the window in the settings that a published adaptation is taken to have."""
        settings = self.study.config.adaptations[cell.adaptation]
        assert isinstance(settings, Windowed)
        return settings.window

    def work_peak(self, cell: Cell) -> None:
        """Return nothing: the tables do not say how much memory a number took."""

    def only(self, keep: Callable[[Cell], bool]) -> Self:
        """Return the numbers of some of the cells."""
        return replace(self, rows={cell: row for cell, row in self.rows.items() if keep(cell)})

    def dense_perplexity(self, model: str) -> float | None:
        """Return the published perplexity of a dense model; None if there is none."""
        dense = self.rows.get(Cell.dense(model))
        return dense.value if dense and self.metric == PERPLEXITY else None

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Return the nominal size of each model whose name ends with it."""
        sizes = {cell.model: _SIZE.search(cell.model) for cell in self.rows}
        return {
            model: round(float(size[1]) * _UNITS[size[2]]) for model, size in sizes.items() if size
        }

    @cached_property
    def comparisons(self) -> list[BudgetComparison]:
        """Return nothing: the tables do not say how many tokens and operations a number took."""
        return []

    @cached_property
    def pruned(self) -> list[dict[str, dict[int, Cell]]]:
        """Return the cells of each pruned model, by adaptation and then by seed."""
        return [by_adaptation(cells) for cells in pruned_models(self.rows)]


def published_tables(published: Iterable[Published], meaning: Study) -> list[PublishedTable]:
    """Return published numbers as tables, one for each source, metric and length."""
    tables: dict[tuple[object, ...], dict[Cell, Published]] = {}
    for row in published:
        cell = Cell(row.model, row.criterion, row.pattern, row.adaptation, seed=0)
        of_source = tables.setdefault((row.source, row.reference, row.metric, row.length), {})
        of_source[cell] = row
    return [PublishedTable(meaning, {}, Path(), rows) for rows in tables.values()]
