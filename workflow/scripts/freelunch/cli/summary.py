"""What a finished study found, in a few lines for the terminal."""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from freelunch.analysis.pairing import Records
from freelunch.audit.verdicts import VERDICTS
from freelunch.cli import terminal
from freelunch.cli.verify import check_whole
from freelunch.records.read import load_records
from freelunch.reporting.cells import means_over_seeds
from freelunch.reporting.formatting import rounded
from freelunch.study.cell import NONE
from freelunch.study.study import Study

LINES = 15
# The columns of a line if no terminal says how many it has.
LINE = 100
_KINDS = ("pruned", "reconstructed", "retrained")
_NOTHING = "-"


def summary(study: Study, stream: IO[str]) -> str:
    """Return what a finished study found, in at most fifteen lines that fit the terminal.

    Args:
        study: The study.
        stream: Where it will be shown.

    Raises:
        UserError: A record is missing, or was made with other than the current settings; or
            anything that the study made is damaged or missing.
    """
    records = load_records(study)
    check_whole(study)
    return summary_text(study, records, terminal.width_of(stream) or LINE)


def summary_text(study: Study, records: Records, width: int = LINE) -> str:
    """Return what was found, its scope, the best cell of each kind, the verdicts, and where all is.

    On a narrow terminal, or with many cells, less important lines make room: what was found and its
    scope go last.

    Args:
        study: A study whose audit is made.
        records: The record of each of its cells.
        width: The columns of a line, which only paths may exceed.
    """
    paths = study.paths
    audit = json.loads((paths.audit / "audit.json").read_text(encoding="utf-8"))
    claims = audit["claims"]
    in_tables = verdicts_text(audit["published_claims"])
    of_kind = f"Best perplexity of each kind on `{study.perplexity.text}` (lower is better):"
    parts = {
        "finished": _wrapped(f"The study `{study.name}` ({study.source}) is finished.", width),
        "answer": _wrapped(audit["answer"], width),
        "scope": _wrapped(f"Scope: {audit['scope']}", width),
        "kinds": _wrapped(of_kind, width),
        "best": [],
        "claims": _wrapped(f"The paper's claims here: {verdicts_text(claims)}", width),
        "bearing": _wrapped(
            f"What that says of the paper's claims: {_grouped(claims, 'bearing')}", width
        ),
        "published": _wrapped(f"In published tables: {in_tables}", width) if in_tables else [],
        "page": _wrapped(f"page         {paths.audit / 'index.html'}", width),
        "tables": _wrapped(
            f"tables       {paths.tables / 'summary.md'}, and more beside it", width
        ),
        "checkpoints": _wrapped(f"checkpoints  {Path(paths.root) / 'checkpoints'}", width),
        "next": _wrapped(
            f"Next: open the page, or edit {study.source} and run the same command: only what "
            "depends on the edit runs.",
            width,
        ),
    }
    rows = _table(_best(study, means_over_seeds(records)), width)
    for key in ("next", "published", "checkpoints", "tables", "bearing"):
        if sum(map(len, [*parts.values(), *rows])) > LINES:
            parts[key] = []
    room = LINES - sum(map(len, parts.values()))
    parts["best"] = _first(rows, room, f"  and NUMBER more: {paths.tables / 'summary.md'}", width)
    for keys in (("kinds", "best"), ("scope",), ("answer",)):
        if sum(map(len, parts.values())) > LINES:
            parts |= {key: [] for key in keys}
    return "\n".join(line for lines in parts.values() for line in lines)


def _first(rows: Sequence[Sequence[str]], room: int, more: str, width: int) -> list[str]:
    """Return the lines of the first rows that have room, and how many more there are."""
    shown = list(rows)
    said: list[str] = []
    while len(shown) > 1 and sum(map(len, shown)) + len(said) > room:
        shown.pop()
        said = _wrapped(more.replace("NUMBER", str(len(rows) - len(shown))), width)
    return [*(line for lines in shown for line in lines), *said]


def _best(study: Study, means: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a row for each pruned model and pattern, below a row of headings."""
    dense = {mean["model"]: _number(mean) for mean in means if not _is_pruned(mean)}
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for mean in filter(_is_pruned, means):
        of_kind = found.setdefault((mean["model"], mean["pattern"]), {})
        kind = _kind(study, mean["adaptation"])
        if kind not in of_kind or _order(mean) < _order(of_kind[kind]):
            of_kind[kind] = mean
    rows = [["model", "pattern", "dense", *_KINDS]]
    for (model, pattern), of_kind in found.items():
        best = [_named(of_kind[kind]) if kind in of_kind else _NOTHING for kind in _KINDS]
        rows.append([model, pattern, dense.get(model, _NOTHING), *best])
    if not found:
        rows = [["model", "dense"], *([model, number] for model, number in dense.items())]
    return rows


def _table(rows: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Return the lines of each row: one, in columns, or if that is too wide, the row as a text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"  {'  '.join(f'{cell:<{size}}' for cell, size in zip(row, widths, strict=True))}".rstrip()
        for row in rows
    ]
    if max(map(len, lines)) <= width:
        return [[line] for line in lines]
    heads, *others = rows
    texts = (
        ", ".join(
            f"{head} {cell}" if at else cell
            for at, (head, cell) in enumerate(zip(heads, row, strict=True))
            if cell != _NOTHING
        )
        for row in others
    )
    return [
        textwrap.wrap(
            text, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
        for text in texts
    ]


def verdicts_text(claims: Sequence[Mapping[str, Any]]) -> str:
    """Return the claims of an audit by their verdict."""
    in_order = sorted(claims, key=lambda claim: VERDICTS.index(claim["verdict"]))
    return _grouped(in_order, "verdict")


def _grouped(claims: Sequence[Mapping[str, Any]], key: str) -> str:
    """Return the claims by what they have under a key."""
    named: dict[str, list[str]] = {}
    for claim in claims:
        named.setdefault(claim[key], []).append(claim["id"])
    return "; ".join(f"{value}: {', '.join(ids)}" for value, ids in named.items())


def _wrapped(text: str, width: int) -> list[str]:
    # Names of models and paths are not broken.
    return textwrap.wrap(
        text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _is_pruned(mean: Mapping[str, Any]) -> bool:
    return bool(mean["criterion"] != "dense")


def _kind(study: Study, adaptation: str) -> str:
    settings = study.adaptation(adaptation) if adaptation != NONE else None
    if settings is None:
        return _KINDS[0]
    return _KINDS[2] if settings.is_retraining else _KINDS[1]


def _order(mean: Mapping[str, Any]) -> float:
    value = mean["perplexity"]
    return float(value) if math.isfinite(value) else math.inf


def _number(mean: Mapping[str, Any]) -> str:
    return rounded(mean["perplexity"], mean["perplexity_standard_error"])


def _named(mean: Mapping[str, Any]) -> str:
    """Return a perplexity, and how the model was pruned and adapted."""
    how = [mean["criterion"], *([mean["adaptation"]] if mean["adaptation"] != NONE else [])]
    return f"{_number(mean)} ({', '.join(how)})"
