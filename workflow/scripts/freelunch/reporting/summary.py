"""The summary of a study for people: tables and notes on how to read them, Markdown and LaTeX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Characters that LaTeX reads as commands.
_ESCAPES = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
}
_LATEX_HEAD = (
    "% Needs \\usepackage{booktabs,longtable}. Written by this study's workflow: do not edit.\n"
)


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


def latex_text(sections: Sequence[Section], study: str) -> str:
    """Return tables for `\\input` in a document that loads the packages booktabs and longtable; the
    labels are `tab:<study>-<section>`. Tables may continue over several pages.
    """
    text = _LATEX_HEAD
    for section in sections:
        columns = list(section.lines[0])
        alignment = "".join("l" if name in section.words else "r" for name in columns)
        header = [r"\toprule", _latex_row(columns), r"\midrule"]
        caption = escaped(f"{section.title} of the study {study}.")
        lines = [
            r"{\small",
            rf"\begin{{longtable}}{{{alignment}}}",
            rf"\caption{{{caption}}}\label{{tab:{study}-{section.name}}}\\",
            *(*header, r"\endfirsthead", *header, r"\endhead", r"\bottomrule", r"\endlastfoot"),
            *(_latex_row(list(line.values())) for line in section.lines),
            r"\end{longtable}}",
            r"\begin{itemize}\footnotesize",
            *(rf"\item {escaped(note.replace('`', ''))}" for note in section.notes),
            r"\end{itemize}",
        ]
        text += "\n".join(lines) + "\n"
    return text


def _latex_row(fields: Sequence[str]) -> str:
    return " & ".join(map(escaped, fields)) + r" \\"


def escaped(text: str) -> str:
    """Return text with the characters escaped that LaTeX reads as commands."""
    return "".join(_ESCAPES.get(character, character) for character in text)
