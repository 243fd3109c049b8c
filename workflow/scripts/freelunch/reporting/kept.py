"""Make the table, the verdicts and the figures in `docs/` from the records that it keeps.

    python -m freelunch.reporting.kept studies/full.yaml docs/full

writes them beside `docs/full/records`. The study need not have run on this machine: a table note
with other words, or a figure with other colours, needs only the records.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from freelunch.analysis.pairing import Records
from freelunch.core.artifact import write_atomically
from freelunch.core.errors import STUDY_VARIABLE, UserError
from freelunch.records.read import load_finished, load_records
from freelunch.reporting.audit.audit import audit_records
from freelunch.reporting.audit.verdict_table import verdict_table
from freelunch.reporting.derived import VERDICTS
from freelunch.reporting.drawing.files import draw_figure
from freelunch.reporting.figures import figures_of
from freelunch.reporting.results import Results
from freelunch.reporting.tables import table_texts
from freelunch.study.pins import with_pins
from freelunch.study.study import Study

RECORDS, SUMMARY, FIGURES = "records", "tables/summary.md", "figures"


def make_kept(study: Study, records: Path, folder: Path, so_far: bool = False) -> None:
    """Write the summary, the verdicts and the figures of a study whose records are kept.

    Args:
        study: The study.
        records: The folder of its records.
        folder: Output folder; existing files are replaced.
        so_far: Whether cells may have no record yet.

    Raises:
        UserError: A record is missing, was altered, or was made with other settings.
    """
    load = load_finished if so_far else lambda *asked: (study, load_records(*asked))
    write_pages(*load(study, records), records, folder)


def write_pages(study: Study, records: Records, source: Path, folder: Path) -> dict[str, Any]:
    """Write the summary, the verdicts and the figures of a study; return its audit.

    Args:
        study: The study.
        records: The record of each of its cells.
        source: The folder that the records were read from.
        folder: Output folder; existing files are replaced.
    """
    audit = audit_records(study, records, source)
    texts = table_texts(Results(study, records, source))
    write_atomically(folder / SUMMARY, texts[SUMMARY])
    write_atomically(folder / VERDICTS, verdict_table(audit))
    with TemporaryDirectory() as data:
        for figure in figures_of(study):
            csv = Path(data) / f"{figure.name}.csv"
            csv.write_text(texts[figure.table.file], encoding="utf-8")
            png = folder / FIGURES / f"{figure.name}.png"
            draw_figure(figure.name, csv, figure.settings(study), [png])
    return audit


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the kept files of one study; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m freelunch.reporting.kept",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", type=Path, help="the study file")
    parser.add_argument("folder", type=Path, help="such as docs/full, which holds records/")
    parser.add_argument(
        "--so-far", action="store_true", help="the study has not finished: some records are missing"
    )
    options = parser.parse_args(arguments)
    # Messages name commands, which are about this study.
    os.environ[STUDY_VARIABLE] = str(options.study)
    try:
        study = with_pins(Study.load(options.study))
        make_kept(study, options.folder / RECORDS, options.folder, options.so_far)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
