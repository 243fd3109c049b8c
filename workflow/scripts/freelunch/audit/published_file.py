"""The file of published numbers, checked row by row."""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freelunch.audit.claims import DATA
from freelunch.core.errors import UserError
from freelunch.study.cell import DENSE, NONE
from freelunch.study.patterns import Pattern

PUBLISHED = DATA / "published_results.csv"
COLUMNS = (
    *("source", "reference", "model", "criterion", "pattern", "adaptation"),
    *("metric", "seqlen", "value", "trust", "note"),
)
# A number agrees if it is within this share of the published one. Perplexities differ by a few
# thousandths between machines and versions of libraries, and by more between calibration samples.
TOLERANCES = {"primary": 0.02, "corroborated": 0.02, "third-party": 0.05}
# The metrics of perplexity, with the name of their text in studies/paper.yaml.
TEXTS = {"wikitext2_perplexity": "wikitext2"}
# Zero-shot accuracies, in percent: of a task, or the plain mean of the paper's seven.
ACCURACY_OF = "accuracy_"
TASKS = ("boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
MEAN_OF_SEVEN = "mean_of_seven"
# What a row says of its number; the other columns say which number it is.
_SAID = ("value", "trust", "note")


@dataclass(frozen=True)
class Published:
    """A number that was published.

    Attributes:
        source, reference: Who published it, and where.
        model, criterion, pattern, adaptation: Names as in a cell.
        metric: A key of TEXTS, or `accuracy_` followed by a task or `mean_of_seven`.
        length: Tokens in a window of text; None for an accuracy.
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
    length: int | None
    value: float
    trust: str
    note: str

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks of an accuracy; none for a perplexity."""
        name = self.metric.removeprefix(ACCURACY_OF)
        if name == self.metric:
            return ()
        return TASKS if name == MEAN_OF_SEVEN else (name,)


def load_published(path: Path = PUBLISHED) -> list[Published]:
    """Return the rows of a file.

    Raises:
        UserError: The columns are wrong, or a row is malformed.
    """
    try:
        # With or without the byte order mark that spreadsheets write.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("published numbers cannot be read", where=path, found=error) from error
    reader = csv.DictReader(lines)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise UserError(
            "the columns of the published numbers are wrong",
            where=path,
            found=", ".join(reader.fieldnames or ()),
            expected=", ".join(COLUMNS),
            todo="correct the first line",
        )
    rows = [_published(row, f"{path}: line {reader.line_num}") for row in reader]
    seen: set[tuple[object, ...]] = set()
    for row in rows:
        place = tuple(value for name, value in vars(row).items() if name not in _SAID)
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
    """Yield each problem of a row: the column, and the expected value."""
    if None in row or None in row.values():
        yield "(row)", f"{len(COLUMNS)} fields"
        return
    for key in ("source", "reference", "model", "criterion", "adaptation"):
        if not row[key].strip():
            yield key, "a name"
    if row["criterion"] == DENSE:
        if row["pattern"] != NONE:
            yield "pattern", f"{NONE}, for a dense model"
    else:
        try:
            Pattern.parse(row["pattern"])
        except ValueError as error:
            yield "pattern", str(error)
    accuracy = row["metric"].removeprefix(ACCURACY_OF)
    if accuracy in (*TASKS, MEAN_OF_SEVEN) and accuracy != row["metric"]:
        if row["seqlen"]:
            yield "seqlen", "nothing, for an accuracy"
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
