"""A section of the summary: a table, and notes on how to read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A table of the summary with its notes.

    Attributes:
        name: One word, for labels.
        title: What the table shows.
        lines: Its lines, from column to text.
        notes: What the table shows and how to read it, as sentences of Markdown.
        words: Its columns of words; the others are numbers, aligned to the right.
    """

    name: str
    title: str
    lines: Sequence[Mapping[str, str]]
    notes: Sequence[str]
    words: Sequence[str]
