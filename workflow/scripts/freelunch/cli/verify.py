"""`verify` and `repair`: whether a study is whole, and making again what is not."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from freelunch.audit.output_checks import check_unedited, files_of_others, made_from_records
from freelunch.core.errors import UserError, first_of, mend
from freelunch.records.made import Made, Problem, problem_of, remove
from freelunch.records.whole import made_by_steps
from freelunch.study.steps import RULES
from freelunch.study.study import Study

_SHOWN = 10


def made_by_study(study: Study) -> Iterator[Made]:
    """Yield all that a study makes, in the order in which it is made."""
    yield from made_by_steps(study)
    yield from made_from_records(study)


def problems_of(study: Study, anew: bool) -> list[Problem]:
    """Return what is damaged or missing, in the order in which it is made.

    Args:
        study: The study.
        anew: Whether to read all files, even those whose digests are known.
    """
    found = (problem_of(made, anew) for made in made_by_study(study))
    return [problem for problem in found if problem is not None]


def check_whole(study: Study) -> None:
    """Check that a finished study is whole, as cheaply as possible.

    Raises:
        UserError: A file is damaged or missing.
    """
    problems = problems_of(study, anew=False)
    if problems:
        found = ", ".join(first_of(problems, 1))
        raise UserError("the results are not whole", found=found, todo=mend())


def verify(study: Study) -> tuple[str, bool]:
    """Read all that a study made; return a line for each kind, and whether all is whole.

    Raises:
        UserError: The study has no results, or was edited since it ran to its end.
    """
    _check_ran(study)
    check_unedited(study)
    lines, whole = [], True
    # Kinds may come in turns, model by model.
    each = [(made, problem_of(made, anew=True)) for made in made_by_study(study)]
    for what in dict.fromkeys(made.what for made, _ in each):
        of_kind = [(made, problem) for made, problem in each if made.what == what]
        problems = [str(problem) for _, problem in of_kind if problem]
        # What is missing and needed has a problem, and so has what something else stands in for.
        removed = sum(problem is None and made.is_removed() for made, problem in of_kind)
        there = len(of_kind) - removed - len(problems)
        line = f"{what:<24} {there} whole"
        line += f", {removed} removed, which steps make again when they need it" if removed else ""
        line += f", {len(problems)} damaged or missing" if problems else ""
        lines += [line, *(f"  {said}" for said in first_of(problems, _SHOWN))]
        whole = whole and not problems
    if others := files_of_others(study):
        few = ", ".join(first_of(others, 3))
        lines.append(f"{'not of this study':<24} {len(others)}, which nothing reads: {few}")
    return "\n".join(lines), whole


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
    _remove_dangling_links(study)
    # After a repair, the files that no step touched are not read again before all else is right.
    while problems := (tried and problems_of(study, anew=False)) or problems_of(study, anew=True):
        rule = min((problem.made.rule for problem in problems), key=RULES.index)
        of_rule = [problem for problem in problems if problem.made.rule == rule]
        if tried.issuperset(problem.made.place for problem in of_rule):
            break
        targets = []
        for problem in of_rule:
            tried.add(problem.made.place)
            _say(str(problem))
            remove(problem)
            targets += [str(problem.made.target)] if problem.made.target else []
        if targets:
            _run([*command, *targets])
    if problems:
        raise UserError(
            "this is still damaged or missing after it was made again",
            found=problems[0],
            todo="read the message of the step above; if there is none, report this",
        )
    _say("The study is whole.")


def _remove_dangling_links(study: Study) -> None:
    """Remove links to nothing, which no step makes, and which Snakemake takes for its outputs."""
    for path in sorted(Path(study.paths.root).rglob("*")):
        if path.is_symlink() and not path.exists():
            _say(f"{path}: a link to nothing")
            path.unlink()


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
