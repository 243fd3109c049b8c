"""The figures of a study: those of `reporting`, and one that shows numbers of claims.

Like those of `reporting`, its declaration imports no drawing library.
"""

from freelunch.audit.figures import effects
from freelunch.reporting import figures as of_results
from freelunch.reporting.figures import Figure
from freelunch.reporting.figures import figure_modules as figure_modules
from freelunch.study.study import Study

# What it draws.
TABLES_OF_CLAIMS = (effects.FIGURE.table,)


def figures() -> dict[str, Figure]:
    """Return all figures by name, in the order of their names."""
    return dict(sorted({**of_results.figures(), effects.FIGURE.name: effects.FIGURE}.items()))


def figures_of(study: Study) -> list[Figure]:
    """Return the figures that a study has."""
    return [figure for figure in figures().values() if figure.wanted(study)]
