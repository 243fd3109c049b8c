"""Numbers as people read them, with as many digits as their error allows; names; and the summary of
a study, tables and notes on how to read them, as Markdown.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from freelunch.analysis.pairing import Row
from freelunch.study.patterns import Pattern

NOT_FINITE = "not finite"
NOTHING = "-"


def with_error(value: float | None, error: float | None) -> str:
    """Return `value ± error`, rounded by the error; a dash where either is missing. A single window
    of text has no error.
    """
    if value is None or error is None:
        return NOTHING
    if not math.isfinite(value):
        return NOT_FINITE
    if math.isnan(error):
        return f"{rounded(value, abs(value) / 100)} (no error)"
    return f"{rounded(value, error)} ± {rounded(error, error)}"


def shown(row: Row, key: str) -> str:
    """Return a number of a row and its standard error, as `with_error` does."""
    return with_error(row[key], row[f"{key}_standard_error"])


def shown_percent(row: Row, key: str) -> str:
    """Return a share of a row and its standard error, as `percent` does."""
    return percent(row[key], row[f"{key}_standard_error"])


def row_marks(row: Mapping[str, Any], *metrics: str) -> list[str]:
    """Return the marks of what is doubted of a row in some metrics, or in all."""
    about = [doubt for doubt in row.get("doubts", ()) if doubt.is_about({}, *metrics)]
    return list(dict.fromkeys(doubt.mark for doubt in about))


def rounded(value: float, error: float) -> str:
    """Return a number rounded to the second significant digit of its error."""
    if not math.isfinite(value):
        return NOT_FINITE
    decimals = 1 - math.floor(math.log10(error)) if error > 0 else 2
    return f"{value:,.{min(max(decimals, 0), 6)}f}"


def significant(value: float, digits: int = 2) -> str:
    """Return a number with so many digits, and never fewer than those before the point."""
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e+" in text else text


def percent(share: float | None, error: float | None) -> str:
    """Return a share and its error in percent."""
    if share is None or error is None:
        return NOTHING
    text = with_error(100 * share, 100 * error)
    if math.isnan(error):
        return text.replace(" (no error)", " % (no error)")
    return text if text == NOT_FINITE else f"{text} %"


def marked(adaptation: str, selected_on: object, more: Sequence[str] = ()) -> str:
    """Return the name of an adaptation, marked if it was chosen on the evaluation text, and with
    more marks.
    """
    marks = [*(["chosen on the evaluation text"] if selected_on == "evaluation" else []), *more]
    return f"{adaptation} ({'; '.join(marks)})" if marks else adaptation


def parts_text(shares: Mapping[str, float]) -> str:
    """Return the parts of a mixture, each with its share."""
    return ", ".join(f"{100 * share:g} % {name}" for name, share in shares.items())


def range_text(values: Sequence[float], form: str) -> str:
    """Return the smallest and the largest value, or one number where both round to it."""
    least, most = format(min(values), form), format(max(values), form)
    return least if least == most else f"{least} to {most}"


def short_tokens(tokens: float) -> str:
    """Return a number of tokens in short: 131k for 131,072."""
    return f"{tokens // 1000:.0f}k" if tokens >= 1000 else f"{tokens:.0f}"


def three_digits(value: float | None) -> str:
    """Return a number with three significant digits, or with all digits before the point."""
    return rounded(value, value / 10) if value else NOTHING


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


_CRITERIA = {
    "magnitude": "Magnitude",
    "wanda": "Wanda",
    "ria": "RIA",
    "sparsegpt": "SparseGPT",
    "alps": "ALPS",
    "random": "Random",
    "wanda_sp": "Wanda-sp",
    "flap": "FLAP",
}


def criterion_label(name: str) -> str:
    """Return the name of a criterion as the field writes it; other names stay as they are."""
    return _CRITERIA.get(name, name)


def pattern_label(name: str) -> str:
    """Return a pattern in words.

    `2of4` has two zeros among four weights; N:M, as the field writes it, counts what stays.
    """
    pattern = Pattern.parse(name)
    if pattern.group is not None:
        return f"{pattern.group - pattern.zeros_in_group(pattern.group)}:{pattern.group}"
    share = f"{100 * pattern.sparsity:.0f} %"
    return f"{share} {'structured' if pattern.structured else 'unstructured'}"


def pruning_label(row: Mapping[str, str]) -> str:
    return f"{criterion_label(row['criterion'])}, {pattern_label(row['pattern'])}"


def pruned_model_label(row: Mapping[str, str]) -> str:
    return f"{row['model']}, {pruning_label(row)}"


def seeds_label(counts: Collection[int]) -> str:
    """Return over how many seeds the numbers of a panel are means."""
    least, most = min(counts), max(counts)
    if most == 1:
        return "one seed"
    return f"mean of {most} seeds" if least == most else f"means of {least} to {most} seeds"


def in_code(value: object) -> str:
    """Return a setting as code in Markdown shows it: on its line, in the code and its column."""
    return " ".join(str(value).split()).replace("`", "'").replace("|", r"\|")


def in_prose(value: object) -> str:
    """Return a setting as text in Markdown shows it: on its line, and no HTML."""
    return escape(in_code(value), quote=False)


def place_text(entry: Mapping[str, Any]) -> str:
    """Return where a model, text or task comes from; of a local path, only its last part."""
    member = entry.get("member", entry.get("members"))
    member = f", `{in_code(member)}`" if member else ""
    if "package" in entry:
        return f"Python package `{entry['package']}` {entry['version']}{member}"
    if "repository" in entry:
        place = f"`{entry['repository']}` on the Hugging Face hub"
        return f"{place}, revision `{entry['revision']}`{member}"
    return f"local, `{in_code(Path(entry['path']).name)}`"
