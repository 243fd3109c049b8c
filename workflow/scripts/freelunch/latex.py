"""The table of cells in LaTeX, from the lines that the Markdown table has."""

from collections.abc import Iterable, Mapping, Sequence

from freelunch.summary import WORDS

# What LaTeX reads as something else.
_ESCAPES = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}


def table_text(lines: Sequence[Mapping[str, str]], notes: Iterable[str], study: str) -> str:
    """Return a table that `\\input` puts into a document with the package booktabs.

    Args:
        lines: From column to text, as `freelunch.summary.cell_lines` returns them.
        notes: What a reader has to know, as sentences of Markdown.
        study: Its name, for the label.
    """
    columns = list(lines[0])
    alignment = "".join("l" if column in WORDS else "r" for column in columns)
    rows = [" & ".join(escaped(line[column]) for column in columns) + r" \\" for line in lines]
    header = " & ".join(escaped(column) for column in columns) + r" \\"
    footnotes = [rf"\item {escaped(note.replace('`', ''))}" for note in notes]
    return "\n".join(
        (
            "% Needs \\usepackage{booktabs}. Written by this study's workflow: do not edit.",
            r"\begin{table}",
            r"\centering\small",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            header,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\begin{itemize}\footnotesize",
            *footnotes,
            r"\end{itemize}",
            rf"\label{{tab:{study}}}",
            r"\end{table}",
            "",
        )
    )


def escaped(text: str) -> str:
    """Return text as LaTeX prints it."""
    return "".join(_ESCAPES.get(character, character) for character in text)
