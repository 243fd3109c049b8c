"""Snakemake's logger `freelunch`: what a run shows at the terminal.

`story` turns Snakemake's events into lines, and `screen` draws.

Snakemake finds this package by its name and imports it at every start, in jobs too. The package
therefore imports its parts only when a run needs them, and nothing from `freelunch` at all: the
Snakefile imports that library, from its own folder. With `VERBOSE=1`, Snakemake writes to the
terminal itself.
"""

import logging
import os
import sys
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

from snakemake_interface_logger_plugins.base import LogHandlerBase

if TYPE_CHECKING:
    from snakemake_logger_plugin_freelunch.screen import Capture, Screen


class LogHandler(LogHandlerBase):
    """Handles Snakemake's events, in a thread of their own."""

    # Snakemake writes its log itself, its own filter obeys `--quiet`, and lines are made from
    # events, not from messages.
    writes_to_stream, writes_to_file = True, False
    has_filter, has_formatter, needs_rulegraph = False, True, False

    def __post_init__(self) -> None:
        self.writes_to_stream = not os.environ.get("VERBOSE")
        self._capture: Capture | None = None
        if self.writes_to_stream:
            from snakemake_logger_plugin_freelunch.story import Story

            self._story = Story(self.common_settings.dryrun)
            self._screen = self._on(sys.stdout if self.common_settings.stdout else sys.stderr)

    def _on(self, stream: IO[str]) -> "Screen":
        from snakemake_logger_plugin_freelunch.screen import Screen

        return Screen(self._story, stream, colours=not self.common_settings.nocolor)

    def emit(self, record: logging.LogRecord) -> None:
        """Show an event."""
        if not self.writes_to_stream:
            return
        try:
            lines = list(self._story.tell(record))
            if getattr(record, "event", None) == "run_info" and not self.common_settings.dryrun:
                self._begin()
            if self._story.is_over:
                self._screen.hide_bar()
            for line in lines:
                self._screen.say(line)
        except Exception:
            # As in every logging handler, an error here does not stop the run.
            self.handleError(record)

    def _begin(self) -> None:
        """Keep the output of jobs off the terminal, and show the bar."""
        files = [
            Path(handler.baseFilename)
            for handler in logging.getLogger("snakemake.logging").handlers
            if isinstance(handler, logging.FileHandler)
        ]
        if files and self._capture is None:
            from snakemake_logger_plugin_freelunch.screen import Capture

            self._story.said = files[0].with_suffix(".jobs.log")
            self._capture = Capture(self._story.said)
            self._screen = self._on(self._capture.terminal)
        self._screen.show_bar()

    def close(self) -> None:
        """Show a dry run's jobs and errors that have not been shown; give the terminal back."""
        if self.writes_to_stream:
            self._screen.hide_bar()
            for line in chain(self._story.would_run(), self._story.errors()):
                self._screen.say(line)
        if self._capture is not None:
            self._capture.end()
            self._capture = None
        super().close()
