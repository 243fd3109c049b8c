"""The files of an audit that are functions of the records."""

from freelunch.analysis.pairing import Records
from freelunch.audit.appendix import appendix_text
from freelunch.audit.audit import audit_records
from freelunch.audit.cards import card_texts
from freelunch.audit.every_eval_ever import evaluation_texts
from freelunch.audit.page import page_text
from freelunch.audit.reforms import reforms_text
from freelunch.audit.verdict_table import verdict_table
from freelunch.core.files import json_text
from freelunch.reporting.derived import APPENDIX, AUDIT, PAGE, REFORMS, VERDICTS, audit_outputs
from freelunch.study.study import Study


def audit_texts(study: Study, records: Records) -> dict[str, str]:
    """Return the content of each file, by its name below the folder of the results.

    The page shows the figures that are there.

    Args:
        study: The study.
        records: The record of each of its cells.
    """
    audit = audit_records(study, records, study.paths.records)
    return {
        AUDIT: json_text(audit),
        VERDICTS: verdict_table(audit),
        APPENDIX: appendix_text(audit),
        REFORMS: reforms_text(audit),
        PAGE: page_text(study, audit, study.paths.root, later=audit_outputs(study)),
        **card_texts(study, records),
        **evaluation_texts(study, records),
    }
