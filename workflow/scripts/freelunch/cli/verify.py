"""`verify`, `repair` and `tidy`: whether a study is intact, making again what is not, and removing
the candidates of finished cells.
"""

import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from freelunch.audit.output_checks import check_unedited, made_from_records
from freelunch.core.artifact import MANIFEST
from freelunch.core.errors import UserError, first_of, mend
from freelunch.core.files import remove_path
from freelunch.records.integrity import Output, step_outputs
from freelunch.records.read import finished_records
from freelunch.study.cell import Cell
from freelunch.study.steps import RULES
from freelunch.study.study import Study

_SHOWN = 10


def outputs_of(study: Study) -> Iterator[Output]:
    """Yield all that a study makes, in the order in which it is made."""
    yield from step_outputs(study)
    yield from made_from_records(study)


def problems_of(study: Study, anew: bool) -> dict[Output, str]:
    """Return what is damaged or missing, in the order in which it is made, and what is wrong; read
    all files if `anew`, even those whose digests are known.
    """
    found = ((output, output.problem(anew)) for output in outputs_of(study))
    return {output: problem for output, problem in found if problem is not None}


def check_intact(study: Study, anew: bool = False) -> None:
    """Check that a finished study is intact, cheaply unless `anew`; UserError if it is not."""
    if problems := problems_of(study, anew):
        found = ", ".join(first_of(problems.values(), 1))
        raise UserError("the results are not whole", found=found, todo=mend())


def verify(study: Study) -> tuple[str, bool]:
    """Read all that a study made; return a line for each kind, and whether all is intact. UserError
    if the study has no results, or was edited since it ran to its end.
    """
    _check_ran(study)
    check_unedited(study)
    # What may be removed, and was, is neither whole nor damaged.
    outputs = [output for output in outputs_of(study) if output.needed or not output.is_removed()]
    problems = {output: output.problem(anew=True) for output in outputs}
    lines = []
    for what, count in Counter(output.what for output in outputs).items():
        damaged = [said for output, said in problems.items() if said and output.what == what]
        more = f", {len(damaged)} damaged or missing" if damaged else ""
        lines.append(f"{what:<24} {count - len(damaged)} whole{more}")
        lines += [f"  {problem}" for problem in first_of(damaged, _SHOWN)]
    return "\n".join(lines), not any(problems.values())


def _check_ran(study: Study) -> None:
    if not Path(study.paths.root).is_dir():
        raise UserError(
            "this study has no results, because it has not run or they were removed",
            where=study.paths.root,
            todo=f"run it: {study.command()}",
        )


def repair(study: Study, command: Sequence[str]) -> None:
    """Make again what is damaged or missing, rule by rule, and nothing else, by a command that runs
    Snakemake on the targets that are appended.

    A step that is made again with an equal result leaves what was made from it valid, but only for
    the next run of Snakemake. So each rule gets a run of its own. UserError if the study has no
    results, a run failed, or something is still damaged.
    """
    _check_ran(study)
    outputs = list(outputs_of(study))
    # The summary after each run would only repeat itself.
    environment = {**os.environ, "MAKELEVEL": "1"}
    for rule in RULES:
        targets = []
        for output in outputs:
            if output.rule == rule and (problem := output.problem(anew=True)):
                _say(problem)
                output.remove()
                targets += [] if output.is_cache else [str(output.target)]
        done = subprocess.run([*command, *targets], env=environment) if targets else None
        if done is not None and done.returncode:
            raise UserError(
                "the repair stopped",
                found=f"exit status {done.returncode} of {shlex.join([*command, *targets])}",
                todo="fix the error above, then run the same command again",
            )
    if problems := problems_of(study, anew=False):
        raise UserError(
            "this is still damaged or missing after all that is damaged was made again",
            found=", ".join(first_of(problems.values(), 1)),
            todo="run the same command again; if it is of no use, report this",
        )
    _say("The study is whole.")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def tidy(study: Study) -> str:
    """Remove the adapted blocks and the checkpoints of the candidates of finished cells; return
    what was removed, in words.

    A cell keeps its own, which are those of the candidate that was chosen, and the measurements by
    which it was chosen. Nothing runs again because of what is removed, as long as the candidates
    need not be measured or compared again. The study may be running: a cell keeps its candidates
    if it has no record, or one of other settings, or if a candidate was made or measured after the
    record. UserError if a record is damaged.
    """
    settled = [cell for cell in finished_records(study)[0] if _is_settled(study, cell)]
    removed = set()
    for candidate in (each for cell in settled for each in study.candidates(cell)):
        for folder in (study.paths.windows(candidate, ""), study.paths.checkpoint(candidate)):
            # Half a folder would look damaged. An interrupted run may have left one.
            removing = folder.with_name(f".{folder.name}.removing")
            remove_path(removing)
            if folder.is_dir():
                remove_path(folder.rename(removing))
                removed.add(candidate)
    return f"Removed the adapted blocks and checkpoints of {len(removed):,} candidate(s)."


def _is_settled(study: Study, cell: Cell) -> bool:
    """Return whether the candidates of a cell were made and measured before its record. Otherwise
    they are being made again, and the cell is about to choose among them.
    """
    paths = study.paths
    folders = []
    for each in study.candidates(cell):
        checkpoint = [paths.checkpoint(each)] if paths.checkpoint(each).is_dir() else []
        folders += [paths.metrics(each), *paths.windows(each, "").glob("[!.]*"), *checkpoint]
    # A running study removes manifests and records before it makes them again.
    with suppress(FileNotFoundError):
        recorded = paths.record(cell).stat().st_mtime
        return all((folder / MANIFEST).stat().st_mtime <= recorded for folder in folders)
    return False
