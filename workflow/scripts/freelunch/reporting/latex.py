"""The tables of a summary in LaTeX, from the lines and notes that the Markdown has."""

from collections.abc import Sequence

from freelunch.reporting.summary import WORDS, Section

# What LaTeX reads as something else.
_ESCAPES = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}


def tables_text(sections: Sequence[Section], study: str) -> str:
    """Return tables that `\\input` puts into a document, with the packages booktabs and longtable.

    Args:
        sections: As `freelunch.reporting.summary.summary_sections` returns them.
        study: Its name, for the labels: `tab:<study>-<section>`.
    """
    head = (
        "% Needs \\usepackage{booktabs,longtable}. Written by this study's workflow: do not edit.\n"
    )
    return head + "".join(_table(section, study) for section in sections)


def _table(section: Section, study: str) -> str:
    """Return a table that goes on over pages, as one of all cells has to."""
    columns = list(section.lines[0])
    alignment = "".join("l" if column in WORDS else "r" for column in columns)
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
    """Return text as LaTeX prints it."""
    return "".join(_ESCAPES.get(character, character) for character in text)
