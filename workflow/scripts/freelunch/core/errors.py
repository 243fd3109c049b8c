"""The one exception for everything that a user can fix, and phrases that its messages share."""

import os
import shlex
from collections.abc import Iterable
from difflib import get_close_matches

DEFAULT_STUDY = "config.yaml"
# Exit status of a process of ours that prints a UserError for the process that started it.
REFUSED = 3
# The environment variables with the study's file, and with the part of it that is run. A process
# that is about one study sets them, and its jobs inherit them, so that the commands in their
# messages are about the same study.
STUDY_VARIABLE = "FREELUNCH_STUDY"
PART_VARIABLE = "FREELUNCH_PART"


class UserError(Exception):
    """Stop with one message that says what is wrong, where, and what to do about it.

    Args:
        problem: What is wrong, as one sentence.
        where: The file, and the key or member in it, where the problem is.
        found: What was found there.
        expected: What was expected instead.
        todo: What the user can do.
        instead: What fits in the place of what was given, if it is known.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        todo: str | None = None,
        instead: object = None,
    ) -> None:
        self.problem, self.where, self.found = problem, where, found
        self.expected, self.todo, self.instead = expected, todo, instead
        lines = [f"{where}: {problem}" if where is not None else problem]
        lines += [f"  found:    {found}"] if found is not None else []
        lines += [f"  expected: {expected}"] if expected is not None else []
        lines += [f"  to do:    {todo}"] if todo is not None else []
        super().__init__("\n".join(lines))


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a phrase that lists the valid names, the nearest to `name` first."""
    names = sorted(valid)
    close = get_close_matches(name, names, n=1)
    listed = ", ".join(names) if names else "none is defined"
    return f"{close[0]} (nearest) out of: {listed}" if close else f"one of: {listed}"


def first_of(items: Iterable[object], most: int = 5) -> list[str]:
    """Return the first items as text, and how many more there are."""
    texts = [*map(str, items)]
    more = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return [*texts[:most], *more]


def first_line(error: Exception) -> str:
    """Return the class of an exception and the first line of what it says, with the next one if it
    only announces that.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return f"{type(error).__name__}: {said[:300]}" if lines else type(error).__name__


def mend() -> str:
    """Return what to do about a damaged or missing file that a step of the study makes."""
    return (
        f"run `make repair STUDY={_study()}`, which runs again the steps whose files are damaged "
        "and nothing else; then run the same command as before"
    )


def run_again(*rules: str) -> str:
    """Return what to do so that rules of the study run again, with all that follows from them."""
    forced = " ".join(rules)
    make = f"make study STUDY={_study()} FORCE={shlex.quote(forced)}"
    return f"run `{make}`, or your Snakemake command with `--forcerun {forced} --`"


def pin_again() -> str:
    """Return what to do so that the study has the newest commits where it has no pins."""
    return f"run `make pin STUDY={_study()}`, which pins the newest commit"


def _study() -> str:
    file = shlex.quote(os.environ.get(STUDY_VARIABLE, DEFAULT_STUDY))
    return file + os.environ.get(PART_VARIABLE, "")
