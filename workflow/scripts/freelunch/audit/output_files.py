"""The files that are derived from records (tables, figures, the audit), and their digests.

All names are below the folder of a study's results.
"""

from freelunch.audit.effects import TABLES_OF_CLAIMS, figures_of
from freelunch.core.digest import check_sums, write_sums
from freelunch.records.read import answers_beside
from freelunch.reporting.figures import FORMATS
from freelunch.reporting.tables import DOCUMENTS, all_tables
from freelunch.study.cell import Cell
from freelunch.study.steps import MODEL_CARD
from freelunch.study.study import Study

# The files of the audit; its pages are what was found, and the evidence for it.
AUDIT, VERDICTS = "audit/audit.json", "audit/verdicts.md"
PAGE, EVIDENCE = "audit/index.html", "audit/evidence.html"
# The config that was run.
CONFIG = "audit/run/config.yaml"
AUDIT_FILES = (AUDIT, VERDICTS, PAGE, EVIDENCE, CONFIG)
# Files of digests: of the records and the tables made from them, and of the audit and the other
# files of digests.
TABLE_SUMS, AUDIT_SUMS = "tables/tables.sha256", "audit.sha256"


def figure_sums(name: str) -> str:
    """Return the file with the digests of a figure's files."""
    return f"figures/{name}.sha256"


def card_name(study: Study, cell: Cell) -> str:
    """Return the name of the model card of a cell's checkpoint."""
    folder = study.paths.checkpoint(cell).relative_to(study.paths.root)
    return (folder / MODEL_CARD).as_posix()


def audit_outputs(study: Study) -> list[str]:
    """Return the names of the files that the audit writes."""
    return [*AUDIT_FILES, *(card_name(study, cell) for cell in study.cells)]


def digested(study: Study) -> dict[str, list[str]]:
    """Return the files whose digests each file of digests holds, in the order of their making."""
    records = [study.paths.record(cell).relative_to(study.paths.root) for cell in study.cells]
    tables = [*(table.file for table in all_tables(TABLES_OF_CLAIMS)), *DOCUMENTS]
    shown = {TABLE_SUMS: [*(record.as_posix() for record in records), *tables]}
    for figure in figures_of(study):
        files = [f"figures/{figure.name}.{suffix}" for suffix in ("csv", *FORMATS)]
        shown[figure_sums(figure.name)] = files
    return {**shown, AUDIT_SUMS: [*audit_outputs(study), *shown]}


def own_files(study: Study) -> list[str]:
    """Return the names of a study's records, tables and figures, and of their digests.

    Some may not exist: a cell has answers only if it was asked tasks.
    """
    files = digested(study)
    del files[AUDIT_SUMS]
    answers = [answers_beside(study.paths.record(cell)) for cell in study.cells]
    names = {*files, *(path.relative_to(study.paths.root).as_posix() for path in answers)}
    return sorted(names.union(*files.values()))


def seal(study: Study, sums: str) -> None:
    """Write a file of digests."""
    root = study.paths.root
    write_sums(root / sums, root, [root / name for name in digested(study)[sums]])


def check_sealed(study: Study, sums: str) -> None:
    """Check the files whose digests a file of digests holds. UserError: one of them is not what was
    made.
    """
    check_sums(study.paths.root / sums, study.paths.root, digested(study)[sums])


def check_before_audit(study: Study) -> None:
    """Check the tables and figures that the audit shows, as `check_sealed` does."""
    for sums in digested(study):
        if sums != AUDIT_SUMS:
            check_sealed(study, sums)
