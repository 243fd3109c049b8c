"""Lay out the panels of the criteria: one for each model and pattern, in rows that fit a page."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from freelunch.reporting.labels import criterion_label, pattern_label, seeds_label

PANEL_HEIGHT_INCHES = 2.3
# A wider row would become unreadably small on a page, so it continues below.
PANELS_A_ROW = 3
ROW_INCHES = 4.2
# Wide enough for the legend.
LEAST_WIDTH_INCHES = 3.2
# The width of a character of titles and names of criteria.
CHARACTER_INCHES = 0.078
# The distance between points, wide enough for a value of four digits. Between criteria, half a step
# is added.
STEP_INCHES = 0.36
GAP_STEPS = 0.5


@dataclass(frozen=True)
class Point:
    """A row of criteria.csv; None where a number is empty or not finite."""

    criterion: str
    pattern: str
    model: str
    adaptation: str
    seeds: int
    perplexity: float | None
    error: float | None
    spread: float | None

    @classmethod
    def of(cls, row: Mapping[str, str]) -> "Point":
        """Return the point of a row."""
        return cls(
            row["criterion"],
            row["pattern"],
            row["model"],
            row["adaptation"],
            int(row["seeds"]),
            _finite(row["perplexity"]),
            _finite(row["perplexity_standard_error"]),
            _finite(row["perplexity_standard_deviation_over_seeds"]),
        )

    @property
    def bar(self) -> float:
        """Return the length of the longer of its two bars."""
        return max(self.error or 0.0, self.spread or 0.0)


@dataclass(frozen=True)
class Panel:
    """One model and pattern, with the criteria that it has.

    Attributes:
        model: Name of the model; panels of one model share their scale.
        title: Text above the panel.
        points: The points that it shows.
        adaptations: How many adaptations each criterion has room for.
    """

    model: str
    title: str
    points: Sequence[Point]
    adaptations: int

    @property
    def criteria(self) -> list[str]:
        """Return the names of the criteria along the axis."""
        return _distinct(point.criterion for point in self.points)

    @property
    def width_inches(self) -> float:
        """Return the width at which neither marks nor words touch."""
        marks_inches = STEP_INCHES * (self.adaptations + GAP_STEPS)
        name_inches = CHARACTER_INCHES * max(len(criterion_label(name)) for name in self.criteria)
        of_criteria = max(marks_inches, name_inches) * len(self.criteria)
        return max(of_criteria, CHARACTER_INCHES * max(map(len, self.title.splitlines())))


def panel_rows(model: str, points: Sequence[Point], adaptations: int) -> list[list[Panel]]:
    """Return the panels of a model, one per pattern, in rows that fit a page.

    Args:
        model: Name of the model, shown above the first panel of each row.
        points: The points of all models.
        adaptations: How many adaptations each criterion has room for.
    """
    rows: list[list[Panel]] = []
    several = any(point.seeds > 1 for point in points)
    of_model = [point for point in points if point.model == model]
    for pattern in _distinct(point.pattern for point in of_model):
        here = [point for point in of_model if point.pattern == pattern]
        panel = Panel(model, _title(pattern, here, several), here, adaptations)
        if rows and _fits([*rows[-1], panel]):
            rows[-1].append(panel)
        else:
            rows.append([replace(panel, title=f"{model}, {panel.title}")])
    return rows


def _title(pattern: str, points: Sequence[Point], several: bool) -> str:
    """Return the pattern in words and, if there are several seeds, the number of seeds below it."""
    label = pattern_label(pattern)
    return f"{label}\n{seeds_label({point.seeds for point in points})}" if several else label


def panel_grid(figure: Figure, rows: Sequence[Sequence[Panel]]) -> list[list[Axes]]:
    """Return axes for rows of panels, and give the figure its size."""
    widest = max(_width_inches(row) for row in rows)
    width_inches = max(1.4 + widest, LEAST_WIDTH_INCHES)
    figure.set_size_inches(width_inches, 0.7 + PANEL_HEIGHT_INCHES * len(rows))
    places = figure.add_gridspec(len(rows), 1)
    first: dict[str, Axes] = {}
    grid = []
    for index, row in enumerate(rows):
        widths = [panel.width_inches for panel in row]
        if widest > sum(widths):
            # A column that stays empty, so that a criterion takes the same room in all rows.
            widths.append(widest - sum(widths))
        columns = places[index].subgridspec(1, len(widths), width_ratios=widths)
        axes_of_row = []
        for column, panel in enumerate(row):
            axes = figure.add_subplot(columns[column], sharey=first.get(panel.model))
            axes.tick_params(axis="y", left=column == 0, labelleft=column == 0)
            first.setdefault(panel.model, axes)
            axes_of_row.append(axes)
        grid.append(axes_of_row)
    return grid


def _fits(row: Sequence[Panel]) -> bool:
    return len(row) <= PANELS_A_ROW and _width_inches(row) <= ROW_INCHES


def _width_inches(row: Sequence[Panel]) -> float:
    return sum(panel.width_inches for panel in row)


def _finite(field: str) -> float | None:
    return float(field) if field and math.isfinite(float(field)) else None


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
