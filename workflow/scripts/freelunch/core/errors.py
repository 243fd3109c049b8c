"""The one exception for everything that a user can fix, and phrases that its messages share."""

import errno
import os
import re
import shlex
import shutil
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

DEFAULT_STUDY = "config.yaml"
# Exit status of a process of ours that prints a UserError for the process that started it.
REFUSED = 3
# The environment variables with the study's file, and with the part of it that is run. A process
# that is about one study sets them, and its jobs inherit them, so that the commands in their
# messages are about the same study.
STUDY_VARIABLE = "FREELUNCH_STUDY"
PART_VARIABLE = "FREELUNCH_PART"

_AGAIN = "run the same command again: finished files are kept"
_SPACE = f"free space and {_AGAIN}"
_OWNER = f"make it writable for this user (`ls -ld` shows its owner and mode) and {_AGAIN}"
# What to do about what a disk or file system refuses, by the number of the error.
_TODO = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: f"raise the limit (`ulimit -f`) or use another file system, and {_AGAIN}",
    errno.EROFS: f"mount it writable and {_AGAIN}",
    errno.EACCES: _OWNER,
    errno.EPERM: _OWNER,
    errno.EEXIST: f"rename it, since a folder of this name is needed, and {_AGAIN}",
    errno.EIO: f"check the disk, and {_AGAIN}",
    errno.ENAMETOOLONG: f"use a shorter name or a folder higher up, and {_AGAIN}",
}


class UserError(Exception):
    """Stop with one message that says what is wrong, where, and what to do about it.

    Args:
        problem: What is wrong, as one sentence.
        where: The file, and the key or member in it, where the problem is.
        found: What was found there.
        expected: What was expected instead.
        todo: What the user can do.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        todo: str | None = None,
    ) -> None:
        self.problem, self.where, self.found = problem, where, found
        self.expected, self.todo = expected, todo
        details = {"found:": found, "expected:": expected, "to do:": todo}
        lines = [problem if where is None else f"{where}: {problem}"]
        lines += [f"  {key:<9} {text}" for key, text in details.items() if text is not None]
        super().__init__("\n".join(lines))


def disk_error(error: BaseException, path: Path | None = None) -> UserError | None:
    """Return the one error for what a disk or file system refused; None for any other error.

    Args:
        error: What was raised.
        path: The file that was to be read or written; None if only the error knows it.
    """
    number, named = None, None
    if isinstance(error, OSError):
        number, named = error.errno, error.filename
    # safetensors reports the number as text only.
    if number is None and (match := re.search(r"(?:os error|code:) (\d+)\b", str(error))):
        number = int(match[1])
    if number not in _TODO:
        return None
    where = path or (Path(os.fsdecode(named)) if isinstance(named, str | bytes) else None)
    found, expected = f"{error}", None
    if _TODO[number] == _SPACE:
        absolute = (where or Path()).absolute()
        folder = next(each for each in (absolute, *absolute.parents) if each.is_dir())
        found = f"{shutil.disk_usage(folder).free / 1e6:.0f} MB free"
        expected = "room for the next file (`make plan` shows what the study needs)"
    problem = os.strerror(number).lower()
    return UserError(problem, where=where, found=found, expected=expected, todo=_TODO[number])


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a phrase that lists the valid names, the nearest to `name` first."""
    names = sorted(valid)
    close = get_close_matches(name, names, n=1)
    listed = ", ".join(names) if names else "none is defined"
    return f"{close[0]} (nearest) out of: {listed}" if close else f"one of: {listed}"


def first_of(items: Iterable[object], most: int = 5) -> list[str]:
    """Return the first items as text, and how many more there are; one more is shown."""
    texts = [*map(str, items)]
    if len(texts) <= most + 1:
        return texts
    return [*texts[:most], f"and {len(texts) - most} more"]


def first_line(error: Exception) -> str:
    """Return an error's class and the first line that it says, and the next if that is a title."""
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
