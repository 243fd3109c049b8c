"""Messages at the terminal before and after a run."""

import sys
from pathlib import Path

from freelunch.cli.verify import check_whole
from freelunch.records.read import load_records
from freelunch.reporting.figures import figures_of
from freelunch.study.paths import Paths
from freelunch.study.study import Study

FAILED = (
    "The study stopped. Finished steps are kept. Fix the error above, then run the same command to "
    "resume."
)


def say(text: str) -> None:
    """Write to the terminal, among Snakemake's own messages."""
    print(f"\n{text}\n", file=sys.stderr, flush=True)  # noqa: T201


def summary(study: Study) -> str:
    """Return the summary table, the paths of all results, and suggestions for the next step.

    Raises:
        UserError: A record is missing, or was made with other than the current settings; or
            anything that the study made is damaged or missing.
    """
    load_records(study)
    check_whole(study)
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
        "Next: open the audit, run the study behind the conclusions (`make full`), or edit",
        f"{study.source} and run the same command again: only what depends on the edit runs.",
    ]
    return "\n".join(lines)
