"""Messages at the terminal before and after a run."""

import logging
from collections.abc import Sequence
from pathlib import Path

from snakemake_logger_plugin_freelunch.story import INTERRUPTED, resume

# Snakemake's logger, which keeps our messages in order with Snakemake's own.
_SNAKEMAKE = logging.getLogger("snakemake.logging")


def show(text: str) -> None:
    """Write to standard output."""
    print(text, flush=True)  # noqa: T201


def tell(event: str, text: str, **facts: object) -> None:
    """Write to the terminal and to Snakemake's log, as an event of the run.

    Args:
        event: One of the events of `snakemake_logger_plugin_freelunch.story`.
        text: What is said.
        facts: What the event brings along.
    """
    _SNAKEMAKE.info(text, extra={"event": event, **facts})


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
