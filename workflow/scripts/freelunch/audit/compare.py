"""Compare two runs: which cells differ, by how much, and what may explain it."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from freelunch.analysis.pairing import Records, measured_perplexity, paired_difference
from freelunch.core.errors import UserError
from freelunch.records.read import differences, read_record
from freelunch.records.record import Record
from freelunch.reporting.formatting import with_error
from freelunch.reporting.metrics import METRICS
from freelunch.study.cell import Cell
from freelunch.study.open_study import check_owner
from freelunch.study.study import Study

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
EQUAL, ROUNDED, DIFFERENT = "equal", "equal up to rounding", "different"
# What may explain a difference, and its values, with the steps that it concerns.
Explanations = dict[tuple[str, str], list[str]]


def records_of_run(name: str) -> dict[Cell, Record]:
    """Return the records of a run, by a study's config, its results, or a folder of records.

    UserError: there are no records, one of them is damaged, or they are of another study file.
    """
    path, todo = Path(name), None
    if path.is_file():
        study = Study.load(path)
        check_owner(study)
        path, todo = study.paths.records, f"run it: {study.command()}"
    elif (path / "records").is_dir():
        path = path / "records"
    records: dict[Cell, Record] = {}
    # An empty name is no folder.
    for file in sorted(path.glob("*__*.json")) if name else ():
        record = read_record(file)
        cell = Cell.parse(record["cell"])
        if cell in records:
            raise UserError(
                "a folder has two records of one cell",
                where=file,
                found=cell,
                expected=f"that of {path / cell.record_name} alone",
                todo="remove one of them",
            )
        records[cell] = record
    if not records:
        raise UserError(
            "there are no records to compare",
            where=path if name else None,
            expected="make compare A=... B=..., each a config that was run, its results, or a "
            "folder of records",
            todo=todo,
        )
    return records


def comparison_text(one: Records, other: Records) -> str:
    """Return how two runs, A and B, compare: what is equal first, then what differs, cell by cell.

    What explains the differences of all cells is said once.
    """
    shared = sorted(one.keys() & other.keys())
    alone = {"A": sorted(one.keys() - other.keys()), "B": sorted(other.keys() - one.keys())}
    compared = {cell: _compared(one[cell], other[cell]) for cell in shared}
    counts = Counter(kind for kind, _ in compared.values())
    lines = [
        f"{len(shared)} {'cell' if len(shared) == 1 else 'cells'} in both runs: "
        f"{', '.join(f'{counts[kind]} {kind}' for kind in (EQUAL, ROUNDED, DIFFERENT))}; "
        f"{', '.join(f'{len(those)} only in {run}' for run, those in alone.items())}."
    ]
    different = {cell: told for cell, (kind, told) in compared.items() if kind == DIFFERENT}
    explained = [_explanations(one[cell], other[cell]) for cell in different]
    everywhere: Explanations = {}
    for each in explained[0] if len(explained) > 1 else ():
        if all(each in of_cell for of_cell in explained):
            steps = [step for of_cell in explained for step in of_cell[each]]
            everywhere[each] = list(dict.fromkeys(steps))
    if everywhere:
        lines += ["What differs for all of these cells:", *_explained(everywhere)]
    for (cell, told), of_cell in zip(different.items(), explained, strict=True):
        lines += [f"{cell}: {told[0]}", *told[1:]]
        lines += _explained({each: of_cell[each] for each in of_cell if each not in everywhere})
        if not of_cell:
            lines.append("  no recorded setting or environment explains the difference")
    lines += [f"only in {run}: {', '.join(map(str, of))}" for run, of in alone.items() if of]
    return "\n".join(lines)


def _compared(one: Record, other: Record) -> tuple[str, list[str]]:
    """Return whether two records of a cell are equal, and how they differ, in lines."""
    a, b = measured_perplexity(one), measured_perplexity(other)
    tokens, losses = (
        [record["metrics"]["perplexity"][key] for record in (one, other)]
        for key in ("token_ids_sha256", "window_losses")
    )
    same_tokens, others = tokens[0] == tokens[1], list(_other_differences(one, other))
    # As records have them, since a loss that is not finite is null there, and equals itself.
    if same_tokens and losses[0] == losses[1] and not others:
        return EQUAL, []
    difference = "  measured on different tokens, so the two cannot be compared"
    if same_tokens and len(a[2]) == len(b[2]):
        loss, error = paired_difference(b[2], a[2])
        if abs(loss) <= ROUNDING and not others:
            return ROUNDED, []
        difference = f"  loss B - A: {with_error(loss, error)} nats per token"
    levels = f"{with_error(*a[:2])} in A, {with_error(*b[:2])} in B"
    return DIFFERENT, [levels, difference, *others]


def _other_differences(one: Record, other: Record) -> Iterator[str]:
    for key, read in _OTHERS.items():
        a, b = read(one), read(other)
        if a is None or b is None or (math.isnan(a) and math.isnan(b)):
            continue
        if not math.isclose(a, b, rel_tol=ROUNDING):
            yield f"  {key}: {a:g} in A, {b:g} in B"


def _explanations(one: Record, other: Record) -> Explanations:
    """Return the settings that differ, and what differs between the environments of the steps that
    both records have, with these steps.

    A package that only one of the two steps recorded explains nothing and is left out.
    """
    # Beside the settings, what `precision: auto` stood for on each machine.
    a, b = (each["adaptation"] and each["adaptation"].get("precision") for each in (one, other))
    decided = differences(a, b, "adaptation.precision")
    unlike = [*differences(one["spec"], other["spec"]), *decided]
    found: Explanations = {(f"setting {key}", _values(key, *of)): [] for key, *of in unlike}
    environments = [_environments(each) for each in (one, other)]
    for step in sorted(environments[0].keys() & environments[1].keys()):
        for a, b in product(*(of[step] for of in environments)):
            for key, *of in differences(a, b):
                if not (key.startswith("packages.") and None in of):
                    steps = found.setdefault((f"environment {key}", _values(key, *of)), [])
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


def _values(key: str, *values: Any) -> str:
    """Return two values; a commit is told by its first digits, what else is long is cut."""
    is_commit = key == "commit"
    a, b = (it[:12] if is_commit and it else json.dumps(it)[:60] for it in values)
    return f"{a} in A, {b} in B"


def _explained(found: Explanations) -> list[str]:
    return [
        f"  {what}{' of ' if steps else ''}{', '.join(steps)}: {values}"
        for (what, values), steps in found.items()
    ]
