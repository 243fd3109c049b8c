"""Send the output of other processes to a file, while this process still writes to the terminal."""

import os
import sys
from pathlib import Path
from typing import IO

_OUTPUTS = (1, 2)


class Capture:
    """A file that receives everything that the processes of jobs write.

    They inherit the file descriptors of this process, which therefore point to the file.

    Args:
        path: The file.

    Attributes:
        terminal: The standard error that this process had before.
    """

    def __init__(self, path: Path) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._before = {output: os.dup(output) for output in _OUTPUTS}
        self._stderr = sys.stderr
        self.terminal: IO[str] = os.fdopen(os.dup(2), "w", 1, sys.stderr.encoding, "replace")
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for output in _OUTPUTS:
            os.dup2(file, output)
        os.close(file)
        # What this process writes in Python is for the person at the terminal.
        sys.stderr = self.terminal

    def end(self) -> None:
        """Give this process its own outputs back."""
        self.terminal.flush()
        sys.stdout.flush()
        sys.stderr = self._stderr
        for output, before in self._before.items():
            os.dup2(before, output)
            os.close(before)
        self.terminal.close()
