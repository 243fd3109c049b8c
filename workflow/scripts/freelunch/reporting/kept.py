"""Make what `docs/` shows of a study from the records that it keeps.

    python -m freelunch.reporting.kept studies/full.yaml docs/full

writes the table, the verdicts and the figures beside `docs/full/records`. The study need not have
run here: a table note that is worded anew, or a figure with a new colour, needs the records only.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from freelunch.core.artifact import write_atomically
from freelunch.core.errors import UserError
from freelunch.records.read import load_records
from freelunch.reporting.audit.audit import audit_records
from freelunch.reporting.audit.verdict_table import verdict_table
from freelunch.reporting.figures.budgets import draw_budgets
from freelunch.reporting.figures.criteria import draw_criteria
from freelunch.reporting.figures.drift import draw_drift
from freelunch.reporting.figures.windows import draw_windows
from freelunch.reporting.tables import table_texts
from freelunch.study.study import Study

RECORDS, SUMMARY, VERDICTS, FIGURES = "records", "tables/summary.md", "audit/verdicts.md", "figures"


def make_kept(study: Study, records: Path, folder: Path) -> None:
    """Write the summary, the verdicts and the figures of a study.

    Args:
        study: The study.
        records: The folder of its records.
        folder: Where to write; files that are there are replaced.

    Raises:
        UserError: A record is missing, was altered, or was made with other settings.
    """
    loaded = load_records(study, records)
    audit = audit_records(study, loaded, records)
    texts = table_texts(study, loaded, records)
    write_atomically(folder / SUMMARY, texts["summary_md"])
    write_atomically(folder / VERDICTS, verdict_table(audit["claims"]))
    with TemporaryDirectory() as data:
        for name in ("criteria", "windows", "budgets", "drift"):
            (Path(data) / f"{name}.csv").write_text(texts[f"{name}_csv"])
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)
        _draw(study, Path(data), folder / FIGURES)


def _draw(study: Study, data: Path, folder: Path) -> None:
    """Draw the figures that the study has."""
    names, text = study.config["adaptations"], study.perplexity["text"]["name"]
    if len({cell.pruning for cell in study.cells if not cell.is_dense}) > 1:
        draw_criteria(data / "criteria.csv", names, text, [folder / "criteria.png"])
    if study.compares_windows:
        draw_windows(data / "windows.csv", text, [folder / "windows.png"])
    if study.compares_budgets:
        draw_budgets(data / "budgets.csv", names, study.series, text, [folder / "budgets.png"])
    if "drift" in study.block["evaluation"]:
        draw_drift(data / "drift.csv", names, [folder / "drift.png"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what is kept of one study; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m freelunch.reporting.kept",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", type=Path, help="the study file")
    parser.add_argument("folder", type=Path, help="such as docs/full, which holds records/")
    options = parser.parse_args(arguments)
    try:
        make_kept(Study.load(options.study), options.folder / RECORDS, options.folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
