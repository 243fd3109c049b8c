"""What is derived from the records (tables, figures, the audit), and whether it is that."""

import json
from collections.abc import Iterator, Mapping
from functools import partial

import yaml

from freelunch.analysis.pairing import Records
from freelunch.audit import output_files
from freelunch.audit.audit import audit_records
from freelunch.audit.cards import card_texts
from freelunch.audit.effects import TABLES_OF_CLAIMS
from freelunch.audit.page import page_texts
from freelunch.core.digest import check_sums
from freelunch.core.errors import UserError
from freelunch.core.files import json_text
from freelunch.records.integrity import Output
from freelunch.records.read import differences, load_records
from freelunch.reporting.results import Results
from freelunch.reporting.tables import table_texts
from freelunch.study import steps
from freelunch.study.study import Study

# What a file of digests is about, and the rule that writes it; the others are those of figures.
_RULES = {
    output_files.TABLE_SUMS: ("tables", steps.BUILD_TABLES),
    output_files.AUDIT_SUMS: ("audit", steps.AUDIT_STUDY),
}


def audit_texts(study: Study, records: Records) -> dict[str, str]:
    """Return the content of each file, by its name below the folder of the results.

    The pages show the figures that are there.
    """
    audit = audit_records(study, records, study.paths.records)
    results = Results(study, records, study.paths.records)
    return {
        output_files.AUDIT: json_text(audit.as_json()),
        output_files.VERDICTS: audit.verdicts,
        output_files.CONFIG: config_text(study),
        **page_texts(results, audit, study.paths.root, later=output_files.audit_outputs(study)),
        **card_texts(study, records),
    }


def config_text(study: Study) -> str:
    """Return the study that was run, with what it takes from its base and with all defaults."""
    return str(yaml.safe_dump(study.as_json(), sort_keys=False, allow_unicode=True))


def made_from_records(study: Study) -> Iterator[Output]:
    """Yield what rules derive from the records of a study."""
    for sums in output_files.digested(study):
        what, rule = _RULES.get(sums, ("figures", steps.DRAW_FIGURE))
        yield Output(what, rule, study.paths.root / sums, partial(_check, study, sums))


def _check(study: Study, sums: str, anew: bool) -> None:
    """Check files by their digests; `anew`, compare texts with what the records give, too."""
    output_files.check_sealed(study, sums)
    texts: Mapping[str, str] = {}
    if anew and sums == output_files.TABLE_SUMS:
        results = Results(study, load_records(study), study.paths.records)
        texts = table_texts(results, TABLES_OF_CLAIMS)
    elif anew and sums == output_files.AUDIT_SUMS:
        texts = audit_texts(study, load_records(study))
    for name, text in texts.items():
        path = study.paths.root / name
        if path.read_text(encoding="utf-8") != text:
            raise UserError("this file differs from what the records give", where=path)


def check_finished(study: Study) -> None:
    """Refuse a study that has not run to its end as it is now; a damaged one passes. UserError: it
    has no audit yet, or was edited since.
    """
    if not (study.paths.root / output_files.PAGE).is_file():
        raise UserError(
            "this study has no audit yet, because it has not run to its end",
            where=study.source,
            todo=f"run it: {study.command()}; or see the results of its finished cells: "
            f"{study.command('interim')}",
        )
    check_unedited(study)


def check_unedited(study: Study) -> None:
    """Refuse a study that is another than the one that its last audit is of.

    What was made before an edit is not damaged, so it needs no repair. UserError: the study was
    edited, or another part of it was run; the message names a setting.
    """
    root = study.paths.root
    try:
        check_sums(root / output_files.AUDIT_SUMS, root, [output_files.CONFIG], others=True)
    except UserError:
        # What is damaged or missing does not say what was run.
        return
    ran = (root / output_files.CONFIG).read_text(encoding="utf-8")
    if ran == config_text(study):
        return
    unlike = [*differences(yaml.safe_load(ran), study.as_json())]
    # Otherwise, entries are in another order, which tables and figures follow.
    key, *values = unlike[0] if unlike else ("the order of entries", "old", "new")
    found, expected = (f"{key} = {json.dumps(value)[:200]}" for value in values)
    more = f" ({len(unlike)} settings differ)" if len(unlike) > 1 else ""
    raise UserError(
        f"the study was edited, or another part of it was chosen, since it ran to its end{more}",
        where=root / output_files.CONFIG,
        found=found,
        expected=f"{expected}, as in {study.source}",
        todo=f"run it, which computes only what depends on the edit: {study.command()}",
    )
