"""Show a run: lines, and on a terminal a bar with the running jobs below them.

`Capture` keeps the output of other processes off the screen.
"""

import os
import re
import sys
from collections.abc import Iterator
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
# The columns of the bar, and those that a job's name keeps beside how far the job is.
_BAR, _LEAST_NAME = 30, 20
# A job's line as the story writes it: its time, and what happened.
_JOB_LINE = re.compile(r"\d\d-\d\d \d\d:\d\d:\d\d  (\w+)")
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
        job_line = _JOB_LINE.match(line)
        if job_line and job_line[1] in _COLOURS:
            text.stylize(_COLOURS[job_line[1]], *job_line.span(1))
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
        return Group(bar, *self._running())

    def _running(self) -> Iterator[Text]:
        jobs = list(self._story.running.values())
        shown = [(job.name, _brief(job.now().text)) for job in jobs[:_SHOWN]]
        # A name is cut rather than what the job says.
        room = self._console.width - 4 - max((len(said) for _, said in shown), default=0)
        longest = max((len(name) for name, _ in shown), default=0)
        width = min(longest, max(_LEAST_NAME, room))
        for name, said in shown:
            cut = name if len(name) <= width else f"{name[: width - 1]}\u2026"
            yield Text(f"  {cut:<{width}}  {said}", no_wrap=True, overflow="ellipsis")
        if len(jobs) > _SHOWN:
            yield Text(f"  and {len(jobs) - _SHOWN} more")


def _brief(text: str) -> str:
    """Return how far a job says it is, without remarks in parentheses."""
    return re.sub(r" \([^)]*\)", "", text)


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
