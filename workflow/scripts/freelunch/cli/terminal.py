"""Messages at the terminal before and after a run."""

import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from snakemake_logger_plugin_freelunch.story import INTERRUPTED, resume

# Snakemake's logger, which keeps our messages in order with Snakemake's own.
_SNAKEMAKE = logging.getLogger("snakemake.logging")


def show(text: str) -> None:
    """Write to standard output, in lines that fit the terminal."""
    print(_fitting(text, sys.stdout), flush=True)  # noqa: T201


def _fitting(text: str, stream: IO[str]) -> str:
    columns = width_of(stream)
    return fitted(text, columns) if columns else text


def fitted(text: str, width: int) -> str:
    """Return a text whose lines are broken between words where they exceed a width.

    Lines that are indented by four spaces or more stay whole: they hold what people copy.
    """
    return "\n".join(piece for line in text.split("\n") for piece in _pieces(line, width))


def _pieces(line: str, width: int) -> list[str]:
    if len(line) <= width or line.startswith("    "):
        return [line]
    indent = " " * (2 + len(line) - len(line.lstrip()))
    # Names of models and paths are not broken at their hyphens.
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def width_of(stream: IO[str]) -> int | None:
    """Return how many columns a terminal has; None if this is not a terminal."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def tell(event: str, text: str, **found: object) -> None:
    """Write to the terminal and to Snakemake's log, as an event of the run.

    Args:
        event: One of the events of `snakemake_logger_plugin_freelunch.story`.
        text: What is said.
        found: What the event brings along.
    """
    _SNAKEMAKE.info(_fitting(text, sys.stderr), extra={"event": event, **found})


def stopped(logs: Sequence[str]) -> str:
    """Return what to do after a run that failed or was interrupted.

    Args:
        logs: Snakemake's logs of the run.
    """
    said = "".join(Path(log).read_text(encoding="utf-8") for log in logs)
    why = (
        "The study was interrupted. Nothing is lost.\nThe same command goes on where it stopped:"
        if any(words in said for words in INTERRUPTED)
        else "The study stopped. Finished steps are kept.\n"
        "Fix any error above, then run the same command to resume:"
    )
    return "\n".join([why, f"    {resume()}", *(f"Snakemake's log: {log}" for log in logs)])
