"""Audit the study: verdicts on the paper's claims, as data, as a page and as a crate."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import write_atomically, write_json
from freelunch.core.job import running
from freelunch.records.read import load_records
from freelunch.reporting.audit.audit import audit_records
from freelunch.reporting.audit.crate import METADATA, write_crate
from freelunch.reporting.audit.page import write_page
from freelunch.reporting.audit.verdict_table import verdict_table
from freelunch.reporting.derived import check_before_audit, seal_audit
from freelunch.study.study import Study

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake):
        study = Study.check(snakemake.params.config, snakemake.params.source)
        records = load_records(study)
        check_before_audit(study)
        audit = audit_records(study, records, study.paths.records)
        write_json(Path(snakemake.output.audit), audit)
        write_atomically(Path(snakemake.output.verdicts), verdict_table(audit))
        write_page(study, audit, study.paths.root, later=[METADATA])
        # The crate comes last, because it lists all files of the results.
        write_crate(study, records, study.paths.root)
        seal_audit(
            study, [Path(path) for path in snakemake.output if path != snakemake.output.sums]
        )
