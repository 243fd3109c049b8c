"""The files that are derived from records (tables, figures, the audit), and their digests."""

from freelunch.audit.figures import TABLES_OF_CLAIMS, figures_of
from freelunch.core.digest import check_sums, write_sums
from freelunch.records.read import answers_beside
from freelunch.reporting.figures import FORMATS
from freelunch.reporting.tables import DOCUMENTS, all_tables
from freelunch.study.cell import Cell
from freelunch.study.steps import MODEL_CARD
from freelunch.study.study import Study

# The files of the audit that are functions of the records and figures.
AUDIT, VERDICTS, PAGE = "audit/audit.json", "audit/verdicts.md", "audit/index.html"
APPENDIX, REFORMS = "audit/appendix.md", "audit/reforms.md"
# The crate, and the copies in it of the Snakefile and the config that were run.
METADATA = "ro-crate-metadata.json"
SNAKEFILE, CONFIG = "audit/run/Snakefile", "audit/run/config.yaml"
AUDIT_FILES = (AUDIT, VERDICTS, APPENDIX, REFORMS, PAGE, METADATA, SNAKEFILE, CONFIG)
# Digests of the records that tables were made from, and of the tables.
TABLE_SUMS = "tables/tables.sha256"
# Digests of the audit, and of the other files of digests: those of what it shows.
AUDIT_SUMS = "audit.sha256"


def figure_sums(name: str) -> str:
    """Return the file with the digests of a figure's files, below the folder of the results."""
    return f"figures/{name}.sha256"


def figure_files(name: str) -> list[str]:
    """Return the names of the files whose digests the sums of a figure hold: its data first."""
    return [f"figures/{name}.{suffix}" for suffix in ("csv", *FORMATS)]


def table_names() -> list[str]:
    """Return the names of the tables, below the folder of the results."""
    return [*(table.file for table in all_tables(TABLES_OF_CLAIMS)), *DOCUMENTS]


def table_files(study: Study) -> list[str]:
    """Return the names of the files whose digests TABLE_SUMS holds."""
    records = [study.paths.record(cell).relative_to(study.paths.root) for cell in study.cells]
    return [*(record.as_posix() for record in records), *table_names()]


def own_files(study: Study) -> list[str]:
    """Return the names, below the folder of the results, of a study's records, tables and figures.

    Some may not exist: a cell has answers only if it was asked tasks.
    """
    names = {*table_files(study), TABLE_SUMS}
    for figure in figures_of(study):
        names |= {*figure_files(figure.name), figure_sums(figure.name)}
    for cell in study.cells:
        answers = answers_beside(study.paths.record(cell))
        names.add(answers.relative_to(study.paths.root).as_posix())
    return sorted(names)


def card_name(study: Study, cell: Cell) -> str:
    """Return the name of the model card of a cell's checkpoint."""
    folder = study.paths.checkpoint(cell).relative_to(study.paths.root)
    return (folder / MODEL_CARD).as_posix()


def audit_outputs(study: Study) -> list[str]:
    """Return the names of the files that the audit writes."""
    return [*AUDIT_FILES, *(card_name(study, cell) for cell in study.cells)]


def audit_files(study: Study) -> list[str]:
    """Return the names of the files whose digests AUDIT_SUMS holds: those of the audit first."""
    shown = [TABLE_SUMS, *(figure_sums(figure.name) for figure in figures_of(study))]
    return [*audit_outputs(study), *shown]


def seal_tables(study: Study) -> None:
    """Write the digests of the tables and of the records that they were made from."""
    root = study.paths.root
    write_sums(root / TABLE_SUMS, root, [root / name for name in table_files(study)])


def seal_audit(study: Study) -> None:
    """Write the digests of the audit's files and of the sums of what it shows."""
    root = study.paths.root
    write_sums(root / AUDIT_SUMS, root, [root / name for name in audit_files(study)])


def check_before_audit(study: Study) -> None:
    """Check the tables and figures that the audit shows.

    Raises:
        UserError: One of them is not what was made from the records.
    """
    root = study.paths.root
    check_sums(root / TABLE_SUMS, root, table_files(study))
    for figure in figures_of(study):
        check_sums(root / figure_sums(figure.name), root, figure_files(figure.name))
