"""The files of an audit that are functions of the records."""

import yaml

from freelunch.analysis.pairing import Records
from freelunch.audit.audit import audit_records
from freelunch.audit.cards import card_texts
from freelunch.audit.output_files import (
    AUDIT,
    CONFIG,
    PAGE,
    VERDICTS,
    audit_outputs,
)
from freelunch.audit.page import page_text
from freelunch.core.files import json_text
from freelunch.reporting.results import Results
from freelunch.study.study import Study


def audit_texts(study: Study, records: Records) -> dict[str, str]:
    """Return the content of each file, by its name below the folder of the results.

    The page shows the figures that are there.
    """
    audit = audit_records(study, records, study.paths.records)
    results = Results(study, records, study.paths.records)
    return {
        AUDIT: json_text(audit.as_json()),
        VERDICTS: audit.verdicts,
        CONFIG: config_text(study),
        PAGE: page_text(results, audit, study.paths.root, later=audit_outputs(study)),
        **card_texts(study, records),
    }


def config_text(study: Study) -> str:
    """Return the study that was run, with what it takes from its base and with all defaults."""
    return str(yaml.safe_dump(study.as_json(), sort_keys=False, allow_unicode=True))
