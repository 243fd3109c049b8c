"""All kept records in one table, and those that others made in the same way.

    python -m freelunch.audit.leaderboard docs

reads the records of each study below `docs`, and those in `docs/results/elsewhere`, and writes the
tables that `docs/results/leaderboard.md` shows. A record from elsewhere stands beside ours if its
model and the tokens of its evaluation have the same digests, and these were cut alike.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np

from freelunch.analysis import pairing
from freelunch.analysis.intervals import Sample, estimate
from freelunch.audit.measures.recovery import recovered_by
from freelunch.core.errors import UserError
from freelunch.core.files import write_atomically
from freelunch.records.read import record_of
from freelunch.records.record import Record
from freelunch.reporting import formatting
from freelunch.reporting.cells import FACTS
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.patterns import Pattern

RECORDS, ELSEWHERE = "records", "elsewhere"
TABLES = Path("results", "leaderboard_tables.md")
_WORDS = ("criterion", "pattern", "adaptation", "study")
# What numbers of one table share: the digests of a model and of the evaluation's tokens, and the
# length and stride of its windows.
Protocol = tuple[str, str, int, int]
# The records of one folder.
Kept = Mapping[Cell, Record]


def read_folders(docs: Path) -> dict[str, Kept]:
    """Return the records of each folder, by the study's name. UserError: one was altered, or is
    another cell's, or comes from elsewhere and belongs in no table.
    """
    found = {path.parent.name: _read(path) for path in sorted(docs.glob(f"*/{RECORDS}"))}
    ours = {protocol_of(record) for kept in found.values() for record in kept.values()}
    place = docs / TABLES.parent / ELSEWHERE
    others = _read(place)
    for cell, record in others.items():
        if protocol_of(record) not in ours:
            raise UserError(
                "this record was measured on another model or other windows than any of ours",
                where=place / cell.record_name,
                found=_words(protocol_of(record)),
                expected=" or ".join(sorted(map(_words, ours))),
                todo="evaluate with the model and the text of a kept study, or take it away",
            )
    return {**found, **({ELSEWHERE: others} if others else {})}


def _read(folder: Path) -> Kept:
    cells = {path: _cell_of(path) for path in sorted(folder.glob("*.json"))}
    kept = {cell: record_of(cell, path) for path, cell in cells.items()}
    for path, cell in cells.items():
        measured = kept[cell]["metrics"]["perplexity"]
        found = pairing.number(measured["perplexity"])
        expected = pairing.exp(fmean(pairing.unit_losses(measured)))
        if not math.isclose(found, expected, rel_tol=1e-6):
            raise UserError(
                "this record's perplexity is not that of the losses of its windows",
                where=path,
                found=found,
                expected=expected,
                todo="ask for the record again, or take it away",
            )
    return kept


def _cell_of(path: Path) -> Cell:
    try:
        cell = Cell.parse("/".join(path.stem.split("__")))
        if cell.is_pruned:
            Pattern.parse(cell.pattern)
    except ValueError as error:
        raise UserError(
            "this is no record, by its name",
            where=path,
            expected=Cell("MODEL", "CRITERION", "PATTERN", "ADAPTATION", 0).record_name,
            todo="name it after its cell, or take it away",
        ) from error
    return cell


def protocol_of(record: Record) -> Protocol:
    """Return what the records of a table share."""
    measured, digests = record["metrics"]["perplexity"], record["provenance"]["digests"]
    windows = measured["token_ids_sha256"], measured["length"], measured["stride"]
    return digests.get("model", formatting.NOTHING), *windows


def _words(protocol: Protocol) -> str:
    return " ".join(str(each)[:12] for each in protocol)


def tables_text(folders: Mapping[str, Kept]) -> str:
    """Return a table for each model and evaluation, as Markdown."""
    tables: dict[Protocol, dict[str, Kept]] = {}
    for name, kept in folders.items():
        for cell, record in kept.items():
            of_name = tables.setdefault(protocol_of(record), {}).setdefault(name, {})
            of_name[cell] = record  # type: ignore[index]
    sections = [_section(by_study) for by_study in tables.values()]
    return "\n".join(f"## {each.title}\n\n{formatting.summary_text([each])}" for each in sections)


def _section(by_study: Mapping[str, Kept]) -> formatting.Section:
    # All studies have the same dense model.
    ((dense, record), *_) = (
        (cell, record)
        for kept in by_study.values()
        for cell, record in kept.items()
        if cell.is_dense
    )
    rows = [
        _row(study, cells, {replace(dense, model=cells[0].model): record, **kept})
        for study, kept in by_study.items()
        for cells in pairing.seed_groups(kept)
        if not cells[0].is_dense
    ]
    rows.sort(key=lambda row: row[0])
    measured = record["metrics"]["perplexity"]
    title = f"{dense.model}, {record['spec']['evaluation']['perplexity']['text']['name']}"
    note = (
        f"{measured['windows']} windows of {measured['length']} tokens. The dense model has a "
        f"perplexity of {measured['perplexity']:.1f}."
    )
    return formatting.Section(title, [line for _, line in rows], [note], _WORDS)


def _row(study: str, cells: Sequence[Cell], records: Kept) -> tuple[float, dict[str, str]]:
    one, of_seeds = cells[0], [records[cell] for cell in cells]
    perplexity = pairing.perplexity_over_seeds(cells, records)[0]
    settings = of_seeds[0]["spec"].get("criterion", {})
    allocation = settings.get("allocation", {}).get("by")
    # An entry with an allocation has a name of its own.
    name = settings["score"] if allocation else one.criterion
    criterion = formatting.criterion_label(name) if one.is_pruned else "not pruned"
    costs = {each.column: [each.read(record) for record in of_seeds] for each in FACTS}

    def most(column: str, unit: float, digits: int) -> str:
        known = [float(value) for value in costs[column] if value is not None]
        return f"{max(known) / unit:,.{digits}f}" if known else formatting.NOTHING

    tokens = costs["adaptation_tokens"][0]
    return perplexity, {
        "criterion": f"{criterion} ({allocation.upper()})" if allocation else criterion,
        "pattern": formatting.pattern_label(one.pattern) if one.is_pruned else formatting.NOTHING,
        "adaptation": one.adaptation,
        "perplexity": f"{perplexity:,.1f}",
        "recovered": _recovered(cells, records),
        "seeds": str(len(cells)),
        "tokens": formatting.NOTHING if tokens is None else formatting.short_tokens(float(tokens)),
        "TFLOP": most("adaptation_flops", 1e12, 1),
        "GB": most("adaptation_peak_bytes", 1e9, 2),
        "study": study if study != ELSEWHERE else "elsewhere, not ours",
    }


def _recovered(cells: Sequence[Cell], records: Kept) -> str:
    """Return the recovered share and its interval; a dash if nothing was adapted, or pruned, or the
    pruned model was not measured with the same seeds.
    """
    one = cells[0]
    pruned = [replace(cell, adaptation=NONE) for cell in cells]
    if one.adaptation == NONE or not one.is_pruned or not {*pruned} <= {*records}:
        return formatting.NOTHING
    compared = {NONE: pruned, one.adaptation: cells, DENSE: [Cell.dense(one.model)] * len(cells)}
    losses = np.array(
        [
            [pairing.unit_losses(records[cell]["metrics"]["perplexity"]) for cell in of_seeds]
            for of_seeds in compared.values()
        ]
    )
    neighbours = "documents" not in records[one]["metrics"]["perplexity"]
    sample = Sample(list(compared), [losses], neighbours=neighbours)
    found = estimate([recovered_by(one.adaptation)], [sample])
    share = f"{100 * found.value:.0f} %"
    interval = f" ({100 * found.low:.0f} to {100 * found.high:.0f})"
    return share if np.isnan(found.low) else share + interval


if __name__ == "__main__":
    try:
        docs = Path(sys.argv[1])
        write_atomically(docs / TABLES, tables_text(read_folders(docs)))
    except UserError as error:
        sys.exit(f"error: {error}")
