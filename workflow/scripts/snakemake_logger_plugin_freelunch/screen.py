"""Show a run: lines, and on a terminal a bar with the running jobs below them.

`Capture` keeps the output of other processes off the screen.
"""

import os
import re
import sys
from pathlib import Path
from typing import IO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from snakemake_logger_plugin_freelunch.story import Story

# How many running jobs are shown at most.
_SHOWN = 8
_COLOURS = {"FAILED": "bold red", "finished": "green", "started": "cyan", "queued": "cyan"}
# The columns of the bar.
_BAR = 30
# What happened to a job, in a line as the story writes it, after the time.
_WHAT = r"(?<=^\d\d-\d\d \d\d:\d\d:\d\d  )\w+"
_OUTPUTS = (1, 2)


class Screen:
    """Shows a story.

    Args:
        story: The run.
        stream: Where to write. On a terminal, a bar and the running jobs stay below the lines.
        colours: Whether there may be colours; `NO_COLOR` turns them off, too.
    """

    def __init__(self, story: Story, stream: IO[str], colours: bool = True) -> None:
        self._story = story
        self._console = Console(file=stream, highlight=False, no_color=None if colours else True)
        self._live: Live | None = None

    def say(self, line: str) -> None:
        """Write a line above the bar."""
        text = Text(line)
        text.highlight_regex(_WHAT, lambda what: _COLOURS.get(what, ""))
        self._console.print(text, soft_wrap=True)

    def show_bar(self) -> None:
        """Show the bar from now on, if this is a terminal."""
        # `FORCE_COLOR` makes rich take a file for a terminal.
        terminal = self._console.file.isatty() and not self._console.is_dumb_terminal
        if self._live is None and terminal:
            self._story.has_bar = True
            self._live = Live(
                get_renderable=self._below,
                console=self._console,
                refresh_per_second=2,
                transient=True,
            )
            self._live.start()

    def hide_bar(self) -> None:
        """Remove the bar."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _below(self) -> RenderableType:
        done, whole = self._story.done()
        bar = Table.grid(padding=(0, 1))
        # Red would look like an error.
        drawn = ProgressBar(
            whole, done, min(_BAR, self._console.width // 3), complete_style="bar.finished"
        )
        bar.add_row(drawn, Text(self._story.progress(), no_wrap=True, overflow="ellipsis"))
        jobs = list(self._story.running.values())
        running = Table.grid(padding=(0, 0, 0, 2))
        # A name is cut rather than what the job says.
        running.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        running.add_column(no_wrap=True, overflow="ellipsis")
        for job in jobs[:_SHOWN]:
            # Without remarks in parentheses.
            running.add_row(Text(job.name), Text(re.sub(r" \([^)]*\)", "", job.now())))
        more = [f"  and {len(jobs) - _SHOWN} more"] if len(jobs) > _SHOWN else []
        return Group(bar, running, *more)


class Capture:
    """A file that receives everything that the processes of jobs write.

    They inherit the file descriptors of this process, which therefore point to the file.

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
