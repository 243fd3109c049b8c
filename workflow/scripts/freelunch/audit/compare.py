"""Compare two runs: which cells differ, by how much, and what may explain it."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from freelunch.analysis.pairing import measured_perplexity, paired_difference
from freelunch.core.digest import content_digest
from freelunch.core.errors import UserError
from freelunch.records.read import differences
from freelunch.reporting.formatting import with_error
from freelunch.reporting.metrics import METRICS
from freelunch.study.cell import Cell
from freelunch.study.study import Study

Record = Mapping[str, Any]
# The facts of an environment that can change a number.
_ENVIRONMENT = (
    *("commit", "uncommitted_changes", "python", "packages", "platform", "processor"),
    *("device", "device_name", "threads"),
)
# The numbers that are compared in addition to the perplexity, by name.
_OTHERS: Mapping[str, Callable[[Record], float | None]] = {
    **{metric.compared_as: metric.read for metric in METRICS if metric.compared_as},
    "sparsity": lambda record: record["identity"]["sparsity"],
}
# Losses that differ by no more than this are equal up to rounding.
ROUNDING = 1e-5


# What a file that is no record makes of a comparison.
_UNREADABLE = (
    *(OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError),
    RecursionError,
)

EQUAL, ROUNDED = "equal", "equal up to rounding"


class Explanation(NamedTuple):
    """What may explain a difference.

    Attributes:
        kind: "setting" or "environment".
        key: Which one.
        a: Its value in A, as people read it.
        b: Its value in B.
    """

    kind: str
    key: str
    a: str
    b: str


class Comparison(NamedTuple):
    """What differs between two runs, A and B.

    Attributes:
        rows: One per cell that differs: `cell`; both perplexities with their errors, `a` and `b`;
            `difference` and its error (None if they were measured on different tokens); `others`,
            a list of keys with both values; and `explained`, the explanations, each with the steps
            that it concerns.
        equal: How many cells have equal losses.
        rounded: How many are equal up to rounding.
        alone: The cells that only one run has.
    """

    rows: list[dict[str, Any]]
    equal: int
    rounded: int
    alone: dict[str, list[str]]


def records_of_run(name: str) -> dict[Cell, dict[str, Any]]:
    """Return the records of a run.

    Args:
        name: A study's config, its results, or a folder of records.

    Raises:
        UserError: There are no records, or one of them is damaged.
    """
    if not name:
        raise UserError(
            "one of the two runs to compare is not named",
            expected="make compare A=... B=..., each a config that was run, its results, or a "
            "folder of records",
        )
    path, todo = Path(name), None
    if path.is_file():
        study = Study.load(path)
        path, todo = study.paths.records, f"run it: {study.run_command}"
    elif (path / "records").is_dir():
        path = path / "records"
    elif not path.is_dir():
        raise UserError("there is no such file or folder", where=path)
    files = [each for each in sorted(path.glob("*.json")) if "__" in each.name]
    if not files:
        raise UserError(
            "there are no records to compare",
            where=path,
            expected="a study's config that was run, its results, or a folder of records",
            todo=todo,
        )
    records = [_read(file) for file in files]
    for file, record in zip(files, records, strict=True):
        # Records of earlier versions hold no digest.
        if "sha256" in record and record["sha256"] != content_digest(record):
            raise UserError(
                "this record was altered after it was collected",
                where=file,
                found=f"content of digest {content_digest(record)}",
                expected=record["sha256"],
                todo="take the record as it was collected",
            )
    found: dict[Cell, dict[str, Any]] = {}
    for file, record in zip(files, records, strict=True):
        cell = Cell.parse(record["cell"])
        if cell in found:
            raise UserError(
                "a folder has two records of one cell",
                where=file,
                found=str(cell),
                expected=f"that of {path / cell.record_name} alone",
                todo="remove one of them",
            )
        found[cell] = record
    return found


def _read(path: Path) -> dict[str, Any]:
    """Return a record, perhaps of an earlier version that today's schema would refuse."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        # Whatever a comparison reads is there.
        _compared(Cell.parse(record["cell"]), record, record)
        _explanations(record, record)
    except _UNREADABLE as error:
        problem = f"{type(error).__name__}: {error}"
        raise UserError("this is not the record of a cell", where=path, found=problem) from error
    return record


def compare_runs(one: Mapping[Cell, Record], other: Mapping[Cell, Record]) -> Comparison:
    """Return what differs between two runs, A and B."""
    shared = sorted(one.keys() & other.keys())
    found = [_compared(cell, one[cell], other[cell]) for cell in shared]
    return Comparison(
        [row for row in found if isinstance(row, dict)],
        found.count(EQUAL),
        found.count(ROUNDED),
        {
            "only in A": [str(cell) for cell in sorted(one.keys() - other.keys())],
            "only in B": [str(cell) for cell in sorted(other.keys() - one.keys())],
        },
    )


def _compared(cell: Cell, one: Record, other: Record) -> dict[str, Any] | str:
    """Return a row of a comparison, or that the cell is EQUAL or ROUNDED."""
    a, b = measured_perplexity(one), measured_perplexity(other)
    same_tokens = _tokens(one) == _tokens(other)
    difference: tuple[float | None, float | None] = (None, None)
    others = list(_other_differences(one, other))
    # As records have them, since a loss that is not finite is null there, and equals itself.
    if same_tokens and _losses(one) == _losses(other) and not others:
        return EQUAL
    if same_tokens and len(a[2]) == len(b[2]):
        difference = paired_difference(b[2], a[2])
        if difference[0] is not None and abs(difference[0]) <= ROUNDING and not others:
            return ROUNDED
    return {
        "cell": str(cell),
        "a": a[:2],
        "b": b[:2],
        "difference": difference[0],
        "difference_standard_error": difference[1],
        "others": others,
        "explained": _explanations(one, other),
    }


def _other_differences(one: Record, other: Record) -> Iterator[tuple[str, Any, Any]]:
    """Yield the other numbers that both records have and that differ by more than rounding."""
    for key, read in _OTHERS.items():
        a, b = read(one), read(other)
        if a is None or b is None or (math.isnan(a) and math.isnan(b)):
            continue
        if not math.isclose(a, b, rel_tol=ROUNDING):
            yield key, a, b


def _tokens(record: Record) -> str:
    return str(record["metrics"]["perplexity"]["token_ids_sha256"])


def _losses(record: Record) -> list[float | None]:
    losses: list[float | None] = record["metrics"]["perplexity"]["window_losses"]
    return losses


def _explanations(one: Record, other: Record) -> dict[Explanation, list[str]]:
    """Return the settings that differ, and what differs between the environments of the steps that
    both records have, with these steps.

    A package that only one of the two steps recorded explains nothing and is left out.
    """
    found: dict[Explanation, list[str]] = {
        _explanation("setting", *each): [] for each in differences(one["spec"], other["spec"])
    }
    environments = [_environments(each) for each in (one, other)]
    for step in sorted(environments[0].keys() & environments[1].keys()):
        for a, b in product(*(of[step] for of in environments)):
            for key, mine, theirs in differences(a, b):
                if not (key.startswith("packages.") and None in (mine, theirs)):
                    steps = found.setdefault(_explanation("environment", key, mine, theirs), [])
                    steps += [] if step in steps else [step]
    return found


def _environments(record: Record) -> dict[str, list[dict[str, Any]]]:
    """Return what can change a number of each environment of a step."""
    provenance = record.get("provenance", {})
    first, others = (provenance.get(key, {}) for key in ("environments", "other_environments"))
    return {
        step: [{key: of.get(key) for key in _ENVIRONMENT} for of in (each, *others.get(step, []))]
        for step, each in first.items()
    }


def _explanation(kind: str, key: str, mine: Any, theirs: Any) -> Explanation:
    # A commit is told by its first digits; what else is long is cut.
    a, b = (
        each[:12] if key == "commit" and each else json.dumps(each)[:60] for each in (mine, theirs)
    )
    return Explanation(kind, key, a, b)


def comparison_text(found: Comparison) -> str:
    """Return a comparison for people: what is equal first, then what differs, cell by cell.

    What explains the differences of all cells is said once.
    """
    rows = found.rows
    common = found.equal + found.rounded + len(rows)
    alone = ", ".join(f"{len(cells)} {what}" for what, cells in found.alone.items())
    lines = [
        f"{common} {'cell' if common == 1 else 'cells'} in both runs: {found.equal} equal, "
        f"{found.rounded} equal up to rounding, {len(rows)} different; {alone}."
    ]
    everywhere: dict[Explanation, list[str]] = {}
    if len(rows) > 1:
        for each in rows[0]["explained"]:
            if all(each in row["explained"] for row in rows):
                steps = [step for row in rows for step in row["explained"][each]]
                everywhere[each] = list(dict.fromkeys(steps))
    if everywhere:
        lines += ["What differs for all of these cells:", *_explained(everywhere)]
    for row in rows:
        lines.append(f"{row['cell']}: {with_error(*row['a'])} in A, {with_error(*row['b'])} in B")
        if row["difference"] is None:
            lines.append("  measured on different tokens, so the two cannot be compared")
        else:
            error = row["difference_standard_error"]
            lines.append(f"  loss B - A: {with_error(row['difference'], error)} nats per token")
        lines += [f"  {key}: {a:g} in A, {b:g} in B" for key, a, b in row["others"]]
        own = {it: steps for it, steps in row["explained"].items() if it not in everywhere}
        lines += _explained(own)
        if not row["explained"]:
            lines.append("  no recorded setting or environment explains the difference")
    lines += [f"{what}: {', '.join(cells)}" for what, cells in found.alone.items() if cells]
    return "\n".join(lines)


def _explained(found: Mapping[Explanation, Sequence[str]]) -> list[str]:
    return [
        f"  {each.kind} {each.key}{' of ' if steps else ''}{', '.join(steps)}: "
        f"{each.a} in A, {each.b} in B"
        for each, steps in found.items()
    ]
