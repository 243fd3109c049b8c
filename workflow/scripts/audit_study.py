"""Audit the study: verdicts on the paper's claims, as data and as a page."""

from freelunch.audit.output_checks import audit_texts
from freelunch.audit.output_files import AUDIT_SUMS, check_before_audit, seal
from freelunch.core.files import write_atomically
from freelunch.records.read import load_records
from freelunch.study.study import Study
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake):
        study = Study.check(snakemake.params.config, snakemake.params.source)
        records = load_records(study)
        check_before_audit(study)
        for name, text in audit_texts(study, records).items():
            write_atomically(study.paths.root / name, text)
        seal(study, AUDIT_SUMS)
