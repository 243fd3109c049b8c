"""The files that are derived from records (tables, figures, the audit), and their digests."""

from collections.abc import Iterable
from pathlib import Path

from freelunch.core.sums import check_sums, write_sums
from freelunch.records.read import answers_beside
from freelunch.reporting.figures import FORMATS, figures_of
from freelunch.reporting.tables import DOCUMENTS, all_tables
from freelunch.study.study import Study

# The files of the audit that are functions of the records.
AUDIT, VERDICTS, PAGE = "audit/audit.json", "audit/verdicts.md", "audit/index.html"
# Digests of the records that tables were made from, and of the tables.
TABLE_SUMS = "tables/tables.sha256"
# Digests of the audit, and of the other files of digests: those of what it shows.
AUDIT_SUMS = "audit.sha256"


def figure_sums(name: str) -> str:
    """Return the file with the digests of a figure's files, below the folder of the results."""
    return f"figures/{name}.sha256"


def own_files(study: Study) -> list[str]:
    """Return the names, below the folder of the results, of a study's records and all derived files
    except the audit's. Some may not exist: a cell has answers only if it was asked tasks.
    """
    root = study.paths.root
    records = [study.paths.record(cell) for cell in study.cells]
    records += [answers_beside(record) for record in records]
    drawn = [figure.name for figure in figures_of(study)]
    return sorted(
        [
            *(record.relative_to(root).as_posix() for record in records),
            *_tables(),
            TABLE_SUMS,
            *(f"figures/{name}.{suffix}" for name in drawn for suffix in FORMATS),
            *map(figure_sums, drawn),
        ]
    )


def seal_tables(study: Study) -> None:
    """Write the digests of the tables and of the records that they were made from."""
    root = study.paths.root
    records = [study.paths.record(cell) for cell in study.cells]
    write_sums(root / TABLE_SUMS, root, [*records, *(root / file for file in _tables())])


def seal_audit(study: Study, files: Iterable[Path]) -> None:
    """Write the digests of the audit's files."""
    root = study.paths.root
    sums = [TABLE_SUMS, *(figure_sums(figure.name) for figure in figures_of(study))]
    write_sums(root / AUDIT_SUMS, root, [*files, *(root / name for name in sums)])


def check_before_audit(study: Study) -> None:
    """Check the tables and figures that the audit shows.

    Raises:
        UserError: One of them is not what was made from the records.
    """
    root = study.paths.root
    check_sums(root / TABLE_SUMS, root)
    for figure in figures_of(study):
        names = [f"figures/{figure.name}.{suffix}" for suffix in ("csv", *FORMATS)]
        check_sums(root / figure_sums(figure.name), root, names)


def _tables() -> list[str]:
    return [*(table.file for table in all_tables()), *DOCUMENTS]
