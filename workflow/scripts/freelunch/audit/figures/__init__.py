"""The figures of a study: those of `reporting`, and two that show numbers of claims.

Like those of `reporting`, these declarations import no drawing library.
"""

from freelunch.audit.figures import budget_ratios, effects
from freelunch.reporting import figures as of_results
from freelunch.reporting.figures import Figure
from freelunch.reporting.figures import figure_modules as figure_modules
from freelunch.study.study import Study

OF_CLAIMS = {figure.name: figure for figure in (budget_ratios.FIGURE, effects.FIGURE)}
# What these figures draw.
TABLES_OF_CLAIMS = tuple(figure.table for figure in OF_CLAIMS.values())


def figures() -> dict[str, Figure]:
    """Return all figures by name, in the order of their names."""
    return dict(sorted({**of_results.figures(), **OF_CLAIMS}.items()))


def figures_of(study: Study) -> list[Figure]:
    """Return the figures that a study has."""
    return [figure for figure in figures().values() if figure.wanted(study)]
