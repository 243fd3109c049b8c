"""The sections of a study's summary, each a table with notes in a module of its own."""

from freelunch.reporting.results import Results
from freelunch.reporting.sections.budget_section import budgets_section
from freelunch.reporting.sections.cell_section import cells_section
from freelunch.reporting.sections.gap_section import gaps_section
from freelunch.reporting.sections.task_section import tasks_section
from freelunch.reporting.sections.window_section import windows_section
from freelunch.reporting.summary import Section


def summary_sections(results: Results) -> list[Section]:
    """Return the sections that a study has numbers for; that of all cells comes first."""
    sections = [cells_section(results.study, results.means)]
    if results.tasks:
        sections.append(tasks_section(results.tasks))
    if results.gaps:
        sections.append(gaps_section(results.study, results.means, results.gaps))
    if results.windows:
        sections.append(windows_section(results.windows))
    if results.budgets:
        sections.append(budgets_section(results.budgets, results.reaches))
    return sections
