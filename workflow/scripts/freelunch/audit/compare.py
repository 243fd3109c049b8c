"""Compare two runs: which cells differ, by how much, and what may explain it."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from freelunch.analysis.pairing import measured_perplexity, paired_difference
from freelunch.core.errors import UserError
from freelunch.records.read import differences, read_record
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
EQUAL, ROUNDED = "equal", "equal up to rounding"


@dataclass(frozen=True)
class Explanation:
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

    @classmethod
    def of(cls, kind: str, key: str, *values: Any) -> "Explanation":
        """Return what differs; a commit is told by its first digits, what else is long is cut."""
        is_commit = key == "commit"
        a, b = (it[:12] if is_commit and it else json.dumps(it)[:60] for it in values)
        return cls(kind, key, a, b)


@dataclass(frozen=True)
class DifferentCell:
    """A cell that differs between two runs, A and B.

    Attributes:
        cell: The cell.
        a, b: Its perplexity and the error of that.
        difference: The loss in B minus that in A, and its error; None if they were measured on
            different tokens.
        others: Other numbers that differ, with their values in A and in B.
        explained: What may explain it, with the steps that it concerns.
    """

    cell: Cell
    a: tuple[float, float]
    b: tuple[float, float]
    difference: tuple[float, float] | None
    others: list[tuple[str, float, float]]
    explained: dict[Explanation, list[str]]


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs, A and B.

    Attributes:
        different: The cells that differ.
        equal: How many cells have equal losses.
        rounded: How many are equal up to rounding.
        only_in_a, only_in_b: The cells that only one run has.
    """

    different: list[DifferentCell]
    equal: int
    rounded: int
    only_in_a: list[Cell]
    only_in_b: list[Cell]


def records_of_run(name: str) -> dict[Cell, Record]:
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
    records: dict[Cell, Record] = {}
    for file in files:
        record = read_record(file)
        cell = Cell.parse(record["cell"])
        if cell in records:
            raise UserError(
                "a folder has two records of one cell",
                where=file,
                found=str(cell),
                expected=f"that of {path / cell.record_name} alone",
                todo="remove one of them",
            )
        records[cell] = record
    return records


def compare_runs(one: Mapping[Cell, Record], other: Mapping[Cell, Record]) -> Comparison:
    """Return what differs between two runs, A and B."""
    shared = sorted(one.keys() & other.keys())
    compared = [_compared(cell, one[cell], other[cell]) for cell in shared]
    return Comparison(
        [each for each in compared if isinstance(each, DifferentCell)],
        compared.count(EQUAL),
        compared.count(ROUNDED),
        sorted(one.keys() - other.keys()),
        sorted(other.keys() - one.keys()),
    )


def _compared(cell: Cell, one: Record, other: Record) -> DifferentCell | str:
    """Return how a cell differs, or that it is EQUAL or ROUNDED."""
    a, b = measured_perplexity(one), measured_perplexity(other)
    tokens, losses = (
        [record["metrics"]["perplexity"][key] for record in (one, other)]
        for key in ("token_ids_sha256", "window_losses")
    )
    same_tokens, others = tokens[0] == tokens[1], list(_other_differences(one, other))
    # As records have them, since a loss that is not finite is null there, and equals itself.
    if same_tokens and losses[0] == losses[1] and not others:
        return EQUAL
    difference = None
    if same_tokens and len(a[2]) == len(b[2]):
        difference = paired_difference(b[2], a[2])
        if abs(difference[0]) <= ROUNDING and not others:
            return ROUNDED
    return DifferentCell(cell, a[:2], b[:2], difference, others, _explanations(one, other))


def _other_differences(one: Record, other: Record) -> Iterator[tuple[str, float, float]]:
    """Yield the other numbers that both records have and that differ by more than rounding."""
    for key, read in _OTHERS.items():
        a, b = read(one), read(other)
        if a is None or b is None or (math.isnan(a) and math.isnan(b)):
            continue
        if not math.isclose(a, b, rel_tol=ROUNDING):
            yield key, a, b


def _explanations(one: Record, other: Record) -> dict[Explanation, list[str]]:
    """Return the settings that differ, and what differs between the environments of the steps that
    both records have, with these steps.

    A package that only one of the two steps recorded explains nothing and is left out.
    """
    found: dict[Explanation, list[str]] = {
        Explanation.of("setting", *each): [] for each in differences(one["spec"], other["spec"])
    }
    environments = [_environments(each) for each in (one, other)]
    for step in sorted(environments[0].keys() & environments[1].keys()):
        for a, b in product(*(of[step] for of in environments)):
            for key, mine, theirs in differences(a, b):
                if not (key.startswith("packages.") and None in (mine, theirs)):
                    steps = found.setdefault(Explanation.of("environment", key, mine, theirs), [])
                    steps += [] if step in steps else [step]
    return found


def _environments(record: Record) -> dict[str, list[dict[str, Any]]]:
    """Return what can change a number of each environment of a step."""
    provenance = record["provenance"]
    others = provenance.get("other_environments", {})
    return {
        step: [{key: of.get(key) for key in _ENVIRONMENT} for of in (each, *others.get(step, []))]
        for step, each in provenance["environments"].items()
    }


def comparison_text(found: Comparison) -> str:
    """Return a comparison for people: what is equal first, then what differs, cell by cell.

    What explains the differences of all cells is said once.
    """
    cells = found.different
    common = found.equal + found.rounded + len(cells)
    alone = {"only in A": found.only_in_a, "only in B": found.only_in_b}
    lines = [
        f"{common} {'cell' if common == 1 else 'cells'} in both runs: {found.equal} equal, "
        f"{found.rounded} equal up to rounding, {len(cells)} different; "
        f"{', '.join(f'{len(those)} {where}' for where, those in alone.items())}."
    ]
    everywhere: dict[Explanation, list[str]] = {}
    for each in cells[0].explained if len(cells) > 1 else ():
        if all(each in cell.explained for cell in cells):
            steps = [step for cell in cells for step in cell.explained[each]]
            everywhere[each] = list(dict.fromkeys(steps))
    if everywhere:
        lines += ["What differs for all of these cells:", *_explained(everywhere)]
    for cell in cells:
        lines.append(f"{cell.cell}: {with_error(*cell.a)} in A, {with_error(*cell.b)} in B")
        if cell.difference is None:
            lines.append("  measured on different tokens, so the two cannot be compared")
        else:
            lines.append(f"  loss B - A: {with_error(*cell.difference)} nats per token")
        lines += [f"  {key}: {a:g} in A, {b:g} in B" for key, a, b in cell.others]
        own = {each: steps for each, steps in cell.explained.items() if each not in everywhere}
        lines += _explained(own)
        if not cell.explained:
            lines.append("  no recorded setting or environment explains the difference")
    lines += [f"{where}: {', '.join(map(str, those))}" for where, those in alone.items() if those]
    return "\n".join(lines)


def _explained(found: Mapping[Explanation, Sequence[str]]) -> list[str]:
    return [
        f"  {each.kind} {each.key}{' of ' if steps else ''}{', '.join(steps)}: "
        f"{each.a} in A, {each.b} in B"
        for each, steps in found.items()
    ]
