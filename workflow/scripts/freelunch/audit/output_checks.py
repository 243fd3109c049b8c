"""Whether what is derived from the records (tables, figures, the audit) is what they give."""

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence

import yaml

from freelunch.audit.crate import config_text
from freelunch.audit.figures import TABLES_OF_CLAIMS, figures_of
from freelunch.audit.output_files import (
    AUDIT_SUMS,
    CONFIG,
    PAGE,
    TABLE_SUMS,
    audit_files,
    audit_outputs,
    figure_files,
    figure_sums,
    own_files,
    table_files,
)
from freelunch.audit.texts import audit_texts
from freelunch.core.digest import check_sums
from freelunch.core.errors import UserError
from freelunch.records.integrity import Output
from freelunch.records.read import differences, load_records
from freelunch.reporting.results import Results
from freelunch.reporting.tables import table_texts
from freelunch.study import steps
from freelunch.study.study import Study


def made_from_records(study: Study) -> Iterator[Output]:
    """Yield what rules derive from the records of a study."""

    def tables() -> dict[str, str]:
        results = Results(study, load_records(study), study.paths.records)
        return table_texts(results, TABLES_OF_CLAIMS)

    def audit() -> dict[str, str]:
        return audit_texts(study, load_records(study))

    yield _output(study, "tables", steps.BUILD_TABLES, TABLE_SUMS, table_files(study), tables)
    for figure in figures_of(study):
        sums, files = figure_sums(figure.name), figure_files(figure.name)
        yield _output(study, "figures", steps.DRAW_FIGURE, sums, files)
    yield _output(study, "audit", steps.AUDIT_STUDY, AUDIT_SUMS, audit_files(study), audit)


def _output(
    study: Study,
    what: str,
    rule: str,
    sums: str,
    files: Sequence[str],
    texts: Callable[[], Mapping[str, str]] = dict,
) -> Output:
    """Return what a rule derives.

    Args:
        study: The study; all names are below the folder of its results.
        what: What it is, in the plural.
        rule: The rule.
        sums: The file of digests.
        files: The files with a digest in it.
        texts: Returns what the records give for those that are functions of them.
    """
    root = study.paths.root

    def check(anew: bool) -> None:
        check_sums(root / sums, root, files)
        for name, text in texts().items() if anew else ():
            if (root / name).read_text(encoding="utf-8") != text:
                raise UserError("this file differs from what the records give", where=root / name)

    return Output(what, rule, root / sums, check)


def check_finished(study: Study) -> None:
    """Refuse a study that has not run to its end as it is now; a damaged one passes.

    Raises:
        UserError: It has no audit yet, or was edited since.
    """
    if not (study.paths.root / PAGE).is_file():
        raise UserError(
            "this study has no audit yet, because it has not run to its end",
            where=study.source,
            todo=f"run it: {study.run_command}; or see the results of its finished cells: "
            f"{study.command('interim')}",
        )
    check_unedited(study)


def check_unedited(study: Study) -> None:
    """Refuse a study that is another than the one that its last audit is of.

    What was made before an edit is not damaged, so it needs no repair.

    Raises:
        UserError: The study was edited, or another part of it was run; the message names a setting.
    """
    root = study.paths.root
    try:
        check_sums(root / AUDIT_SUMS, root, [CONFIG], others=True)
    except UserError:
        # What is damaged or missing does not say what was run.
        return
    ran = (root / CONFIG).read_text(encoding="utf-8")
    if ran == config_text(study):
        return
    unlike = [*differences(yaml.safe_load(ran), study.as_json())]
    # Otherwise, entries are in another order, which tables and figures follow.
    key, found, expected = unlike[0] if unlike else ("the order of entries", "old", "new")
    more = f" ({len(unlike)} settings differ)" if len(unlike) > 1 else ""
    raise UserError(
        f"the study was edited, or another part of it was chosen, since it ran to its end{more}",
        where=root / CONFIG,
        found=f"{key} = {_shortened(found)}",
        expected=f"{key} = {_shortened(expected)}, as in {study.source}",
        todo=f"run it, which computes only what depends on the edit: {study.run_command}",
    )


def _shortened(value: object) -> str:
    return textwrap.shorten(json.dumps(value), 200, placeholder=" ...")


def files_of_others(study: Study) -> list[str]:
    """Return the files among a study's records, tables, figures and audit that are not of it.

    They may be of cells that it no longer has; nothing reads them.
    """
    root, own = study.paths.root, {*own_files(study), *audit_outputs(study)}
    names = [
        path.relative_to(root).as_posix()
        for folder in ("records", "tables", "figures", "audit")
        for path in sorted((root / folder).rglob("[!.]*"))
        if not path.is_dir()
    ]
    return [name for name in names if name not in own]
