"""Published numbers beside ours.

They are joined where model, criterion, pattern, adaptation, metric, and of a perplexity text and
length, of an accuracy all documents of the tasks are the same, and nowhere else.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from freelunch.audit.claims import command
from freelunch.audit.data import DATA
from freelunch.audit.evidence import ACCURACY, MEASURED_BY, PERPLEXITY, Evidence
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
# What a perplexity is measured on: where the text comes from.
TEXTS = {
    "wikitext2_perplexity": ("Salesforce/wikitext", "wikitext-2-raw-v1/test"),
}
# Zero-shot accuracies, in percent: of a task, or the plain mean of the paper's seven.
ACCURACY_OF = "accuracy_"
TASKS = ("boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
MEAN_OF_SEVEN = "mean_of_seven"
AGREES, DIFFERS, NOT_RUN = "agrees", "differs", "not run"


@dataclass(frozen=True)
class Published:
    """A number that was published.

    Attributes:
        source, reference: Who published it, and where.
        model, criterion, pattern, adaptation: As a cell has them.
        metric: A key of TEXTS, or `accuracy_` and a task or `mean_of_seven`.
        length: Tokens in a window of text; None of an accuracy.
        value: The number; of an accuracy in percent.
        trust: A key of TOLERANCES.
    """

    source: str
    reference: str
    model: str
    criterion: str
    pattern: str
    adaptation: str
    metric: str
    length: int | None
    value: float
    trust: str

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks of an accuracy; none of a perplexity."""
        name = self.metric.removeprefix(ACCURACY_OF)
        if name == self.metric:
            return ()
        return TASKS if name == MEAN_OF_SEVEN else (name,)


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
    length = int(row["seqlen"]) if row["seqlen"] else None
    return Published(**words, length=length, value=float(row["value"]))


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
    accuracy = row["metric"].removeprefix(ACCURACY_OF)
    if accuracy in (*TASKS, MEAN_OF_SEVEN) and accuracy != row["metric"]:
        if row["seqlen"]:
            yield "seqlen", "nothing, of an accuracy"
    elif row["metric"] not in TEXTS:
        of_tasks = f"{ACCURACY_OF}{{{', '.join((*TASKS, MEAN_OF_SEVEN))}}}"
        yield "metric", " or ".join((*TEXTS, of_tasks))
    elif not row["seqlen"].isdecimal() or int(row["seqlen"]) < 2:
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
    missing: str | None = "there is no such cell"
    if found is not None:
        missing = _unlike(published, evidence.study) or _unlike_measured(published, found, evidence)
    if found is None or missing:
        todo = (
            "put `tasks` of studies/zero_shot.yaml into"
            if published.tasks
            else f"set study.evaluation.perplexity.length to {published.length} in"
        )
        todo += " studies/published.yaml, and: make study STUDY=studies/published.yaml"
        return row | {"verdict": NOT_RUN, "reason": missing, "command": todo}
    records = [evidence.records[it] for it in found]
    if published.tasks:
        ours, error = _accuracy(published.tasks, records)
    else:
        ours, error, _ = mean_over_seeds([measured_perplexity(record) for record in records])
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
        "command": command(
            evidence.study, found, MEASURED_BY[ACCURACY if published.tasks else PERPLEXITY]
        ),
    }


def _accuracy(tasks: Sequence[str], records: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the plain mean over tasks and seeds in percent, and its error over documents, which
    seeds share.
    """
    measured = [record["metrics"]["tasks"]["tasks"] for record in records]
    mean = fmean(of[task]["accuracy"] for of in measured for task in tasks)
    errors = [fmean(of[task]["accuracy_standard_error"] for of in measured) for task in tasks]
    return 100 * mean, 100 * math.hypot(*errors) / len(tasks)


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
    if published.tasks:
        return None
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


def _unlike_measured(published: Published, cells: Sequence[Cell], evidence: Evidence) -> str | None:
    """Return why accuracies of cells cannot be compared with a published one; None if they can."""
    for cell in cells if published.tasks else ():
        measured = evidence.records[cell]["metrics"].get("tasks", {}).get("tasks", {})
        if lacking := [task for task in published.tasks if task not in measured]:
            return f"not asked: {', '.join(lacking)}"
        for task in published.tasks:
            asked, whole = (measured[task][key] for key in ("documents", "documents_in_all"))
            if asked != whole:
                return f"{asked} documents of {task}, not all {whole:,}"
    return None
