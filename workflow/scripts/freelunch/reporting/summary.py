"""The summary of a study for people: its tables in Markdown, with notes on how to read them."""

from collections.abc import Iterable, Sequence

from freelunch.reporting.results import Results
from freelunch.reporting.sections.budgets import budgets_section
from freelunch.reporting.sections.cells import cells_section
from freelunch.reporting.sections.gaps import gaps_section
from freelunch.reporting.sections.section import Section
from freelunch.reporting.sections.tasks import tasks_section
from freelunch.reporting.sections.windows import windows_section


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


def summary_text(sections: Sequence[Section]) -> str:
    """Return sections as Markdown; the first one has no title."""
    parts = []
    for number, section in enumerate(sections):
        title = [f"**{section.title}**"] if number else []
        notes = "\n".join(f"- {note}" for note in section.notes)
        parts += [*title, _markdown_table(section), notes]
    return "\n\n".join(parts) + "\n"


def _markdown_table(section: Section) -> str:
    """Return a table that also reads well as plain text."""
    columns = list(section.lines[0])
    widths = {
        column: max(len(column), *(len(line[column]) for line in section.lines))
        for column in columns
    }

    def joined(fields: Iterable[tuple[str, str]]) -> str:
        padded = (
            field.ljust(widths[column]) if column in section.words else field.rjust(widths[column])
            for column, field in fields
        )
        return f"| {' | '.join(padded)} |"

    rules = {
        column: "-" * width if column in section.words else "-" * (width - 1) + ":"
        for column, width in widths.items()
    }
    table = [dict(zip(columns, columns, strict=True)), rules, *section.lines]
    return "\n".join(joined(line.items()) for line in table)
