"""What disks and file systems refuse, in words: what happened, what is kept, what to do."""

import errno
import os
import re
import shutil
from pathlib import Path

from freelunch.core.errors import UserError

_AGAIN = "run the same command again: finished files are kept"
_SPACE = f"free space and {_AGAIN}"
_OWNER = f"make it writable for this user (`ls -ld` shows its owner and mode) and {_AGAIN}"
# What to do, by the number of the error.
_TODO = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: f"raise the limit (`ulimit -f`) or use another file system, and {_AGAIN}",
    errno.EROFS: f"mount it writable and {_AGAIN}",
    errno.EACCES: _OWNER,
    errno.EPERM: _OWNER,
    errno.EIO: f"check the disk, and {_AGAIN}",
    errno.ENAMETOOLONG: f"use a shorter name or a folder higher up, and {_AGAIN}",
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
    if number not in _TODO:
        return None
    named = error.filename if isinstance(error, OSError) else None
    where = path or (Path(os.fsdecode(named)) if isinstance(named, str | bytes) else None)
    found, expected = f"{error}", None
    if _TODO[number] == _SPACE:
        found = f"{_free_megabytes(where)} MB free"
        expected = "room for the next file (`make plan` shows what the study needs)"
    problem = os.strerror(number).lower()
    return UserError(problem, where=where, found=found, expected=expected, todo=_TODO[number])


def _free_megabytes(path: Path | None) -> str:
    """Return the free space where a file is or was to be."""
    absolute = (path or Path()).absolute()
    folder = next(each for each in (absolute, *absolute.parents) if each.is_dir())
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:.0f}"
    except OSError:
        return "an unknown number of"
