"""Published numbers beside ours.

They are joined where model, criterion, pattern, adaptation, metric, text and length are the same,
and nowhere else.
"""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from freelunch.audit.claims import command
from freelunch.audit.data import DATA
from freelunch.audit.evidence import Evidence
from freelunch.cell import DENSE, NONE, Cell
from freelunch.comparison import mean_over_seeds, measured_perplexity, seed_groups
from freelunch.errors import UserError
from freelunch.patterns import Pattern
from freelunch.study import Study

PUBLISHED = DATA / "published_results.csv"
# What the names of models and criteria mean.
STUDY = DATA.parents[1] / "studies" / "published.yaml"
COLUMNS = (
    *("source", "reference", "model", "criterion", "pattern", "adaptation"),
    *("metric", "seqlen", "value", "trust"),
)
# A number agrees if it is within this share of the published one. Between machines and versions of
# libraries perplexities differ by a few thousandths; the samples of calibration text by more.
TOLERANCES = {"primary": 0.02, "corroborated": 0.02, "third-party": 0.05}
# What a metric is measured on: where the text comes from.
TEXTS = {
    "wikitext2_perplexity": ("Salesforce/wikitext", "wikitext-2-raw-v1/test"),
}
AGREES, DIFFERS, NOT_RUN = "agrees", "differs", "not run"


@dataclass(frozen=True)
class Published:
    """A number that was published.

    Attributes:
        source, reference: Who published it, and where.
        model, criterion, pattern, adaptation: As a cell has them.
        metric: A key of TEXTS.
        length: Tokens in a window.
        value: The number.
        trust: A key of TOLERANCES.
    """

    source: str
    reference: str
    model: str
    criterion: str
    pattern: str
    adaptation: str
    metric: str
    length: int
    value: float
    trust: str


def load_published(path: Path = PUBLISHED) -> list[Published]:
    """Return the rows of a file.

    Raises:
        UserError: It has other columns, or a row is malformed.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("published numbers cannot be read", where=path, found=error) from error
    reader = csv.DictReader(lines)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise UserError(
            "published numbers have other columns",
            where=path,
            found=", ".join(reader.fieldnames or ()),
            expected=", ".join(COLUMNS),
        )
    return [_published(row, f"{path}: line {reader.line_num}") for row in reader]


def _published(row: Mapping[str, Any], where: str) -> Published:
    problem = next(_problems(row), None)
    if problem is not None:
        key, expected = problem
        raise UserError(
            "a published number is malformed",
            where=f"{where}: {key}",
            found=repr(row.get(key)),
            expected=expected,
            todo="correct the row, or leave it out",
        )
    words = {key: row[key] for key in COLUMNS if key not in ("seqlen", "value")}
    return Published(**words, length=int(row["seqlen"]), value=float(row["value"]))


def _problems(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a row: the column, and what was expected."""
    if None in row or None in row.values():
        yield "(row)", f"{len(COLUMNS)} fields"
        return
    for key in ("source", "reference", "model", "criterion", "adaptation"):
        if not row[key].strip():
            yield key, "a name"
    if row["criterion"] == DENSE:
        if row["pattern"] != NONE:
            yield "pattern", f"{NONE}, of a dense model"
    else:
        try:
            Pattern.parse(row["pattern"])
        except ValueError as error:
            yield "pattern", str(error)
    if row["metric"] not in TEXTS:
        yield "metric", " or ".join(TEXTS)
    if not row["seqlen"].isdecimal() or int(row["seqlen"]) < 2:
        yield "seqlen", "tokens in a window"
    try:
        positive = 0 < float(row["value"]) < math.inf
    except ValueError:
        positive = False
    if not positive:
        yield "value", "a positive number"
    if row["trust"] not in TOLERANCES:
        yield "trust", " or ".join(TOLERANCES)


def audit_published(evidence: Evidence, published: list[Published]) -> list[dict[str, Any]]:
    """Return, of each published number, ours, the difference and the verdict.

    Those without a cell are `not run`, with the command that would run them.
    """
    cells = {_key(of_seeds[0]): of_seeds for of_seeds in seed_groups(evidence.records)}
    return [_row(each, cells, evidence) for each in published]


def _key(cell: Cell) -> tuple[str, ...]:
    return cell.model, cell.criterion, cell.pattern, cell.adaptation


def _row(
    published: Published, cells: Mapping[tuple[str, ...], list[Cell]], evidence: Evidence
) -> dict[str, Any]:
    key = (published.model, published.criterion, published.pattern, published.adaptation)
    found = cells.get(key)
    row: dict[str, Any] = {
        **{name: value for name, value in vars(published).items() if name != "length"},
        "seqlen": published.length,
        "tolerance": TOLERANCES[published.trust],
        **dict.fromkeys(("ours", "ours_standard_error", "difference", "command")),
        "cells": [],
    }
    missing = "there is no such cell" if found is None else _unlike(published, evidence.study)
    if found is None or missing:
        todo = (
            f"set study.evaluation.perplexity.length to {published.length} in "
            "studies/published.yaml, and: make study STUDY=studies/published.yaml"
        )
        return row | {"verdict": NOT_RUN, "reason": missing, "command": todo}
    ours, error, _ = mean_over_seeds([measured_perplexity(evidence.records[it]) for it in found])
    difference = ours - published.value
    agrees = abs(difference) <= TOLERANCES[published.trust] * published.value
    share = abs(difference) / published.value
    reason = f"ours is {share:.1%} {'above' if difference > 0 else 'below'}"
    return row | {
        "ours": ours if math.isfinite(ours) else None,
        "ours_standard_error": error if math.isfinite(error) else None,
        "difference": difference if math.isfinite(difference) else None,
        "verdict": AGREES if agrees else DIFFERS,
        "reason": reason if math.isfinite(difference) else "ours is not finite",
        "cells": [str(cell) for cell in found],
        "command": command(evidence.study, found),
    }


@cache
def _meant() -> dict[str, Any]:
    """Return the config that says what published names mean."""
    return Study.load(STUDY).config


def _unlike(published: Published, study: Study) -> str | None:
    """Return why a cell of that name cannot be compared with a number; None if it can."""
    meant = _meant()
    for registry, name, keys in (
        ("models", published.model, ("repository",)),
        ("criteria", published.criterion, ("score", "scope", "exponent", "swaps")),
    ):
        one, other = (config[registry].get(name, {}) for config in (meant, study.config))
        unlike = [key for key in keys if one.get(key) != other.get(key)]
        if unlike:
            return f"{name} is another here, by its {', '.join(unlike)}"
    settings = study.perplexity
    if settings["length"] != published.length:
        return f"windows of {settings['length']} tokens, not of {published.length}"
    if settings["stride"] not in (None, settings["length"]):
        return "windows overlap"
    if settings["windows"] is not None:
        return f"{settings['windows']} windows, not the whole text"
    repository, member = TEXTS[published.metric]
    text = settings["text"]
    if text.get("repository") != repository or not text.get("member", "").startswith(member):
        return f"measured on `{text['name']}`, not on {repository}, {member}"
    return None
