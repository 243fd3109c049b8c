"""Records: one small file per cell, with everything that decides its numbers and all it cost.

`freelunch.records.collect` makes them. The collector and every reader refuse a record whose
settings differ from the current ones.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import jsonschema

from freelunch.core.digest import file_digest, read_sealed
from freelunch.core.errors import UserError, mend, run_again
from freelunch.records.record import Record
from freelunch.study import steps
from freelunch.study.cell import Cell
from freelunch.study.study import Study

SCHEMA = Path(__file__).resolve().parents[3] / "schemas" / "record.schema.json"
# The first rules that use a setting of the spec, by what the setting's dotted key begins with.
_RULES = {
    "model": (steps.FETCH_MODEL,),
    "calibration": (steps.SAMPLE_CALIBRATION,),
    "seed": (steps.SAMPLE_CALIBRATION,),
    "criterion": (steps.PRUNE_MODEL,),
    "pattern": (steps.PRUNE_MODEL,),
    "adaptation": (steps.RECONSTRUCT_WINDOW, steps.RETRAIN_MODEL),
    "start": (steps.RECONSTRUCT_WINDOW,),
    "selection": (steps.SAMPLE_HELD_OUT,),
    "evaluation": (steps.CUT_WINDOWS, steps.EVALUATE_CELL),
}
# The first setting of a cell that differs, what it was, and what it is.
Difference = tuple[str, Any, Any]


def answers_beside(record: Path) -> Path:
    """Return the path of the file of answers beside a record."""
    return record.with_name(f"{record.stem}.{steps.ANSWERS}")


def load_answers(record: Path) -> dict[str, list[dict[str, Any]]]:
    """Return a cell's answers: for each task and document, the log-likelihoods of the choices and
    whether the answer is right. UserError if the file is missing or damaged.
    """
    path = answers_beside(record)
    try:
        return json.loads(gzip.decompress(path.read_bytes()))  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError, zlib.error) as error:
        problem = "the answers of a record cannot be read"
        raise UserError(problem, where=path, found=error, todo=mend()) from error


def load_records(study: Study, folder: Path | None = None) -> dict[Cell, Record]:
    """Return the record of every cell of a study, from its results or another folder. UserError: a
    record is missing or damaged, or was made with other than the current settings.
    """
    records = {}
    for cell in study.cells:
        path = (folder or study.paths.records) / cell.record_name
        if not path.is_file():
            todo = f"run the study (`{study.command()}`)"
            raise UserError("a record is missing", where=path, todo=todo)
        records[cell] = record_of(cell, path)
        check_spec(records[cell]["spec"], study.spec(cell), cell, path)
    return records


def is_finished(study: Study) -> bool:
    """Return whether every cell has a record that was made with the current settings."""
    try:
        return bool(load_records(study))
    except UserError:
        return False


@dataclass(frozen=True)
class SoFar:
    """What has finished of a study.

    Attributes:
        study: The study, restricted to its cells that have finished and whose dense model has.
        records: The record of each of these cells.
        waiting: The cells that have finished, while their dense model has not.
        outdated: The cells whose records were made with other settings, so that they run again.
    """

    study: Study
    records: dict[Cell, Record]
    waiting: list[Cell]
    outdated: dict[Cell, Difference]


def load_finished(study: Study) -> SoFar:
    """Return what has finished of a study or a part of it, which may be running. UserError: a
    record is damaged, or there is no pruned cell to compare with its dense model.
    """
    found, outdated = finished_records(study)
    records = {cell: record for cell, record in found.items() if Cell.dense(cell.model) in found}
    waiting = [cell for cell in found if cell not in records]
    if all(cell.is_dense for cell in records):
        raise UserError(
            "nothing can be compared yet",
            where=study.paths.records,
            found=f"{len(found)} records of the study as it is, and {len(outdated)} made with "
            "other settings",
            expected="those of a pruned model and of its dense model",
            todo=f"run the study (`{study.command()}`), or wait if it is running",
        )
    return SoFar(replace(study, finished=frozenset(records)), records, waiting, outdated)


def finished_records(study: Study) -> tuple[dict[Cell, Record], dict[Cell, Difference]]:
    """Return the records that there are of a study, which may be running: those that were made with
    the current settings, and `outdated`, as `SoFar` has it. UserError if one is damaged.
    """
    found, outdated = {}, {}
    for cell in study.cells:
        record = _record_so_far(study, cell, study.paths.record(cell))
        if record is None:
            continue
        if unlike := next(differences(record["spec"], study.spec(cell)), None):
            outdated[cell] = unlike
        else:
            found[cell] = record
    return found, outdated


def _record_so_far(study: Study, cell: Cell, path: Path) -> Record | None:
    """Return the record of a cell; None if there is none.

    In a study that has not finished, `make repair` would also run all that is missing, so a damaged
    record has another remedy.
    """
    try:
        return record_of(cell, path)
    except UserError as error:
        # A running study removes a record before it makes it again.
        if not path.is_file():
            return None
        todo = f"remove it, and run the study, which makes it again: {study.command()}"
        raise UserError(error.problem, where=path, found=error.found, todo=todo) from error


def record_of(cell: Cell, path: Path) -> Record:
    """Return the record in a file. UserError: it or its answers are damaged or another cell's."""
    record = read_record(path)
    if (found := record["spec"].get("cell")) != str(cell):
        problem = "this is the record of another cell"
        raise UserError(problem, where=path, found=found, expected=cell, todo=mend())
    if steps.TASKS in record["metrics"]:
        expected, answers = record["metrics"][steps.TASKS]["answers_sha256"], answers_beside(path)
        if not answers.is_file() or file_digest(answers) != expected:
            raise UserError(
                "the answers differ from what the record says", where=answers, todo=mend()
            )
    return record


def read_record(path: Path) -> Record:
    """Return a record of any study; UserError if it was altered or does not match the schema."""
    record = read_sealed(path, problem="a record is damaged or was altered")
    validate(record, str(path))
    return cast(Record, record)


def differences(one: Any, other: Any, key: str = "") -> Iterator[Difference]:
    """Yield each difference between two trees of mappings: the dotted key and both values."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in sorted(one.keys() | other.keys()):
            deeper = f"{key}.{name}" if key else name
            yield from differences(one.get(name), other.get(name), deeper)
    elif one != other:
        yield key, one, other


def check_spec(found_spec: object, spec: object, cell: Cell, where: object) -> None:
    """Refuse, by UserError, numbers that were made with other settings than the config asks for."""
    unlike = list(differences(found_spec, spec))
    if not unlike:
        return
    key, found, expected = unlike[0]
    rules = _RULES[key.partition(".")[0]]
    if ".text." in key:
        rules = (steps.FETCH_TEXT,)
    elif key == "model.bos":
        rules = (steps.DECIDE_BOS,)
    elif key.startswith("evaluation.tasks.tasks."):
        rules = (steps.FETCH_TASKS,)
    more = f" ({len(unlike)} settings differ)" if len(unlike) > 1 else ""
    raise UserError(
        f"{cell} was computed with other settings than the config asks for{more}",
        where=where,
        found=f"{key} = {json.dumps(found)}",
        expected=f"{key} = {json.dumps(expected)}",
        todo=run_again(*rules),
    )


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def validate(record: object, where: str) -> None:
    """Refuse, by UserError, what does not match the schema of records."""
    error = next(_validator().iter_errors(record), None)
    if error is not None:
        raise UserError(
            "a record does not match workflow/schemas/record.schema.json",
            where=where,
            found=error.message[:300],
            expected=".".join(str(part) for part in error.absolute_path) or "a record",
            todo=mend(),
        )
