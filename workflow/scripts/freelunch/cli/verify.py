"""`verify` and `repair`: whether a study is intact, and making again what is not."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from freelunch.audit.output_checks import check_unedited, files_of_others, made_from_records
from freelunch.core.errors import UserError, first_of, mend
from freelunch.records.integrity import Output, step_outputs
from freelunch.study.steps import RULES
from freelunch.study.study import Study

_SHOWN = 10


def outputs_of(study: Study) -> Iterator[Output]:
    """Yield all that a study makes, in the order in which it is made."""
    yield from step_outputs(study)
    yield from made_from_records(study)


def problems_of(study: Study, anew: bool) -> dict[Output, str]:
    """Return what is damaged or missing, in the order in which it is made, and what is wrong.

    Args:
        study: The study.
        anew: Whether to read all files, even those whose digests are known.
    """
    found = ((output, output.problem(anew)) for output in outputs_of(study))
    return {output: problem for output, problem in found if problem is not None}


def check_intact(study: Study) -> None:
    """Check that a finished study is intact, as cheaply as possible.

    Raises:
        UserError: A file is damaged or missing.
    """
    if problems := problems_of(study, anew=False):
        found = ", ".join(first_of(problems.values(), 1))
        raise UserError("the results are not whole", found=found, todo=mend())


def verify(study: Study) -> tuple[str, bool]:
    """Read all that a study made; return a line for each kind, and whether all is intact.

    Raises:
        UserError: The study has no results, or was edited since it ran to its end.
    """
    _check_ran(study)
    check_unedited(study)
    # What may be removed, and was, is neither whole nor damaged.
    outputs = [output for output in outputs_of(study) if output.needed or not output.is_removed()]
    problems = {what: list[str]() for what in dict.fromkeys(output.what for output in outputs)}
    for output in outputs:
        problems[output.what] += filter(None, [output.problem(anew=True)])
    lines = []
    for what, damaged in problems.items():
        whole = sum(output.what == what for output in outputs) - len(damaged)
        more = f", {len(damaged)} damaged or missing" if damaged else ""
        lines.append(f"{what:<24} {whole} whole{more}")
        lines += [f"  {problem}" for problem in first_of(damaged, _SHOWN)]
    if others := files_of_others(study):
        few = ", ".join(first_of(others, 3))
        lines.append(f"{'not of this study':<24} {len(others)}, which nothing reads: {few}")
    return "\n".join(lines), not any(problems.values())


def _check_ran(study: Study) -> None:
    if not Path(study.paths.root).is_dir():
        raise UserError(
            "this study has no results, because it has not run or they were removed",
            where=study.paths.root,
            todo=f"run it: {study.run_command}",
        )


def repair(study: Study, command: Sequence[str]) -> None:
    """Make again what is damaged or missing, rule by rule, and nothing else.

    A step that is made again with an equal result leaves what was made from it valid, but only for
    the next run of Snakemake. So each rule gets a run of its own.

    Args:
        study: The study.
        command: The command that runs Snakemake; targets are appended.

    Raises:
        UserError: The study has no results, a run failed, or something is still damaged.
    """
    _check_ran(study)
    tried: set[Path] = set()
    # After a repair, the files that no step touched are not read again before all else is right.
    while problems := (tried and problems_of(study, anew=False)) or problems_of(study, anew=True):
        rule = min((output.rule for output in problems), key=RULES.index)
        damaged = [output for output in problems if output.rule == rule]
        if tried.issuperset(output.target for output in damaged):
            raise UserError(
                "this is still damaged or missing after it was made again",
                found=problems[damaged[0]],
                todo="read the message of the step above; if there is none, report this",
            )
        for output in damaged:
            _say(problems[output])
            output.remove()
            tried.add(output.target)
        if targets := [str(output.target) for output in damaged if not output.is_cache]:
            _run([*command, *targets])
    _say("The study is whole.")


def _run(command: Sequence[str]) -> None:
    # The summary after each run would only repeat itself.
    done = subprocess.run(command, check=False, env={**os.environ, "MAKELEVEL": "1"})
    if done.returncode:
        raise UserError(
            "the repair stopped",
            found=f"exit status {done.returncode} of {shlex.join(command)}",
            todo="fix the error above, then run the same command again",
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
