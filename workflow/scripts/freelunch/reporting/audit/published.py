"""Published numbers beside ours.

They are joined where model, criterion, pattern, adaptation, metric, and of a perplexity text and
length, of an accuracy all documents of the tasks are the same, and nowhere else.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import Any

from freelunch.analysis.pairing import mean_over_seeds, measured_perplexity, seed_groups
from freelunch.core.errors import UserError, nearest
from freelunch.reporting.audit.claims import command, snakemake
from freelunch.reporting.audit.data import DATA
from freelunch.reporting.audit.evidence import Evidence
from freelunch.reporting.audit.protocol import text_identity
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.paths import Paths
from freelunch.study.patterns import Pattern
from freelunch.study.schema import read_yaml
from freelunch.study.steps import EVALUATE_CELL
from freelunch.study.study import Study

PUBLISHED = DATA / "published_results.csv"
# What names of models, criteria, adaptations and texts mean, and what runs them.
STUDY = DATA.parents[1] / "studies" / "published.yaml"
COLUMNS = (
    *("source", "reference", "model", "criterion", "pattern", "adaptation"),
    *("metric", "seqlen", "value", "trust"),
)
# A number agrees if it is within this share of the published one. Between machines and versions of
# libraries perplexities differ by a few thousandths; the samples of calibration text by more.
TOLERANCES = {"primary": 0.02, "corroborated": 0.02, "third-party": 0.05}
# What a perplexity is measured on: what STUDY calls the text.
TEXTS = {"wikitext2_perplexity": "wikitext2"}
# What names in the files stand for: of models, criteria and adaptations what tells them apart.
IDENTITY = {
    "models": ("repository",),
    "criteria": ("score", "scope", "exponent", "swaps"),
    "adaptations": ("method", "window", "inputs", "targets", "loss", "trains", "rank", "alpha"),
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
        # With or without the mark that spreadsheets put first.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("published numbers cannot be read", where=path, found=error) from error
    reader = csv.DictReader(lines)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise UserError(
            "published numbers have other columns",
            where=path,
            found=", ".join(reader.fieldnames or ()),
            expected=", ".join(COLUMNS),
            todo="write the first line anew",
        )
    rows = [_published(row, f"{path}: line {reader.line_num}") for row in reader]
    seen: set[tuple[object, ...]] = set()
    for row in rows:
        place = tuple(value for name, value in vars(row).items() if name not in ("value", "trust"))
        if place in seen:
            raise UserError(
                "a number was published twice by one source",
                where=path,
                found=", ".join(map(str, place)),
                expected="one row of each source, reference, model, criterion, pattern, "
                "adaptation, metric and length",
                todo="remove one of the two",
            )
        seen.add(place)
    return rows


def _published(row: Mapping[str, Any], where: str) -> Published:
    problem = next(_problems(row), None)
    if problem is not None:
        key, expected = problem
        raise UserError(
            "a published number is malformed",
            where=f"{where}: {key}",
            found=repr(row[key]) if key in row else "more or fewer",
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


def audit_published(
    evidence: Evidence, published: list[Published], meaning: Study | None = None
) -> list[dict[str, Any]]:
    """Return, of each published number, ours, the difference and the verdict.

    Those without a cell are `not run`, with the command that would run them.

    Args:
        evidence: The records.
        published: The numbers.
        meaning: What their names stand for; by default that of STUDY.
    """
    meaning = meaning or Study.check(read_yaml(STUDY), f"{STUDY.parent.name}/{STUDY.name}")
    cells = {_place(of_seeds[0]): of_seeds for of_seeds in seed_groups(evidence.records)}
    return [_row(each, cells.get(_place(each), []), evidence, meaning) for each in published]


# Where a cell, or a published number, belongs.
_place = attrgetter("model", "criterion", "pattern", "adaptation")


def _row(
    published: Published, found: list[Cell], evidence: Evidence, meaning: Study
) -> dict[str, Any]:
    row: dict[str, Any] = {
        **{name: value for name, value in vars(published).items() if name != "length"},
        "seqlen": published.length,
        "tolerance": TOLERANCES[published.trust],
        **dict.fromkeys(("ours", "ours_standard_error", "difference", "command")),
        "cells": [],
    }
    if missing := _why_not_run(published, found, evidence, meaning):
        todo = _running(published, meaning)
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
    if not found[0].is_dense:
        sample = evidence.study.calibration
        reason += (
            f"; calibrated on {sample['samples']:,} sequences of {sample['length']:,} tokens of "
            f"{text_identity(sample['text'])}"
        )
    return row | {
        "ours": ours if math.isfinite(ours) else None,
        "ours_standard_error": error if math.isfinite(error) else None,
        "difference": difference if math.isfinite(difference) else None,
        "verdict": AGREES if agrees else DIFFERS,
        "reason": reason if math.isfinite(difference) else "ours is not finite",
        "cells": [str(cell) for cell in found],
        "command": command(evidence.study, found, EVALUATE_CELL),
    }


def _why_not_run(
    published: Published, found: list[Cell], evidence: Evidence, meaning: Study
) -> str | None:
    """Return why no cell stands beside a number; None if those found do."""
    if unnamed := _unnamed(published, meaning):
        return unnamed
    if not found:
        return "there is no such cell"
    return _unlike(published, evidence.study, meaning) or _unlike_measured(
        published, found, evidence
    )


def _accuracy(tasks: Sequence[str], records: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the plain mean over tasks and seeds in percent, and its error over documents, which
    seeds share.
    """
    measured = [record["metrics"]["tasks"]["tasks"] for record in records]
    mean = fmean(of[task]["accuracy"] for of in measured for task in tasks)
    errors = [fmean(of[task]["accuracy_standard_error"] for of in measured) for task in tasks]
    return 100 * mean, 100 * math.hypot(*errors) / len(tasks)


def _names(published: Published) -> dict[str, str]:
    """Return what a row names, by registry."""
    names = {"models": published.model}
    if published.criterion != DENSE:
        names["criteria"] = published.criterion
    if published.adaptation != NONE:
        names["adaptations"] = published.adaptation
    return names


def _unnamed(published: Published, meaning: Study) -> str | None:
    """Return which name of a row nobody knows; None if all are known."""
    for registry, name in _names(published).items():
        if name not in meaning.config[registry]:
            known = nearest(name, meaning.config[registry])
            return f"{meaning.source} has no {name} among its {registry}; known: {known}"
    return None


def _unlike(published: Published, study: Study, meaning: Study) -> str | None:
    """Return why a cell of that name cannot be compared with a number; None if it can."""
    for registry, name in _names(published).items():
        one, other = (of.config[registry][name] for of in (meaning, study))
        unlike = [key for key in IDENTITY[registry] if one.get(key) != other.get(key)]
        if unlike:
            return f"{name} is another here, by its {', '.join(unlike)}"
    if published.tasks:
        return None
    settings, text = study.perplexity, meaning.config["texts"][TEXTS[published.metric]]
    if settings["length"] != published.length:
        return f"windows of {settings['length']} tokens, not of {published.length}"
    if settings["stride"] not in (None, settings["length"]):
        return "windows overlap"
    if settings["windows"] is not None:
        return f"{settings['windows']} windows, not the whole text"
    ours = settings["text"]
    if any(ours.get(key) != text[key] for key in ("repository", "member", "format")):
        return f"measured on `{ours['name']}` ({text_identity(ours)}), not on {text_identity(text)}"
    return None


def _running(published: Published, meaning: Study) -> str:
    """Return what runs a number: a command, and what has to be done before."""
    if _unnamed(published, meaning):
        return f"describe it in {meaning.source} first"
    criterion = published.criterion
    pruning = DENSE if criterion == DENSE else f"{criterion}-{published.pattern}"
    cell = Cell.parse(f"{published.model}/{pruning}/{published.adaptation}/seed0")
    source, name, before = meaning.source, meaning.name, ""
    if published.tasks:
        before = (
            f"put `tasks` of studies/zero_shot.yaml into {source}, and `tasks: true` into its "
            "grid; then: "
        )
    elif published.length != (length := meaning.perplexity["length"]):
        other = f"{name}_{published.length}"
        changes = f"s/length: {length}/length: {published.length}/; s/name: {name}/name: {other}/"
        source = source.replace(name, other)
        before, name = f"sed '{changes}' {meaning.source} > {source} && ", other
    return f"{before}{snakemake(source)} -- {Paths(name).record(cell)}"


def _unlike_measured(published: Published, cells: Sequence[Cell], evidence: Evidence) -> str | None:
    """Return why accuracies of cells cannot be compared with a published one; None if they can."""
    for cell in cells:
        measured = evidence.records[cell]["metrics"].get("tasks", {}).get("tasks", {})
        if lacking := [task for task in published.tasks if task not in measured]:
            return f"not asked: {', '.join(lacking)}"
        for task in published.tasks:
            asked, whole = (measured[task][key] for key in ("documents", "documents_in_all"))
            if asked != whole:
                return f"{asked} documents of {task}, not all {whole:,}"
    return None
