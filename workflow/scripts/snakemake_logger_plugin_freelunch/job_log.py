"""Read a job's log: how far the job is, and the error that stopped it."""

import os
import re
from pathlib import Path
from typing import NamedTuple

# How much of a log's end is read for its last line.
_TAIL_BYTES = 4096
# A line of a log as `freelunch.core.job` writes it, and the part that says how far the job is.
_LINE = re.compile(r"^[\d-]+ [\d:,]+ (?:INFO|WARNING) freelunch[\w.]*: (.+)$", re.M)
_DONE = re.compile(r"(\d+)/(\d+) ")
# The last lines of a job that stopped: its message, which may have several lines.
_STOPPED = re.compile(
    r"^[\d-]+ [\d:,]+ ERROR freelunch: ((?:error: |interrupted; ).*)\Z", re.M | re.S
)


class Now(NamedTuple):
    """How far a job is.

    Attributes:
        text: Its last line, in its own words.
        share: The share of its work that is done.
    """

    text: str
    share: float


class JobLog:
    """The log of a job that is about to start. What an earlier job wrote there does not count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = _version(path)

    @property
    def has_begun(self) -> bool:
        """Whether the job has written to its log."""
        return _version(self.path) not in (None, self._before)

    def now(self) -> Now | None:
        """Return how far the job is; None if it has said nothing yet."""
        if not self.has_begun:
            return None
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                tail = file.read().decode("utf-8", errors="replace")
        except OSError:
            return None
        lines = _LINE.findall(tail)
        if not lines:
            return None
        counted = [match for line in lines if (match := _DONE.match(line))]
        share = int(counted[-1][1]) / int(counted[-1][2]) if counted else 0.0
        return Now(lines[-1], min(share, 1.0))

    def error(self) -> str | None:
        """Return the message with which the job stopped; None if it stopped without one."""
        if not self.has_begun:
            return None
        said = self.path.read_text(encoding="utf-8", errors="replace")
        found = _STOPPED.search(said)
        return found[1].rstrip().removeprefix("error: ") if found else None


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
