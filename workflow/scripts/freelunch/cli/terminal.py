"""Messages at the terminal before and after a run."""

import logging
import sys
from collections.abc import Sequence

from freelunch.cli.summary import summary_text
from freelunch.cli.verify import check_whole
from freelunch.records.read import load_records
from freelunch.study.study import Study
from snakemake_logger_plugin_freelunch.story import resume

# Snakemake's logger, which keeps our messages in order with Snakemake's own.
_SNAKEMAKE = logging.getLogger("snakemake.logging")


def say(text: str) -> None:
    """Write to the terminal."""
    print(f"\n{text}\n", file=sys.stderr, flush=True)  # noqa: T201


def tell(event: str, text: str, **found: object) -> None:
    """Write to the terminal and to Snakemake's log, as an event of the run.

    Args:
        event: One of the events of `snakemake_logger_plugin_freelunch.story`.
        text: What is said.
        found: What the event brings along.
    """
    _SNAKEMAKE.info(text, extra={"event": event, **found})


def summary(study: Study) -> str:
    """Return what a finished study found, in at most fifteen lines.

    Raises:
        UserError: A record is missing, or was made with other than the current settings; or
            anything that the study made is damaged or missing.
    """
    records = load_records(study)
    check_whole(study)
    return summary_text(study, records)


def stopped(logs: Sequence[str]) -> str:
    """Return what to do after a run that failed.

    Args:
        logs: Snakemake's logs of the run.
    """
    lines = [
        "The study stopped. Finished steps are kept. Fix any error above, then run the same "
        "command to resume:",
        f"  {resume()}",
        *(f"Snakemake's log: {log}" for log in logs),
    ]
    return "\n".join(lines)
