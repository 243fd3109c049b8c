"""The sections of a summary in LaTeX: the same tables and notes as in Markdown."""

from collections.abc import Sequence

from freelunch.reporting.sections.section import Section

# Characters that LaTeX reads as commands.
_ESCAPES = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
}


def tables_text(sections: Sequence[Section], study: str) -> str:
    """Return tables for `\\input` in a document that loads the packages booktabs and longtable.

    Args:
        sections: As `reporting.summary.summary_sections` returns them.
        study: Name of the study, for the labels `tab:<study>-<section>`.
    """
    head = (
        "% Needs \\usepackage{booktabs,longtable}. Written by this study's workflow: do not edit.\n"
    )
    return head + "".join(_table(section, study) for section in sections)


def _table(section: Section, study: str) -> str:
    """Return a table that may continue over several pages, as that of all cells must."""
    columns = list(section.lines[0])
    alignment = "".join("l" if column in section.words else "r" for column in columns)
    header = [r"\toprule", _row(columns), r"\midrule"]
    caption = f"{section.title} of the study {study}."
    return "\n".join(
        (
            r"{\small",
            rf"\begin{{longtable}}{{{alignment}}}",
            rf"\caption{{{escaped(caption)}}}\label{{tab:{study}-{section.name}}}\\",
            *header,
            r"\endfirsthead",
            *header,
            r"\endhead",
            r"\bottomrule",
            r"\endlastfoot",
            *(_row(list(line.values())) for line in section.lines),
            r"\end{longtable}}",
            r"\begin{itemize}\footnotesize",
            *(rf"\item {escaped(note.replace('`', ''))}" for note in section.notes),
            r"\end{itemize}",
            "",
        )
    )


def _row(fields: Sequence[str]) -> str:
    return " & ".join(map(escaped, fields)) + r" \\"


def escaped(text: str) -> str:
    """Return text with the characters escaped that LaTeX reads as commands."""
    return "".join(_ESCAPES.get(character, character) for character in text)
