"""Whether what is derived from the records (tables, figures, the audit) is what they give."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from freelunch.core.errors import UserError
from freelunch.core.sums import check_sums, write_sums
from freelunch.records.made import Made
from freelunch.records.read import load_records
from freelunch.reporting.figures import FORMATS, figures_of
from freelunch.reporting.results import Results
from freelunch.reporting.tables import DOCUMENTS, all_tables, table_texts
from freelunch.study import steps
from freelunch.study.study import Study

# Digests of the records that tables were made from, and of the tables.
TABLE_SUMS = "tables/tables.sha256"
# Digests of the audit, and of the other files of digests: those of what it shows.
AUDIT_SUMS = "audit.sha256"


def figure_sums(name: str) -> str:
    """Return the file with the digests of a figure's files, below the folder of the results."""
    return f"figures/{name}.sha256"


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


def made_from_records(study: Study) -> Iterator[Made]:
    """Yield what rules derive from the records of a study."""
    root = study.paths.root

    def check_tables(anew: bool) -> None:
        check_sums(root / TABLE_SUMS, root)
        if anew:
            results = Results(study, load_records(study), study.paths.records)
            for file, text in table_texts(results).items():
                if (root / file).read_text(encoding="utf-8") != text:
                    raise UserError("a table differs from the records", where=root / file)

    yield Made(
        "tables", steps.BUILD_TABLES, root / TABLE_SUMS, True, check_tables, root / TABLE_SUMS
    )
    for figure in figures_of(study):
        sums = root / figure_sums(figure.name)

        def check_figure(anew: bool, sums: Path = sums) -> None:
            check_sums(sums, root)

        yield Made("figures", steps.DRAW_FIGURE, sums, True, check_figure, sums)

    audit = root / AUDIT_SUMS

    def check_audit(anew: bool) -> None:
        check_sums(audit, root)

    yield Made("audit", steps.AUDIT_STUDY, audit, True, check_audit, audit)


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
