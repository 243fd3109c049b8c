"""Whether what is derived from the records (tables, figures, the audit) is what they give."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from freelunch.core.errors import UserError
from freelunch.core.sums import check_sums
from freelunch.records.made import Made
from freelunch.records.read import load_records
from freelunch.reporting.audit.crate import CONFIG, config_text
from freelunch.reporting.audit.texts import audit_texts
from freelunch.reporting.derived import AUDIT_SUMS, TABLE_SUMS, figure_sums, own_files
from freelunch.reporting.figures import figures_of
from freelunch.reporting.results import Results
from freelunch.reporting.tables import table_texts
from freelunch.study import steps
from freelunch.study.study import Study


def made_from_records(study: Study) -> Iterator[Made]:
    """Yield what rules derive from the records of a study."""
    root = study.paths.root

    def check_tables(anew: bool) -> None:
        check_sums(root / TABLE_SUMS, root)
        if anew:
            results = Results(study, load_records(study), study.paths.records)
            _check_texts(root, table_texts(results))

    sums = root / TABLE_SUMS
    yield Made("tables", steps.BUILD_TABLES, sums, True, check_tables, sums)
    for figure in figures_of(study):
        sums = root / figure_sums(figure.name)

        def check_figure(anew: bool, sums: Path = sums) -> None:
            check_sums(sums, root)

        yield Made("figures", steps.DRAW_FIGURE, sums, True, check_figure, sums)

    def check_audit(anew: bool) -> None:
        check_sums(root / AUDIT_SUMS, root)
        if anew:
            _check_texts(root, audit_texts(study, load_records(study)))

    sums = root / AUDIT_SUMS
    yield Made("audit", steps.AUDIT_STUDY, sums, True, check_audit, sums)


def was_edited(study: Study) -> bool:
    """Return whether the study is another than the one that its last audit is of."""
    path = study.paths.root / CONFIG
    try:
        return path.read_text(encoding="utf-8") != config_text(study)
    except (OSError, UnicodeDecodeError):
        return False


def files_of_others(study: Study) -> list[str]:
    """Return the files among a study's records, tables and figures that are not of the study.

    They may be of cells that it no longer has; nothing reads them.
    """
    root, own = study.paths.root, set(own_files(study))
    names = [
        path.relative_to(root).as_posix()
        for folder in ("records", "tables", "figures")
        for path in sorted((root / folder).rglob("[!.]*"))
        if not path.is_dir()
    ]
    return [name for name in names if name not in own]


def _check_texts(root: Path, texts: Mapping[str, str]) -> None:
    """Refuse files that differ from what the records give, by their names below `root`."""
    for name, text in texts.items():
        if (root / name).read_text(encoding="utf-8") != text:
            raise UserError("this file differs from what the records give", where=root / name)
