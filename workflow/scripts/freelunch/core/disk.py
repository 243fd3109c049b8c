"""What disks and file systems refuse, in words: what happened, what is kept, what to do."""

import errno
import os
import re
import shutil
from pathlib import Path

from freelunch.core.errors import UserError

_SPACE = "free space and run the same command again: finished files are kept"
_OWNER = "make it writable for this user (`ls -ld` shows its owner and mode)"
# By the number of the error: what happened, and what to do about it.
_REFUSALS = {
    errno.ENOSPC: ("no space left on the device", _SPACE),
    errno.EDQUOT: ("no space left on the device: the disk quota is used up", _SPACE),
    errno.EFBIG: (
        "the file is larger than this file system or this user's limit allows",
        "raise the limit (`ulimit -f`) or use another file system, and run the same command again:"
        " finished files are kept",
    ),
    errno.EROFS: (
        "the file system is read-only",
        "mount it writable and run the same command again: finished files are kept",
    ),
    errno.EACCES: (
        "permission denied",
        f"{_OWNER} and run the same command again: finished files are kept",
    ),
    errno.EPERM: (
        "the operation is not permitted",
        f"{_OWNER} and run the same command again: finished files are kept",
    ),
    errno.EIO: (
        "the disk cannot be read or written",
        "check the disk; then run the same command again: finished files are kept",
    ),
    errno.ENAMETOOLONG: (
        "the name of a file is too long for this file system",
        "use a shorter name or a folder higher up, and run the same command again",
    ),
}
# safetensors reports the number as text only.
_NUMBER = re.compile(r"(?:os error|code:) (\d+)\b")


def disk_error(error: BaseException, path: Path | None = None) -> UserError | None:
    """Return the one error for what a disk or file system refused; None for any other error.

    Args:
        error: What was raised.
        path: The file that was to be read or written; None if only the error knows it.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := _NUMBER.search(str(error))):
        number = int(match[1])
    if number not in _REFUSALS:
        return None
    named = error.filename if isinstance(error, OSError) else None
    where = path or (Path(os.fsdecode(named)) if isinstance(named, str | bytes) else None)
    problem, todo = _REFUSALS[number]
    room = todo == _SPACE
    return UserError(
        problem,
        where=where,
        found=f"{_free_megabytes(where)} MB free" if room else error,
        expected="room for the next file (`make plan` shows what the study needs)"
        if room
        else None,
        todo=todo,
    )


def _free_megabytes(path: Path | None) -> str:
    """Return the free space where a file is or was to be."""
    folder = (path or Path()).absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:.0f}"
    except OSError:
        return "an unknown number of"
