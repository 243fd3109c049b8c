"""Make the table, the verdicts and the figures in `docs/` from the records that it keeps.

    python -m freelunch.audit.rebuild_docs studies/full.yaml docs/full

writes them beside `docs/full/records`. The study need not have run on this machine: a table note
with other words, or a figure with other colours, needs only the records.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from freelunch.analysis.pairing import Records
from freelunch.audit.audit import Audit, audit_records
from freelunch.audit.effects import TABLES_OF_CLAIMS, figures_of
from freelunch.audit.output_files import VERDICTS
from freelunch.core.errors import STUDY_VARIABLE, UserError
from freelunch.core.files import write_atomically
from freelunch.records.read import load_records
from freelunch.reporting.drawing.style import draw_figure
from freelunch.reporting.results import Results
from freelunch.reporting.tables import table_texts
from freelunch.study.pins import with_pins
from freelunch.study.study import Study

RECORDS, SUMMARY, FIGURES = "records", "tables/summary.md", "figures"
# README and the first page of the documentation show those of one study.
FINDINGS = "audit/findings.md"


def write_results(
    study: Study, records: Records, source: Path, folder: Path, formats: Sequence[str]
) -> Audit:
    """Write the tables, the figures (in these formats, which are suffixes) and the verdicts of a
    study to a folder, and return its audit. The records were read from the folder `source`.
    """
    audit = audit_records(study, records, source)
    texts = table_texts(Results(study, records, source), TABLES_OF_CLAIMS)
    for name, text in {**texts, VERDICTS: audit.verdicts, FINDINGS: f"{audit.findings}\n"}.items():
        write_atomically(folder / name, text)
    # Without a row of data, a figure only says that there is nothing to draw.
    for figure in (each for each in figures_of(study) if texts[each.table.file].count("\n") > 1):
        outputs = [folder / FIGURES / f"{figure.name}{suffix}" for suffix in formats]
        draw_figure(figure.drawing, folder / figure.table.file, figure.settings(study), outputs)
    return audit


if __name__ == "__main__":
    file, kept = map(Path, sys.argv[1:])
    # Messages name commands, which are about this study.
    os.environ[STUDY_VARIABLE] = str(file)
    try:
        study = with_pins(Study.load(file))
        records = load_records(study, kept / RECORDS)
        with TemporaryDirectory() as scratch:
            root = Path(scratch)
            write_results(study, records, kept / RECORDS, root, [".png"])
            texts = (SUMMARY, VERDICTS, FINDINGS)
            for path in (*map(root.joinpath, texts), *(root / FIGURES).glob("*.png")):
                write_atomically(kept / path.relative_to(root), path.read_bytes())
    except UserError as error:
        sys.exit(f"error: {error}")
