"""Make the table, the verdicts and the figures in `docs/` from the records that it keeps.

    python -m freelunch.audit.rebuild_docs studies/full.yaml docs/full

writes them beside `docs/full/records`. The study need not have run on this machine: a table note
with other words, or a figure with other colours, needs only the records.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from freelunch.analysis.pairing import Records
from freelunch.audit.audit import Audit, audit_records
from freelunch.audit.figures import TABLES_OF_CLAIMS, figures_of
from freelunch.audit.output_files import VERDICTS
from freelunch.core.errors import STUDY_VARIABLE, UserError
from freelunch.core.files import write_atomically
from freelunch.records.read import load_finished, load_records
from freelunch.reporting.drawing.figure_files import draw_figure
from freelunch.reporting.results import Results
from freelunch.reporting.tables import table_texts
from freelunch.study.pins import with_pins
from freelunch.study.study import Study

RECORDS, SUMMARY, FIGURES = "records", "tables/summary.md", "figures"


def rebuild_docs(study: Study, records: Path, folder: Path, so_far: bool = False) -> None:
    """Write the summary, the verdicts and the figures of a study whose records are kept.

    Args:
        study: The study.
        records: The folder of its records.
        folder: Output folder; existing files are replaced.
        so_far: Whether cells may have no record yet.

    Raises:
        UserError: A record is missing, was altered, or was made with other settings.
    """
    study, loaded = read_kept(study, records, so_far)
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_results(study, loaded, records, root, [".png"])
        for path in (root / SUMMARY, root / VERDICTS, *(root / FIGURES).glob("*.png")):
            write_atomically(folder / path.relative_to(root), path.read_bytes())


def read_kept(study: Study, records: Path, so_far: bool) -> tuple[Study, Records]:
    """Return a study and the records of its cells; of those that have one, if this is so far.

    Args and errors are those of `rebuild_docs`.
    """
    if so_far:
        known = load_finished(study, records)
        return known.study, known.records
    return study, load_records(study, records)


def write_results(
    study: Study, records: Records, source: Path, folder: Path, formats: Sequence[str]
) -> Audit:
    """Write the tables, the figures and the verdicts of a study; return its audit.

    Args:
        study: The study.
        records: The record of each of its cells.
        source: The folder that the records were read from.
        folder: Output folder; existing files are replaced.
        formats: Suffixes of the figures' files.
    """
    audit = audit_records(study, records, source)
    texts = table_texts(Results(study, records, source), TABLES_OF_CLAIMS)
    for name, text in {**texts, VERDICTS: audit.verdicts}.items():
        write_atomically(folder / name, text)
    for figure in figures_of(study):
        outputs = [folder / FIGURES / f"{figure.name}{suffix}" for suffix in formats]
        draw_figure(figure.drawing, folder / figure.table.file, figure.settings(study), outputs)
    return audit


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the kept files of one study; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m freelunch.audit.rebuild_docs",
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
        rebuild_docs(study, options.folder / RECORDS, options.folder, options.so_far)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
