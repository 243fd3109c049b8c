"""Published numbers beside ours.

A published number is compared with cells of the same model, criterion, pattern, adaptation and
metric: a perplexity on the same text in windows of the same length, an accuracy on all documents of
the same tasks.
"""

import csv
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from statistics import fmean

from freelunch.analysis.pairing import mean_over_seeds, measured_perplexity, seed_groups
from freelunch.audit.claim_verdicts import command
from freelunch.audit.claims import DATA
from freelunch.audit.evidence import Evidence
from freelunch.core.errors import UserError
from freelunch.records.record import Record
from freelunch.reporting.formatting import parts_text
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.patterns import Pattern
from freelunch.study.registry import REPOSITORY
from freelunch.study.sources import AnyText, Mixture
from freelunch.study.steps import EVALUATE_CELL, JOINED
from freelunch.study.study import Study

PUBLISHED = DATA / "published_results.csv"
# A number agrees if it is within this share of the published one. Perplexities differ by a few
# thousandths between machines and versions of libraries, and by more between calibration samples.
TOLERANCES = {"primary": 0.02, "corroborated": 0.02, "third-party": 0.05}
# The metrics of perplexity, with the name of their text in studies/paper.yaml.
TEXTS = {"wikitext2_perplexity": "wikitext2"}
# Zero-shot accuracies, in percent: of a task, or the plain mean of the paper's seven, or of those
# that the note names.
ACCURACY_OF = "accuracy_"
TASKS = ("boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
MEAN, MEAN_OF_SEVEN = "mean", "mean_of_seven"
_METRICS = (*TEXTS, *(f"{ACCURACY_OF}{name}" for name in (*TASKS, MEAN, MEAN_OF_SEVEN)))
_NAMED_TASKS = re.compile("mean of [a-z]+ tasks: ([^;]+)")
# What a pattern ends in that prunes the MLPs alone, which no study here does.
MLP_ONLY = "_mlp_only"
# What the note says of a number that contradicts others of its source, and that no claim is asked.
SUSPECT = "suspect"
# What the names of models, criteria, adaptations and texts mean, and the study that runs them.
STUDY = Path("studies/paper.yaml")
# The keys of a registry entry that have to be equal for its name to mean the same.
IDENTITY = {
    "models": ("repository",),
    "criteria": ("score", "scope", "exponent", "swaps"),
    "adaptations": (
        *("method", "window", "inputs", "targets", "lost_residual", "model_dropout"),
        *("loss", "trains", "rank", "alpha"),
    ),
}
AGREES, DIFFERS, NOT_RUN = "agrees", "differs", "not run"
# What a row of the file has to hold, by column.
_EXPECTED = {
    **dict.fromkeys(("source", "reference", "model", "criterion", "adaptation"), "a name"),
    "pattern": f"a pattern, such as u50, 2of4 or s20; {NONE} for a dense model",
    "metric": " or ".join(_METRICS),
    "seqlen": "tokens in a window; nothing for an accuracy, or if it is unknown",
    "value": "a positive number",
    "trust": " or ".join(TOLERANCES),
    "note": f"`mean of ... tasks: ...` for {ACCURACY_OF}{MEAN}",
}


@dataclass(frozen=True)
class Published:
    """A number that was published: a row of the file.

    Attributes:
        source, reference: Who published it, and where.
        model, criterion, pattern, adaptation: Names as in a cell.
        metric: A key of TEXTS, or `accuracy_` followed by a task, `mean_of_seven`, or `mean`, whose
            tasks the note names.
        seqlen: Tokens in a window of text; None for an accuracy, and where it is unknown.
        value: The number; an accuracy is in percent.
        trust: A key of TOLERANCES.
        note: What the source says of its calibration, and what was inferred; perhaps nothing.
    """

    source: str
    reference: str
    model: str
    criterion: str
    pattern: str
    adaptation: str
    metric: str
    seqlen: int | None
    value: float
    trust: str
    note: str

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks of an accuracy; none for a perplexity."""
        name = self.metric.removeprefix(ACCURACY_OF)
        if name == self.metric:
            return ()
        if name == MEAN and (named := _NAMED_TASKS.search(self.note)):
            return tuple(task.lower().replace(" ", "_") for task in named[1].split(", "))
        return TASKS if name == MEAN_OF_SEVEN else (name,)

    @property
    def cell(self) -> Cell:
        """Return its cell, with the first seed."""
        return Cell(self.model, self.criterion, self.pattern, self.adaptation, seed=0)

    @property
    def table(self) -> tuple[object, ...]:
        """Return what numbers share that may be compared with each other."""
        return self.source, self.reference, self.metric, self.seqlen, self.tasks


COLUMNS = tuple(column.name for column in fields(Published))


@dataclass(frozen=True)
class ComparedNumber(Published):
    """A published number beside ours, which `command` repeats; without a cell it is `not run`."""

    tolerance: float
    verdict: str
    reason: str
    ours: float | None = None
    ours_standard_error: float | None = None
    difference: float | None = None
    command: str | None = None
    cells: list[str] = field(default_factory=list)


def load_published(path: Path = PUBLISHED) -> list[Published]:
    """Return the rows of a file. UserError: the columns are wrong, a row is malformed, or a number
    is there twice.
    """
    try:
        # With or without the byte order mark that spreadsheets write.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("published numbers cannot be read", where=path, found=error) from error
    reader = csv.DictReader(lines)
    columns = tuple(reader.fieldnames or ())
    if columns != COLUMNS:
        raise UserError(
            "the columns of the published numbers are wrong",
            where=path,
            found=", ".join(columns),
            expected=", ".join(COLUMNS),
            todo="correct the first line",
        )
    rows = [_published(row, f"{path}: line {reader.line_num}") for row in reader]
    places = Counter((*row.table, row.cell) for row in rows)
    for place, count in places.items():
        if count > 1:
            raise UserError(
                "a number was published twice by one source",
                where=path,
                found=", ".join(map(str, place)),
                expected="one row for each number of a table",
                todo="remove one of the two",
            )
    return rows


def _published(row: Mapping[str, str], where: str) -> Published:
    if None in row or None in row.values():
        raise _malformed(f"{where}: (row)", "more or fewer", f"{len(COLUMNS)} fields")
    for key, expected in _EXPECTED.items():
        if not _is_sound(key, row):
            raise _malformed(f"{where}: {key}", repr(row[key]), expected)
    length = int(row["seqlen"]) if row["seqlen"] else None
    return Published(**{**row, "seqlen": length, "value": float(row["value"])})  # type: ignore[arg-type]


def _malformed(where: str, found: str, expected: str) -> UserError:
    problem, todo = "a published number is malformed", "correct the row, or leave it out"
    return UserError(problem, where=where, found=found, expected=expected, todo=todo)


def _is_sound(key: str, row: Mapping[str, str]) -> bool:
    value = row[key]
    with suppress(ValueError):
        match key:
            case "metric":
                return value in _METRICS
            case "trust":
                return value in TOLERANCES
            case "seqlen":
                is_text = row["metric"] in TEXTS
                return not value or (is_text and value.isdecimal() and int(value) > 1)
            case "pattern":
                is_dense = row["criterion"] == DENSE
                pattern = value.removesuffix(MLP_ONLY)
                return value == NONE if is_dense else bool(Pattern.parse(pattern))
            case "note":
                is_named = row["metric"] == f"{ACCURACY_OF}{MEAN}"
                return not is_named or bool(_NAMED_TASKS.search(value))
            case "value":
                return 0 < float(value) < math.inf
            case _:
                return bool(value.strip())
    return False


def load_meaning() -> Study:
    """Return the study that says what the names of published numbers mean."""
    return Study.load(STUDY, REPOSITORY)


def audit_published(
    evidence: Evidence, published: Sequence[Published], meaning: Study
) -> list[ComparedNumber]:
    """Return, for each published number, our number, the difference and the verdict."""
    cells = {replace(cells[0], seed=0): cells for cells in seed_groups(evidence.records)}
    return [_compared(each, cells.get(each.cell, []), evidence, meaning) for each in published]


def _compared(
    published: Published, cells: list[Cell], evidence: Evidence, meaning: Study
) -> ComparedNumber:
    tolerance = TOLERANCES[published.trust]
    compared = partial(ComparedNumber, **vars(published), tolerance=tolerance)
    if missing := _why_not_run(published, cells, evidence, meaning):
        return compared(verdict=NOT_RUN, reason=missing)
    records = [evidence.records[cell] for cell in cells]
    if published.tasks:
        ours, error = _accuracy(published.tasks, records)
    else:
        ours, error, _ = mean_over_seeds([measured_perplexity(record) for record in records])
    difference = ours - published.value
    share = abs(difference) / published.value
    reason = f"ours is {share:.1%} {'above' if difference > 0 else 'below'}"
    if not cells[0].is_dense:
        sample = evidence.study.calibration_of(published.model)
        reason += (
            f"; calibrated on {sample.samples:,} sequences of {sample.length:,} tokens of "
            f"{_text_identity(evidence.study.text(sample.text))}"
        )
    if published.note:
        reason += f"; the published number: {published.note}"
    return compared(
        verdict=AGREES if abs(difference) <= tolerance * published.value else DIFFERS,
        reason=reason if math.isfinite(difference) else "ours is not finite",
        ours=_finite(ours),
        ours_standard_error=_finite(error),
        difference=_finite(difference),
        command=command(evidence.study, cells, EVALUATE_CELL),
        cells=[str(cell) for cell in cells],
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _accuracy(tasks: Sequence[str], records: Sequence[Record]) -> tuple[float, float]:
    """Return the mean over tasks and seeds in percent, and its error over the documents.

    Seeds share the documents, so the error is not smaller for several of them.
    """
    measured = [record["metrics"]["tasks"]["tasks"] for record in records]
    mean = fmean(of[task]["accuracy"] for of in measured for task in tasks)
    errors = [fmean(of[task]["accuracy_standard_error"] for of in measured) for task in tasks]
    return 100 * mean, 100 * math.hypot(*errors) / len(tasks)


def _why_not_run(
    published: Published, cells: list[Cell], evidence: Evidence, meaning: Study
) -> str | None:
    """Return why no cell can be compared with a number; None if the given cells can."""
    for registry, name in _names(published).items():
        if name not in getattr(meaning.config, registry):
            return f"{meaning.source} has no {name} among its {registry}"
    if not cells:
        return "there is no such cell"
    study = evidence.study
    for registry, name in _names(published).items():
        one, other = (getattr(of.config, registry)[name].as_json() for of in (meaning, study))
        if unlike := [key for key in IDENTITY[registry] if one.get(key) != other.get(key)]:
            return f"{name} means something else here: its {', '.join(unlike)} differ"
    if not published.tasks:
        return _unlike_windows(published, study, meaning)
    for cell in cells:
        measured = evidence.records[cell]["metrics"].get("tasks", {}).get("tasks", {})
        if lacking := [task for task in published.tasks if task not in measured]:
            return f"not asked: {', '.join(lacking)}"
        for task in published.tasks:
            asked, whole = (measured[task][key] for key in ("documents", "documents_in_all"))
            if asked != whole:
                return f"{asked} documents of {task}, not all {whole:,}"
    return None


def _names(published: Published) -> dict[str, str]:
    names = {"models": published.model}
    if published.criterion != DENSE:
        names["criteria"] = published.criterion
    if published.adaptation != NONE:
        names["adaptations"] = published.adaptation
    return names


def _unlike_windows(published: Published, study: Study, meaning: Study) -> str | None:
    """Return why a perplexity of the study cannot be compared with a number; None if it can."""
    settings, text = study.perplexity_of(published.model), meaning.text(TEXTS[published.metric])
    if settings.length != published.seqlen:
        known = published.seqlen or "a length that is unknown"
        return f"windows of {settings.length} tokens, not of {known}"
    if settings.cut != JOINED:
        return "windows lie within documents, which are not joined"
    if settings.stride not in (None, settings.length):
        return "windows overlap"
    if settings.windows is not None:
        return f"{settings.windows} windows, not the whole text"
    ours = study.text(settings.text)
    one, other = ours.as_json(), text.as_json()
    if any(one.get(key) != other.get(key) for key in ("repository", "member", "format")):
        measured = f"measured on `{settings.text}` ({_text_identity(ours)})"
        return f"{measured}, not on {_text_identity(text)}"
    return None


def _text_identity(text: AnyText) -> str:
    if isinstance(text, Mixture):
        return f"mixture of {parts_text(text.parts)}"
    return text.place
