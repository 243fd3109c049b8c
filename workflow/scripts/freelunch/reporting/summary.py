"""The summary of a study for people: tables and notes on how to read them, as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A table of the summary with its notes.

    Attributes:
        title: What the table shows.
        lines: Its lines, from column to text.
        notes: What the table shows and how to read it, as sentences of Markdown.
        words: Its columns of words; the others are numbers, aligned to the right.
    """

    title: str
    lines: Sequence[Mapping[str, str]]
    notes: Sequence[str]
    words: Sequence[str]


def summary_text(sections: Sequence[Section]) -> str:
    """Return sections as Markdown; the first one has no title."""
    parts: list[str] = []
    for section in sections:
        title = [f"**{section.title}**"] if parts else []
        parts += [
            *title,
            _markdown_table(section),
            "\n".join(f"- {note}" for note in section.notes),
        ]
    return "\n\n".join(parts) + "\n"


def _markdown_table(section: Section) -> str:
    columns = []
    for name in section.lines[0]:
        fields = [name, *(line[name] for line in section.lines)]
        width = max(map(len, fields))
        is_words = name in section.words
        head, *rest = (each.ljust(width) if is_words else each.rjust(width) for each in fields)
        columns.append([head, "-" * width if is_words else "-" * (width - 1) + ":", *rest])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True))
