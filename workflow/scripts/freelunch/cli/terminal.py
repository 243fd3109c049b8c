"""What the person at the terminal sees before and after a run."""

import sys
from pathlib import Path

from freelunch.records.read import load_records
from freelunch.reporting.figures import figures_of
from freelunch.study.paths import Paths
from freelunch.study.study import Study

FAILED = (
    "The study stopped. What is finished is kept: mend what the message above says, and the same "
    "command goes on from there."
)


def say(text: str) -> None:
    """Write to the terminal, beside Snakemake's own messages."""
    print(f"\n{text}\n", file=sys.stderr, flush=True)  # noqa: T201


def summary(study: Study) -> str:
    """Return the summary table, where everything is, and what one can do next.

    Raises:
        UserError: A record is missing, or was made with other settings than today's.
    """
    load_records(study)
    paths: Paths = study.paths
    table = (paths.tables / "summary.md").read_text(encoding="utf-8").rstrip()
    places = {
        "table": paths.tables / "summary.csv",
        **{
            f"{figure.name} figure": paths.figures / f"{figure.name}.png"
            for figure in figures_of(study)
        },
        "audit": paths.audit / "index.html",
        "records": paths.records,
        "checkpoints": Path(paths.root) / "checkpoints",
    }
    lines = [table, ""]
    lines += [f"{what:<16} {where}" for what, where in places.items()]
    lines += [
        "",
        "Next: open the audit. `make full` runs the study that carries conclusions. Or edit",
        f"{study.source} and run the same command again: only what depends on it runs.",
    ]
    return "\n".join(lines)
